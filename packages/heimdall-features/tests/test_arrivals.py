"""Arrival times and their uncertainties."""

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
from heimdall_features.testing import delayed, keyed, noise
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
NAMES = ("A", "B", "C", "D")
CONFIG = ArrivalConfig(receivers=NAMES, baseline_m=130e3, bandwidth_hz=20e3)
EXTRACT = ArrivalExtractor(CONFIG)
HEARD, ARRIVAL, SIGMA, SNR, MISFIT = range(5)
DELAYS_S = (0.0, 1e-5, 2e-5, 3e-5)
few = settings(max_examples=10)
delays = st.tuples(*[st.floats(-200e-6, 200e-6)] * 4)
offsets = st.tuples(*[st.floats(-300, 300)] * 4)
seeds = st.integers(0, 1000)


@pytest.fixture(scope="session")
def at_receivers(transmitted):
    """Make recordings of a transmission with 12 kHz bandwidth at four receivers."""

    def make(delays_s=DELAYS_S, offsets_hz=(), *, snr_db=20.0, seed=0):
        return transmitted(delays_s, offsets_hz, snr_db=snr_db, seed=seed, bandwidth=0.25)

    return make


def recording(iq, **changes):
    """A single-precision recording at the configured rate."""
    return ClockedRecording(np.asarray(iq, np.complex64), RATE_HZ, **changes)


def errors_in_sigmas(rows, delays_s):
    """Error of each arrival in its own sigmas, without the common zero."""
    error_us = rows[:, ARRIVAL] - 1e6 * np.array(delays_s)
    error_us -= np.average(error_us, weights=rows[:, SIGMA] ** -2.0)
    return error_us / rows[:, SIGMA]


@few
@given(delays, offsets, seeds)
def test_arrivals_are_found_within_their_uncertainty(at_receivers, delays_s, offsets_hz, seed):
    """For any delays, carriers and phases: 5 sigmas never occur by chance."""
    rows = EXTRACT(at_receivers(delays_s, offsets_hz, seed=seed))
    assert rows[:, HEARD].all()
    assert np.abs(errors_in_sigmas(rows, delays_s)).max() < 5


@pytest.mark.parametrize("snr_db", [-3.0, 10.0, 30.0])
def test_the_sigmas_are_neither_too_large_nor_too_small(at_receivers, snr_db):
    """Chi-square over its degrees of freedom is about 1 on average."""
    delays_s = (0.0, 31e-6, -83e-6, 150e-6)
    rows = [EXTRACT(at_receivers(delays_s, snr_db=snr_db, seed=seed)) for seed in range(12)]
    squares = [np.sum(errors_in_sigmas(found, delays_s) ** 2) for found in rows]
    assert 0.5 < np.mean(squares) / 3 < 1.8


def test_the_bound_of_hahn_and_tretter_is_reached(at_receivers):
    """The sigma follows from the RMS bandwidth, the SNR and the duration, as in theory."""
    rows = EXTRACT(at_receivers((0.0, 0.0, 0.0, 0.0)))
    snr_in_channel = 100 * RATE_HZ / 12e3
    information = 2 * 6_000 * (2 * np.pi) ** 2 * 12e3**2 / 12 * snr_in_channel
    assert rows[:, SIGMA] == pytest.approx(1e6 / np.sqrt(information), rel=0.1)
    assert rows[:, SNR] == pytest.approx(20 + 10 * np.log10(48 / 20), abs=0.5)


@settings(max_examples=5)
@given(st.floats(-0.2, 0.2), st.floats(-1.5e-4, 1.5e-4))
def test_start_times_and_true_rates_are_removed(start_s, slip):
    """Receivers start at different times and rates: 150 ppm would be 75 us here."""
    rng = np.random.default_rng(3)
    tones_hz, phases = rng.uniform(-6e3, 6e3, 250), rng.uniform(0, 2 * np.pi, 250)

    def sampled(start_s, rate_hz, late_s):
        time_s = start_s - late_s + np.arange(24_000) / rate_hz
        waveform = np.exp(2j * np.pi * np.outer(time_s, tones_hz)) @ np.exp(1j * phases)
        iq = (waveform / 16 + 0.01 * noise(rng, 24_000)).astype(np.complex64)
        return ClockedRecording(iq, rate_hz, start_s)

    slow = RATE_HZ * (1 + slip)
    rows = EXTRACT({"A": sampled(0.8, RATE_HZ, 0.0), "B": sampled(0.8 + start_s, slow, 100e-6)})
    assert rows[1, ARRIVAL] - rows[0, ARRIVAL] == pytest.approx(100, abs=0.3)


