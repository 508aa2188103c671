"""Times of arrival, and how well they are known."""

import json

import numpy as np
import pytest
from heimdall_features import (
    ARRIVAL_COLUMNS,
    ArrivalConfig,
    ArrivalExtractor,
    ClockedRecording,
    FeatureError,
)
from heimdall_features.testing import delayed, noise
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
NAMES = ("A", "B", "C", "D")
CONFIG = ArrivalConfig(receivers=NAMES, baseline_m=130e3, bandwidth_hz=20e3)
EXTRACT = ArrivalExtractor(CONFIG)
HEARD, ARRIVAL, SIGMA, SNR, MISFIT = range(5)
few = settings(max_examples=10)


def channel_noise(rng, n_samples, width_hz=12e3):
    """A waveform as wide as a channel."""
    spectrum = np.fft.fft(noise(rng, n_samples))
    spectrum[np.abs(np.fft.fftfreq(n_samples, 1 / RATE_HZ)) > width_hz / 2] = 0
    waveform = np.fft.ifft(spectrum)
    return waveform / np.sqrt(np.mean(np.abs(waveform) ** 2))


def at_receivers(delays_s, *, snr_db=20.0, offsets_hz=(0, 0, 0, 0), seed=0, n_samples=24_000):
    """One transmission as four receivers hear it: late, off frequency, at any phase, noisy."""
    rng = np.random.default_rng(seed)
    waveform, time_s, heard = channel_noise(rng, n_samples), np.arange(n_samples) / RATE_HZ, {}
    for name, delay_s, offset_hz in zip(NAMES, delays_s, offsets_hz, strict=True):
        turn = np.exp(2j * np.pi * (offset_hz * time_s + rng.uniform()))
        own = 10 ** (-snr_db / 20) * noise(rng, n_samples)
        iq = delayed(waveform, delay_s, RATE_HZ) * turn + own
        heard[name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ)
    return heard


def sigmas_off(rows, delays_s):
    """By how many of its own sigmas each arrival is wrong, the common zero taken out."""
    error_us = rows[:, ARRIVAL] - 1e6 * np.array(delays_s)
    error_us -= np.average(error_us, weights=rows[:, SIGMA] ** -2.0)
    return error_us / rows[:, SIGMA]


delays = st.tuples(*[st.floats(-200e-6, 200e-6)] * 4)
offsets = st.tuples(*[st.floats(-300, 300)] * 4)


@few
@given(delays, offsets, st.integers(0, 1000))
def test_arrivals_are_found_to_within_what_is_claimed(delays_s, offsets_hz, seed):
    """Whatever delays, carriers and phases: 5 sigmas are never seen by chance."""
    rows = EXTRACT(at_receivers(delays_s, offsets_hz=offsets_hz, seed=seed))
    assert rows[:, HEARD].all()
    assert np.abs(sigmas_off(rows, delays_s)).max() < 5


@pytest.mark.parametrize("snr_db", [-3.0, 10.0, 30.0])
def test_the_claim_is_neither_modest_nor_bold(snr_db):
    """Chi-square over its degrees of freedom, over many sessions, is about 1."""
    delays_s = (0.0, 31e-6, -83e-6, 150e-6)
    squares = [
        np.sum(sigmas_off(EXTRACT(at_receivers(delays_s, snr_db=snr_db, seed=s)), delays_s) ** 2)
        for s in range(12)
    ]
    assert 0.5 < np.mean(squares) / 3 < 1.8


def test_the_bound_of_hahn_and_tretter_is_reached():
    """The claim itself: two pi times the rms bandwidth, the SNR, and the time, as in theory."""
    rows = EXTRACT(at_receivers((0.0, 0.0, 0.0, 0.0), snr_db=20.0))
    snr_in_channel = 100 * RATE_HZ / 12e3
    information = 2 * 6_000 * (2 * np.pi) ** 2 * 12e3**2 / 12 * snr_in_channel
    assert rows[:, SIGMA] == pytest.approx(1e6 / np.sqrt(information), rel=0.1)


@settings(max_examples=5)
@given(st.floats(-0.2, 0.2), st.floats(-3e-5, 3e-5))
def test_start_times_and_true_rates_are_taken_out(start_s, slip):
    """Recordings start when they start, and no two clocks run alike: 30 ppm are 15 us here."""
    rng = np.random.default_rng(3)
    tones_hz, phases = rng.uniform(-6e3, 6e3, 250), rng.uniform(0, 2 * np.pi, 250)

    def recording(start_s, rate_hz, late_s):
        time_s = start_s - late_s + np.arange(24_000) / rate_hz
        waveform = np.exp(2j * np.pi * np.outer(time_s, tones_hz)) @ np.exp(1j * phases)
        iq = (waveform / 16 + 0.01 * noise(rng, 24_000)).astype(np.complex64)
        return ClockedRecording(iq, rate_hz, start_s)

    slow = RATE_HZ * (1 + slip)
    heard = {"A": recording(0.8, RATE_HZ, 0.0), "B": recording(0.8 + start_s, slow, 100e-6)}
    rows = EXTRACT(heard)
    assert rows[1, ARRIVAL] - rows[0, ARRIVAL] == pytest.approx(100, abs=0.3)


