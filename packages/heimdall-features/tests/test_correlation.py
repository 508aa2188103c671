"""Differences of arrival time."""

import numpy as np
import pytest
from heimdall_features import (
    ClockedRecording,
    CorrelationConfig,
    FeatureError,
    cross_correlation_features,
)
from heimdall_features.correlation import ABSENT, time_differences_s
from heimdall_features.testing import delayed, noise
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
LIGHT_M_S = 299_792_458.0
CONFIG = CorrelationConfig(receivers=("A", "B", "C"), baseline_m=130e3)
PLAIN = CorrelationConfig(receivers=("A", "B", "C"), baseline_m=130e3, weighting="plain")
few = settings(max_examples=15)


def at_receivers(delays_s, offsets_hz=(0, 0, 0), snr_db=30.0, seed=0, n_samples=48_000):
    """One transmission as three receivers hear it: late, off frequency, at any phase, noisy."""
    rng = np.random.default_rng(seed)
    signal, time_s, heard = noise(rng, n_samples), np.arange(n_samples) / RATE_HZ, {}
    for name, delay_s, offset_hz in zip("ABC", delays_s, offsets_hz, strict=True):
        turn = np.exp(2j * np.pi * (offset_hz * time_s + rng.uniform()))
        own_noise = 10 ** (-snr_db / 20) * noise(rng, n_samples)
        iq = delayed(signal, delay_s, RATE_HZ) * turn + own_noise
        heard[name] = ClockedRecording(iq.astype(np.complex64), RATE_HZ)
    return heard


def worst_samples(found, delays_s):
    """The largest error of the differences, in samples."""
    late = dict(zip("ABC", delays_s, strict=True))
    return max(abs(found[a, b] - (late[a] - late[b])) for a, b in CONFIG.pairs) * RATE_HZ


delays = st.tuples(*[st.floats(-200e-6, 200e-6)] * 3)
offsets = st.tuples(*[st.floats(-300, 300)] * 3)


@few
@given(delays, st.sampled_from([CONFIG, PLAIN]), st.integers(0, 100))
def test_a_fraction_of_a_sample_is_found(delays_s, config, seed):
    """A sample at 48 kHz is 6 km: positions need the fraction. 0.02 of one at 30 dB SNR."""
    features = cross_correlation_features(at_receivers(delays_s, seed=seed), config)
    assert worst_samples(time_differences_s(features, config), delays_s) < 0.02


@few
@given(delays, offsets)
def test_carrier_offsets_change_nothing(delays_s, offsets_hz):
    """No two oscillators agree: hundreds of hertz at 145 MHz are usual."""
    features = cross_correlation_features(at_receivers(delays_s, offsets_hz), CONFIG)
    assert worst_samples(time_differences_s(features, CONFIG), delays_s) < 0.02


@few
@given(st.floats(-0.5, 0.5), st.floats(-30e-6, 30e-6))
def test_start_times_and_true_rates_are_taken_out(start_s, slip):
    """Recordings start when they start, and no two clocks run alike."""
    late_s = 100e-6
    heard = at_receivers((0.0, 0.0, late_s))
    rate_hz = RATE_HZ * (1 + slip)
    slow = {
        "A": ClockedRecording(heard["A"].iq, rate_hz, start_s),
        "C": ClockedRecording(heard["C"].iq, rate_hz, start_s + 7.3 / RATE_HZ),
    }
    features = cross_correlation_features(slow, CONFIG)
    found = time_differences_s(features, CONFIG)["A", "C"] * RATE_HZ
    assert abs(found - (-late_s * RATE_HZ - 7.3)) < 0.05


@given(st.integers(0, 2**32 - 1))
@few
def test_profiles_lie_between_nought_and_one(seed):
    """Whatever was heard, they stack with each other; noise alone is near nought."""
    rng = np.random.default_rng(seed)
    alone = {name: ClockedRecording(noise(rng, 8000), RATE_HZ) for name in "ABC"}
    features = cross_correlation_features(alone, CONFIG)
    assert features.shape == (3, 128, 32)
    assert features.dtype == np.float32
    assert 0 <= features.min() <= features.max() <= 1


def test_slowly_drifting_clocks_show_no_drift():
    """By hand: one clock 5 ppm fast moves 5 us in a second, a quarter of a sample, if left in."""
    delays_s = (0.0, 50e-6, 0.0)
    heard = at_receivers(delays_s, n_samples=240_000)
    fast = heard | {"B": ClockedRecording(_sampled_fast(heard["B"].iq, 5e-6), RATE_HZ * 1.000005)}
    features = cross_correlation_features(fast, CONFIG)
    halves = [features[..., :16].repeat(2, -1), features[..., 16:].repeat(2, -1)]
    early, late = (time_differences_s(half, CONFIG)["A", "B"] * RATE_HZ for half in halves)
    assert abs(early - late) < 0.02
    assert abs(early + 2.4) < 0.02