def test_other_rates_are_brought_to_the_configured_one(at_receivers):
    """Receivers of 48 kHz and 96 kHz hear the same transmission."""
    heard = at_receivers((0.0, 40e-6, 0.0, 0.0))
    twice = np.fft.fft(heard["B"].iq)
    twice = np.concatenate([twice[:12_000], np.zeros(24_000), twice[12_000:]])
    heard["B"] = ClockedRecording((2 * np.fft.ifft(twice)).astype(np.complex64), 2 * RATE_HZ)
    rows = EXTRACT(heard)
    assert rows[1, ARRIVAL] - rows[0, ARRIVAL] == pytest.approx(40, abs=2)


@few
@given(delays, seeds)
def test_rows_are_centred_and_their_sigma_has_two_parts(at_receivers, delays_s, seed):
    """The zero is the mean by certainty; noise and what does not average out add as squares."""
    heard = at_receivers(delays_s, seed=seed)
    rng = np.random.default_rng(seed)
    heard["B"] = recording(heard["B"].iq + 0.5 * noise(rng, len(heard["B"].iq)))
    heard["D"] = recording(noise(rng, len(heard["D"].iq)))
    rows, noise_s, coherent_s, _ = EXTRACT.measure(heard)
    assert rows.dtype == np.float32
    assert not np.array([noise_s, coherent_s])[:, 3].any()
    assert not rows[3].any()
    by_receiver = zip(rows[:3], noise_s, coherent_s, strict=False)
    for row, from_noise_s, from_rest_s in by_receiver:
        assert row[SIGMA] == pytest.approx(1e6 * np.hypot(from_noise_s, from_rest_s), rel=3e-7)
    mean_us = np.average(rows[:3, ARRIVAL], weights=rows[:3, SIGMA] ** -2.0)
    assert mean_us == pytest.approx(0, abs=1e-4)


def test_without_recordings_there_are_rows_of_zeros():
    """Of the type and shape that a model takes."""
    rows, *parts_s, impossible = EXTRACT.measure({})
    assert (rows.dtype, rows.shape) == (np.float32, (4, 5))
    assert not rows.any()
    assert not np.any(parts_s)
    assert impossible == {}


def test_a_signal_below_the_noise_is_told_as_such(at_receivers):
    """A receiver that hears little better than chance must not look like a good one."""
    made = at_receivers(snr_db=-8.0)
    rows = EXTRACT({name: recording(heard.iq / 8) for name, heard in made.items()})
    assert rows[:, HEARD].all()
    assert rows[:, SNR] == pytest.approx(-8 + 10 * np.log10(48 / 20), abs=0.7)


@few
@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_only_receivers_with_a_locked_clock_have_arrivals(at_receivers, missing, unlocked):
    """A position from an unreliable clock is worse than none; one receiver alone has no time."""
    heard = at_receivers()
    heard |= {name: recording(heard[name].iq, clock_sigma_s=np.inf) for name in unlocked}
    rows = EXTRACT(heard | dict.fromkeys(missing))
    clocked = np.array([name not in missing | unlocked for name in NAMES])
    assert (rows[:, HEARD] == (clocked & (clocked.sum() >= 2))).all()
    assert not rows[rows[:, HEARD] == 0].any()


@few
@given(seeds)
def test_a_receiver_of_noise_alone_is_not_heard(at_receivers, seed):
    """A chance peak of a correlation is not an arrival, except once in a thousand times."""
    heard = at_receivers(seed=seed)
    heard["C"] = recording(noise(np.random.default_rng((seed, 1)), 24_000))
    assert EXTRACT(heard)[:, HEARD].tolist() == [1, 1, 0, 1]