def test_other_rates_are_brought_to_the_configured_one():
    """12 kHz and 192 kHz receivers hear the same transmission."""
    heard = at_receivers((0.0, 40e-6, 0.0, 0.0))
    twice = np.fft.fft(heard["B"].iq)
    twice = np.concatenate([twice[:12_000], np.zeros(24_000), twice[12_000:]])
    heard["B"] = ClockedRecording((2 * np.fft.ifft(twice)).astype(np.complex64), 2 * RATE_HZ)
    rows = EXTRACT(heard)
    assert rows[1, ARRIVAL] - rows[0, ARRIVAL] == pytest.approx(40, abs=2)


def test_who_has_no_clock_or_no_recording_has_no_arrival():
    """A position from a clock that cannot be believed is worse than none."""
    heard = at_receivers((0.0, 1e-5, 2e-5, 3e-5))
    heard["B"] = ClockedRecording(heard["B"].iq, RATE_HZ, clock_locked=False)
    rows = EXTRACT({**heard, "D": None})
    assert rows[:, HEARD].tolist() == [1, 0, 1, 0]
    assert not rows[[1, 3]].any()


def test_one_receiver_alone_has_no_arrival():
    """A time is nothing without another to compare it with."""
    assert not EXTRACT({"A": at_receivers((0, 0, 0, 0))["A"]}).any()


@few
@given(st.integers(0, 1000))
def test_who_hears_only_noise_is_not_heard(seed):
    """A chance peak of a correlation is no arrival: once in a thousand is allowed."""
    rng = np.random.default_rng((seed, 1))
    heard = at_receivers((0.0, 1e-5, 2e-5, 3e-5), seed=seed)
    heard["C"] = ClockedRecording(noise(rng, 24_000).astype(np.complex64), RATE_HZ)
    rows = EXTRACT(heard)
    assert rows[:, HEARD].tolist() == [1, 1, 0, 1]


def test_noise_everywhere_is_heard_nowhere():
    """An empty channel has no transmitter to locate."""
    rng = np.random.default_rng(5)
    empty = {
        name: ClockedRecording(noise(rng, 24_000).astype(np.complex64), RATE_HZ) for name in NAMES
    }
    assert not EXTRACT(empty).any()


def test_an_echo_shows_as_misfit_and_widens_the_claim():
    """An arrival that is two arrivals is less sure than noise alone would have it."""
    plain = at_receivers((0.0, 1e-5, 2e-5, 3e-5), snr_db=30.0)
    echoing = dict(plain)
    late = delayed(plain["C"].iq, 60e-6, RATE_HZ)
    echoing["C"] = ClockedRecording((plain["C"].iq + 0.5 * late).astype(np.complex64), RATE_HZ)
    clean, echoed = EXTRACT(plain)[2], EXTRACT(echoing)[2]
    assert abs(clean[MISFIT]) < 1
    assert echoed[MISFIT] > 10
    assert echoed[SIGMA] > 3 * clean[SIGMA]


def test_levels_are_in_decibels_over_the_noise():
    """20 dB in the whole band are 23.8 in the 20 kHz that are compared."""
    rows = EXTRACT(at_receivers((0, 0, 0, 0), snr_db=20.0))
    assert rows[:, SNR] == pytest.approx(20 + 10 * np.log10(48 / 20), abs=0.5)


def test_silence_is_no_error():
    """A receiver whose antenna fell off writes zeros."""
    heard = at_receivers((0.0, 1e-5, 2e-5, 3e-5))
    heard["B"] = ClockedRecording(np.zeros(24_000, np.complex64), RATE_HZ)
    rows = EXTRACT(heard)
    assert rows[:, HEARD].tolist() == [1, 0, 1, 1]
    assert np.isfinite(rows).all()


def test_a_model_file_brings_its_extractor():
    """Training and service must measure alike; what differs is refused."""
    metadata = EXTRACT.metadata()
    assert ArrivalExtractor.from_metadata(metadata).config == CONFIG
    assert ArrivalExtractor.from_metadata({}) is None
    changed = json.loads(metadata["heimdall.arrivals.config"]) | {"baseline_m": 1e5}
    with pytest.raises(FeatureError, match="arrival times have fingerprint"):
        ArrivalExtractor.from_metadata(metadata | {"heimdall.arrivals.config": json.dumps(changed)})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"receivers": ["A", "B"]}', "1"])
def test_what_is_no_configuration_is_refused(text):
    """A damaged model file is told from a wrong one."""
    with pytest.raises(FeatureError, match="no configuration of arrival times"):
        ArrivalConfig.from_json(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"receivers": ("A",)}, "takes two different"),
        ({"receivers": ("A", "A")}, "takes two different"),
        ({"baseline_m": 0.0}, "baseline_m is 0.0"),
        ({"baseline_m": 1e9}, "the Earth has none"),
        ({"bandwidth_hz": 96e3}, "up to the sample rate"),
        ({"sample_rate_hz": float("nan")}, "must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, message):
    """With the setting's name and its value."""
    settings_ = {"receivers": ("A", "B"), "baseline_m": 1e5} | wrong
    with pytest.raises(FeatureError, match=message):
        ArrivalConfig(**settings_)


def test_strangers_and_short_recordings_are_refused():
    """The message names them."""
    heard = at_receivers((0, 0, 0, 0))
    with pytest.raises(FeatureError, match=r"unknown receivers \['X'\]"):
        EXTRACT({"X": heard["A"]})
    short = {name: ClockedRecording(r.iq[:500], RATE_HZ) for name, r in heard.items()}
    with pytest.raises(FeatureError, match="share 500 samples"):
        EXTRACT(short)


def test_the_columns_have_names():
    """A service that shows them must not guess."""
    assert EXTRACT.shape == (4, len(ARRIVAL_COLUMNS))