def _sampled_fast(iq, by):
    """The samples a clock that runs fast takes: the signal seems ever later."""
    out = np.empty_like(iq)
    for start in range(0, iq.size, 4000):
        stretch = np.take(iq, np.arange(start - 2000, start + 6000), mode="wrap")
        late_s = by * (start + 2000) / RATE_HZ
        out[start : start + 4000] = delayed(stretch, late_s, RATE_HZ)[2000:6000]
    return out


@pytest.mark.parametrize("lacking", ["missing", "none", "unlocked"])
def test_a_receiver_without_a_true_clock_is_marked_absent(lacking):
    """A stale clock gives a difference that looks like one."""
    heard = at_receivers((0.0, 0.0, 0.0), n_samples=8000)
    if lacking == "missing":
        del heard["B"]
    else:
        unlocked = ClockedRecording(heard["B"].iq, RATE_HZ, 0.0, clock_locked=False)
        heard["B"] = None if lacking == "none" else unlocked
    features = cross_correlation_features(heard, CONFIG)
    assert [(profile == ABSENT).all() for profile in features] == [True, False, True]
    assert set(time_differences_s(features, CONFIG)) == {("A", "C")}


def test_silence_is_unlike_anything():
    """Zeros have no phase; they must not divide by nought."""
    heard = at_receivers((0.0, 0.0, 0.0), n_samples=8000)
    heard["B"] = ClockedRecording(np.zeros(8000, np.complex64), RATE_HZ)
    features = cross_correlation_features(heard, CONFIG)
    assert (features[0] == 0).all()
    assert features[1].max() > 0.5


@pytest.mark.parametrize("baseline_m", [1.0, 150.0])
def test_receivers_may_stand_side_by_side(baseline_m):
    """Two antennas of one roof: all lags are within a sample."""
    config = CorrelationConfig(receivers=("A", "B"), baseline_m=baseline_m)
    assert config.n_fft == 512


def test_the_lags_span_the_longest_baseline():
    """By hand: light takes 433.6 us for 130 km, and no difference can be longer."""
    np.testing.assert_allclose(CONFIG.lags_s[[0, -1]] * 1e6, [-433.64, 433.64], atol=0.01)
    assert CONFIG.pairs == (("A", "B"), ("A", "C"), ("B", "C"))


def test_real_receivers_find_the_transmitter_to_ten_kilometres(dcf77):
    """DCF77 at three KiwiSDRs: the differences are those of the map, to the 30 us they share."""
    config = CorrelationConfig(
        receivers=tuple(dcf77), baseline_m=900e3, sample_rate_hz=12e3, weighting="plain"
    )
    found = time_differences_s(cross_correlation_features(dcf77, config), config)
    distances_m = {"DF0KL": 422.9e3, "F1JEK": 783.9e3, "HB9RYZ": 319.1e3}
    for (one, other), difference_s in found.items():
        expected_s = (distances_m[one] - distances_m[other]) / LIGHT_M_S
        assert abs(difference_s - expected_s) < 50e-6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"receivers": ("A",)}, "receivers are ('A',); a pair takes two different ones"),
        ({"weighting": "scot"}, "weighting is 'scot'; choose phat or plain"),
        ({"baseline_m": 0.0}, "baseline_m is 0.0; it must be positive"),
        ({"n_lags": 2}, "n_lags=2 and n_frames=32 make no picture"),
        ({"bandwidth_hz": 48e3, "n_lags": 16}, "show at most 11530 Hz; raise n_lags"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_remedy(wrong, says):
    """Lags too coarse for the band would show peaks that are not there."""
    with pytest.raises(FeatureError) as error:
        CorrelationConfig(**{"receivers": ("A", "B"), "baseline_m": 130e3, **wrong})
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("recording", "says"),
    [
        (ClockedRecording(np.full(9000, np.nan + 0j), RATE_HZ), "'B': the recording holds NaN"),
        (ClockedRecording(np.ones(9000), RATE_HZ), "'B': a two-sided spectrum is of complex IQ"),
        (ClockedRecording(np.ones(100, complex), RATE_HZ), "share 100 samples, less than the 512"),
        (ClockedRecording(np.ones(9000, complex), -1.0), "the sample rate is -1.0"),
        (ClockedRecording(np.ones(9000, complex), RATE_HZ, 9.0), "'B' 0.188 s from 9.000 s"),
        (ClockedRecording(np.ones(9000, complex), RATE_HZ, np.inf), "'B': start_s is inf"),
    ],
)
def test_an_unfit_recording_is_refused(recording, says):
    """One bad receiver must not spoil the others without a word."""
    good = ClockedRecording(np.ones(9000, complex), RATE_HZ)
    with pytest.raises(FeatureError) as error:
        cross_correlation_features({"A": good, "B": recording}, CONFIG)
    assert says in str(error.value)


def test_an_unknown_receiver_is_refused():
    """A misspelt name must not read as a missing receiver."""
    with pytest.raises(FeatureError, match=r"unknown receivers \['D'\]"):
        cross_correlation_features({"D": None}, CONFIG)


def test_features_of_another_configuration_are_refused():
    """Their lags would be read as others."""
    with pytest.raises(FeatureError, match=r"features of shape \(1, 2, 3\) are not of"):
        time_differences_s(np.zeros((1, 2, 3), np.float32), CONFIG)