@few
@given(seeds)
def test_noise_at_every_receiver_gives_no_arrival(seed):
    """An empty channel has no transmitter to locate."""
    rng = np.random.default_rng((seed, 2))
    assert not EXTRACT({name: recording(noise(rng, 24_000)) for name in NAMES}).any()


def test_an_echo_appears_as_misfit_and_increases_sigma(at_receivers):
    """Two overlapping arrivals are less certain than the noise alone suggests."""
    heard = at_receivers(snr_db=30.0)
    iq = heard["C"].iq
    echoing = heard | {"C": recording(iq + 0.5 * delayed(iq, 60e-6, RATE_HZ))}
    clean, echoed = EXTRACT(heard)[2], EXTRACT(echoing)[2]
    assert abs(clean[MISFIT]) < 1
    assert echoed[MISFIT] > 10
    assert echoed[SIGMA] > 3 * clean[SIGMA]


def echo(rng, spread_s):
    """Response at each bin of three echoes of random delay, phase and level, together -6 dB."""
    late_s = spread_s * rng.standard_exponential(3)
    gains = np.sqrt(rng.standard_exponential(3) / 12) * np.exp(2j * np.pi * rng.uniform(size=3))
    return 1 + np.exp(-2j * np.pi * np.outer(FREQUENCY_HZ, late_s)) @ gains


def resonance(rng):
    """Response at each bin of an aerial 10 to 20 kHz wide, tuned to within 3 kHz."""
    return 1 / (1 + 2j * (FREQUENCY_HZ - 3e3 * rng.normal()) / rng.uniform(10e3, 20e3))


def group_delay_slope(rng):
    """Response at each bin of a filter whose delay rises by some us per kHz."""
    return np.exp(-1j * np.pi * 1e-9 * rng.normal() * FREQUENCY_HZ**2)


def fading(iq, rng):
    """Two paths with different Doppler shifts within 3 Hz."""
    turns = np.outer(np.arange(24_000) / RATE_HZ, rng.uniform(-3, 3, 2)) + rng.uniform(size=2)
    return iq * (np.exp(2j * np.pi * turns) @ [1, 0.5])


DISTURBANCES = {
    "short echoes": lambda iq, rng: filtered(iq, echo(rng, 5e-6)),
    "long echoes": lambda iq, rng: filtered(iq, echo(rng, 60e-6)),
    "resonances": lambda iq, rng: filtered(iq, resonance(rng)),
    "group delays": lambda iq, rng: filtered(iq, group_delay_slope(rng)),
    "interference": lambda iq, rng: iq + 0.3 * delayed(OTHER, rng.uniform(-2e-4, 2e-4), RATE_HZ),
    "fading": fading,
}
FREQUENCY_HZ = np.fft.fftfreq(24_000, 1 / RATE_HZ)
OTHER = noise(np.random.default_rng(77), 24_000, 0.25)


def filtered(iq, response):
    """The recording through a filter."""
    return np.fft.ifft(np.fft.fft(iq) * response)


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_sigma_covers_errors_that_no_noise_explains(at_receivers, disturbance):
    """A position from times that are surer than they are wrong is surely wrong."""
    found, delays_s = [], (0.0, 31e-6, -83e-6, 150e-6)
    for seed in range(12):
        rng = np.random.default_rng((seed, 3))
        heard = at_receivers(delays_s, snr_db=20.0, seed=seed)
        for name, clean in heard.items():
            heard[name] = recording(DISTURBANCES[disturbance](clean.iq, rng))
        rows = EXTRACT(heard)
        assert rows[:, HEARD].all()
        found.append(errors_in_sigmas(rows, delays_s))
    # The median of the magnitude of a standard normal variable is 0.674.
    assert np.median(np.abs(found)) < 1.5 * 0.674
    assert np.mean(np.abs(found) > 3) < 0.15


def test_sigmas_of_noise_alone_would_not_cover_echoes(at_receivers):
    """The test above can fail: errors are more than ten times what noise explains."""
    rng, heard = np.random.default_rng(5), at_receivers()
    noise_only = EXTRACT(heard)
    echoing = {n: recording(filtered(r.iq, echo(rng, 5e-6))) for n, r in heard.items()}
    error_us = EXTRACT(echoing)[:, ARRIVAL] - noise_only[:, ARRIVAL]
    assert np.std(error_us) > 10 * noise_only[:, SIGMA].mean()


@few
@given(delays, offsets, st.floats(-3, 30), seeds)
def test_without_disturbances_sigma_is_that_of_noise(
    at_receivers, delays_s, offsets_hz, snr_db, seed
):
    """Coherent errors must not be seen in noise; the median leaves out chance at one receiver."""
    rows = EXTRACT(at_receivers(delays_s, offsets_hz, snr_db=snr_db, seed=seed))
    snr = 10 ** (snr_db / 10) * RATE_HZ / 12e3
    bound = 2 * 6_000 * (2 * np.pi) ** 2 * 12e3**2 / 12 * snr * 4 * snr / (1 + 4 * snr)
    assert np.median(rows[:, SIGMA]) == pytest.approx(1e6 / np.sqrt(bound), rel=0.08)


def test_noise_is_measured_in_the_band_and_not_in_a_filters_stop_band(at_receivers):
    """Receivers of 12 kHz hear external noise through a filter that lets none through above it."""
    heard, wide = at_receivers(snr_db=10.0), np.abs(FREQUENCY_HZ) < 9e3
    plain = EXTRACT(heard)
    narrow = EXTRACT(
        {name: recording(filtered(r.iq, np.where(wide, 1, 1e-3))) for name, r in heard.items()}
    )
    # In the compared band of 20 kHz the filter lets nine tenths of the noise through.
    assert narrow[:, SNR] == pytest.approx(plain[:, SNR], abs=1)
    assert narrow[:, SIGMA] == pytest.approx(plain[:, SIGMA], rel=0.1)
    assert np.abs(narrow[:, MISFIT]).max() < 2


def test_a_receiver_of_zeros_is_not_heard(at_receivers):
    """A receiver without an antenna writes zeros; the others are still used."""
    rows = EXTRACT(at_receivers() | {"B": recording(np.zeros(24_000))})
    assert rows[:, HEARD].tolist() == [1, 0, 1, 1]
    assert np.isfinite(rows).all()


def test_a_model_file_restores_its_extractor():
    """Training and service must compute the same times; any difference is rejected."""
    metadata, key = EXTRACT.metadata(), "heimdall.arrivals.config"
    assert ArrivalExtractor.from_metadata(metadata).config == CONFIG
    assert ArrivalExtractor.from_metadata({}) is None
    assert EXTRACT.shape == (4, len(ARRIVAL_COLUMNS))
    changed = json.loads(metadata[key]) | {"baseline_m": 1e5}
    with pytest.raises(FeatureError, match="arrivals have fingerprint"):
        ArrivalExtractor.from_metadata(metadata | {key: json.dumps(changed)})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"receivers": ["A", "B"]}', "1"])
def test_invalid_json_is_rejected(text):
    """A damaged model file gives a clear error."""
    with pytest.raises(FeatureError, match="ArrivalConfig"):
        ArrivalConfig.from_json(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"receivers": ("A",)}, r"receivers are \('A',\)"),
        ({"receivers": ("A", "A")}, "twice"),
        ({"baseline_m": 0.0}, "baseline_m is 0.0"),
        ({"baseline_m": 1e9}, "baseline_m is 1000000000.0"),
        ({"baseline_m": "far"}, "baseline_m is 'far'"),
        ({"bandwidth_hz": 96e3}, "at most 48000 Hz"),
        ({"sample_rate_hz": float("nan")}, "sample_rate_hz is nan"),
    ],
)
def test_invalid_settings_are_rejected(wrong, message):
    """The error gives the setting's name and value."""
    with pytest.raises(FeatureError, match=message):
        ArrivalConfig(**{"receivers": ("A", "B"), "baseline_m": 1e5} | wrong)


def test_unknown_receivers_and_short_recordings_are_rejected(at_receivers):
    """The error gives the name or the length."""
    heard = at_receivers()
    with pytest.raises(FeatureError, match=r"unknown receivers \['X'\]"):
        EXTRACT({"X": heard["A"]})
    with pytest.raises(FeatureError, match="share 500 samples"):
        EXTRACT({name: recording(found.iq[:500]) for name, found in heard.items()})


@given(st.floats(0, 1e-3))
def test_a_clock_too_uncertain_gives_no_arrival(sigma_s):
    """A clock worse than 30 km of path tells nothing about where a transmitter is."""
    one = recording(np.ones(4), clock_sigma_s=sigma_s)
    assert one.clock_locked == (sigma_s <= 1e-4)


@pytest.mark.parametrize("sigma_s", [-1.0, np.nan])
def test_an_impossible_clock_is_refused(sigma_s):
    """It would weigh the receiver's arrival without bound."""
    with pytest.raises(FeatureError, match=str(sigma_s)):
        recording(np.ones(4), clock_sigma_s=sigma_s)


KEYED = ArrivalConfig(receivers=NAMES, baseline_m=800e3, sample_rate_hz=12e3)
LATE_S = {"A": 1.30e-3, "B": 0.88e-3, "C": 1.38e-3, "D": 1.02e-3}


def measured(clock_errors_s):
    """Names with an arrival, and what is measured, of receivers with these clock errors."""
    heard = {}
    for name, error_s in clock_errors_s.items():
        iq = 0.3 * keyed(np.arange(60_000) / 12e3 - LATE_S[name])
        iq += 1e-4 * noise(np.random.default_rng(ord(name)), iq.size)
        heard[name] = ClockedRecording(iq.astype(np.complex64), 12e3, error_s)
    found = ArrivalExtractor(KEYED).measure(heard)
    return [name for name, row in zip(NAMES, found.rows, strict=True) if row[HEARD]], found


def beyond(most_s):
    """Errors of a clock that bring an arrival beyond the longest lag, either way."""
    least_s = KEYED.longest_lag_s + max(LATE_S.values()) - min(LATE_S.values())
    return st.builds(np.multiply, st.sampled_from([-1, 1]), st.floats(1.05 * least_s, most_s))


@settings(max_examples=6)
@given(beyond(0.7), st.sampled_from("ABC"))
def test_a_receiver_with_a_wrong_clock_is_left_out(clock_error_s, wrong):
    """Its time would be believed to microseconds, and place the transmitter anywhere."""
    heard, found = measured(dict.fromkeys("ABC", 0.0) | {wrong: clock_error_s})
    one, other = heard
    assert list(found.impossible) == [wrong]
    assert "more than 2,669 us apart, which 800 km" in found.impossible[wrong]
    late_us = found.rows[NAMES.index(other), ARRIVAL] - found.rows[NAMES.index(one), ARRIVAL]
    assert late_us == pytest.approx(1e6 * (LATE_S[other] - LATE_S[one]), abs=40)


@settings(max_examples=8)
@given(st.tuples(*[st.one_of(st.just(0.0), st.floats(-0.1, 0.1))] * 3))
def test_no_difference_is_longer_than_geometry_allows(clock_errors_s):
    """Whatever clocks say: no transmitter is anywhere that could cause it."""
    _, found = measured(dict(zip("ABC", clock_errors_s, strict=True)))
    late_us = found.rows[found.rows[:, HEARD] > 0, ARRIVAL]
    assert not late_us.size or np.ptp(late_us) <= 1e6 * KEYED.longest_lag_s * (1 + 1e-6)


@settings(max_examples=3)
@given(beyond(0.5))
def test_where_no_majority_agrees_none_is_believed(clock_error_s):
    """Either clock of two may be wrong, and so may either two of four."""
    heard, found = measured({"A": clock_error_s, "B": 0.0})
    assert (heard, set(found.impossible)) == ([], {"A", "B"})
    heard, found = measured({"A": clock_error_s, "B": clock_error_s, "C": 0.0, "D": 0.0})
    assert (heard, set(found.impossible)) == ([], set(NAMES))


@few
@given(st.floats(0.9, 1.0), st.booleans(), seeds)
def test_a_transmitter_beside_a_receiver_is_heard(at_receivers, share, swapped, seed):
    """Nothing is wrong with the longest possible difference, and noise must not exceed it."""
    delays_s = (0.0, share * CONFIG.longest_lag_s, 1e-4, 2e-4)
    rows, _, _, impossible = EXTRACT.measure(
        at_receivers(delays_s[::-1] if swapped else delays_s, seed=seed)
    )
    assert rows[:, HEARD].all()
    assert not impossible
    assert np.abs(errors_in_sigmas(rows, delays_s[::-1] if swapped else delays_s)).max() < 5
    assert np.ptp(rows[:, ARRIVAL]) <= 1e6 * CONFIG.longest_lag_s * (1 + 1e-6)


@few
@given(st.floats(1.03, 1.08), seeds)
def test_an_uncertain_clock_may_exceed_the_longest_lag(at_receivers, share, seed):
    """What its own uncertainty explains is no contradiction; what it does not is one."""
    delays_s = (0.0, 1e-5, 2e-5, share * CONFIG.longest_lag_s)
    heard = at_receivers(delays_s, seed=seed)
    assert list(EXTRACT.measure(heard).impossible) == ["D"]
    heard["D"] = recording(heard["D"].iq, clock_sigma_s=2e-5)
    rows, _, _, impossible = EXTRACT.measure(heard)
    assert not impossible
    assert np.abs(errors_in_sigmas(rows, delays_s)).max() < 5


@few
@given(st.sampled_from(NAMES), st.floats(0.005, 0.1), seeds)
def test_the_strongest_receiver_may_be_the_wrong_one(at_receivers, name, late_s, seed):
    """All others were lost with it: they hear nothing that it hears."""
    heard = at_receivers(snr_db=5.0, seed=seed)
    strong = at_receivers(snr_db=25.0, seed=seed)[name].iq
    heard[name] = recording(strong, start_s=late_s)
    rows = EXTRACT(heard)
    assert [one for one, row in zip(NAMES, rows, strict=True) if not row[HEARD]] == [name]


@pytest.mark.parametrize("late_s", [0.005, -0.006, 0.02])
def test_two_strong_receivers_that_are_wrong_alike_are_no_majority(late_s):
    """Of one maker and one fault: they hear each other, and the three others were lost."""
    names = ("A", "B", "C", "D", "E")
    rng = np.random.default_rng(0)
    turn = np.convolve(rng.normal(size=36_000), np.hanning(40), "same")
    fm = np.exp(1j * np.cumsum(turn / turn.std()) * 2 * np.pi / 8)

    def received(snr_db, start_s=0.0):
        iq = 0.3 * (fm + 10 ** (-snr_db / 20) * noise(rng, fm.size) / np.sqrt(2))
        return ClockedRecording(iq.astype(np.complex64), 12e3, start_s)

    heard = {n: received(40, late_s) if n in "AC" else received(10) for n in names}
    config = ArrivalConfig(receivers=names, baseline_m=800e3, sample_rate_hz=12e3)
    assert (ArrivalExtractor(config)(heard)[:, HEARD] == [0, 1, 0, 1, 1]).all()


def test_a_stronger_echo_does_not_make_a_clock_wrong(at_receivers):
    """At night, the ionosphere returns more than comes along the ground, milliseconds later."""
    heard = at_receivers(snr_db=30.0)
    iq = heard["C"].iq
    heard["C"] = recording(iq + 1.5 * delayed(iq, 4e-3, RATE_HZ))
    rows = EXTRACT(heard)
    assert rows[:, HEARD].all()
    assert rows[2, ARRIVAL] - rows[0, ARRIVAL] == pytest.approx(20, abs=5)
