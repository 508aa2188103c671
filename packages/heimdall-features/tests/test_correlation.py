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
CONFIG = CorrelationConfig(receivers=("A", "B", "C"), baseline_m=130e3)
PLAIN = CorrelationConfig(receivers=("A", "B", "C"), baseline_m=130e3, weighting="plain")
few = settings(max_examples=15)
delays = st.tuples(*[st.floats(-200e-6, 200e-6)] * 3)
offsets = st.tuples(*[st.floats(-300, 300)] * 3)


@pytest.fixture(scope="session")
def at_receivers(transmitted):
    """Make recordings of a transmission over the whole band at three receivers."""

    def make(delays_s=(0.0, 0.0, 0.0), offsets_hz=(), seed=0, n_samples=48_000):
        return transmitted(delays_s, offsets_hz, snr_db=30.0, seed=seed, n_samples=n_samples)

    return make


def largest_error(heard, delays_s, config=CONFIG):
    """Largest error of the time differences, in samples."""
    found = time_differences_s(cross_correlation_features(heard, config), config)
    late = dict(zip("ABC", delays_s, strict=True))
    return max(abs(found[a, b] - (late[a] - late[b])) for a, b in CONFIG.pairs) * RATE_HZ


@few
@given(delays, offsets, st.sampled_from([CONFIG, PLAIN]), st.integers(0, 100))
def test_fractional_delays_are_found_at_any_carrier_offset(
    at_receivers, delays_s, offsets_hz, config, seed
):
    """A sample at 48 kHz is 6 km, and offsets of hundreds of hertz are usual at 145 MHz."""
    assert largest_error(at_receivers(delays_s, offsets_hz, seed), delays_s, config) < 0.02


@few
@given(st.floats(-0.5, 0.5), st.floats(-30e-6, 30e-6))
def test_start_times_and_true_rates_are_removed(at_receivers, start_s, slip):
    """Receivers start at different times, and their clocks differ."""
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
def test_profiles_are_between_zero_and_one(seed):
    """Features of any recordings can be stacked; those of noise are near zero."""
    rng = np.random.default_rng(seed)
    alone = {name: ClockedRecording(noise(rng, 8000), RATE_HZ) for name in "ABC"}
    features = cross_correlation_features(alone, CONFIG)
    assert (features.shape, features.dtype) == ((3, 128, 32), np.float32)
    assert 0 <= features.min() <= features.max() <= 1


def test_slowly_drifting_clocks_show_no_drift(at_receivers):
    """By hand: a clock that is 5 ppm fast moves by a quarter of a sample in a second."""
    heard = at_receivers((0.0, 50e-6, 0.0), n_samples=240_000)
    iq = np.empty_like(heard["B"].iq)
    for start in range(0, iq.size, 4000):
        stretch = np.take(heard["B"].iq, np.arange(start - 2000, start + 6000), mode="wrap")
        late_s = 5e-6 * (start + 2000) / RATE_HZ
        iq[start : start + 4000] = delayed(stretch, late_s, RATE_HZ)[2000:6000]
    heard["B"] = ClockedRecording(iq, RATE_HZ * 1.000005)
    features = cross_correlation_features(heard, CONFIG)
    halves = [features[..., :16].repeat(2, -1), features[..., 16:].repeat(2, -1)]
    early, late = (time_differences_s(half, CONFIG)["A", "B"] * RATE_HZ for half in halves)
    assert abs(early - late) < 0.02
    assert abs(early + 2.4) < 0.02


@few
@given(st.floats(0.9, 0.99), st.sampled_from([-1, 1]))
def test_a_peak_next_to_the_longest_lag_is_found(at_receivers, share, sign):
    """It is that of a transmitter beside one of two receivers, which are far apart."""
    late_s = sign * share * CONFIG.longest_lag_s
    heard = at_receivers((late_s, 0.0, late_s / 2), n_samples=24_000)
    found = time_differences_s(cross_correlation_features(heard, CONFIG), CONFIG)["A", "B"]
    assert found == pytest.approx(late_s, abs=0.1 / RATE_HZ)


@few
@given(st.floats(1.04, 1.5), st.sampled_from([-1, 1]))
def test_a_profile_that_rises_beyond_the_longest_lag_has_no_peak(share, sign):
    """A wrong clock must not give a difference that no place explains."""
    lags_s, late_s = CONFIG.lags_s, sign * share * CONFIG.longest_lag_s
    profile = np.exp(-0.5 * ((lags_s - late_s) / 2e-4) ** 2)
    features = np.full((3, 128, 32), ABSENT, np.float32)
    features[1] = profile[:, None]
    assert time_differences_s(features, CONFIG) == {}
    features[1] = profile[::-1, None] * 0.2
    features[1, 40] = 0.5
    assert time_differences_s(features, CONFIG)["A", "C"] == pytest.approx(lags_s[40], abs=1e-6)


@pytest.mark.parametrize("lacking", ["missing", "none", "unlocked"])
def test_a_receiver_without_a_locked_clock_is_absent(at_receivers, lacking):
    """A wrong clock would give a difference that looks right."""
    heard = at_receivers(n_samples=8000)
    unlocked = ClockedRecording(heard.pop("B").iq, RATE_HZ, 0.0, clock_sigma_s=np.inf)
    if lacking != "missing":
        heard["B"] = None if lacking == "none" else unlocked
    features = cross_correlation_features(heard, CONFIG)
    assert [(profile == ABSENT).all() for profile in features] == [True, False, True]
    assert set(time_differences_s(features, CONFIG)) == {("A", "C")}


def test_zeros_correlate_with_nothing(at_receivers):
    """Zeros have no phase, and must not cause a division by zero."""
    heard = at_receivers(n_samples=8000)
    heard["B"] = ClockedRecording(np.zeros(8000, np.complex64), RATE_HZ)
    features = cross_correlation_features(heard, CONFIG)
    assert (features[0] == 0).all()
    assert features[1].max() > 0.5


def test_the_lags_cover_the_longest_baseline():
    """By hand: light takes 433.6 us for 130 km."""
    np.testing.assert_allclose(CONFIG.lags_s[[0, -1]] * 1e6, [-433.64, 433.64], atol=0.01)
    assert CONFIG.pairs == (("A", "B"), ("A", "C"), ("B", "C"))
    side_by_side = CorrelationConfig(receivers=("A", "B"), baseline_m=1.0)
    assert side_by_side.n_fft == 512


def test_real_receivers_agree_with_the_map(dcf77):
    """DCF77 at three KiwiSDRs: within the 30 us by which these recordings are known to be off."""
    config = CorrelationConfig(
        receivers=tuple(dcf77), baseline_m=900e3, sample_rate_hz=12e3, weighting="plain"
    )
    found = time_differences_s(cross_correlation_features(dcf77, config), config)
    distances_m = {"DF0KL": 422.9e3, "F1JEK": 783.9e3, "HB9RYZ": 319.1e3}
    for (one, other), difference_s in found.items():
        expected_s = (distances_m[one] - distances_m[other]) / 299_792_458.0
        assert abs(difference_s - expected_s) < 50e-6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"receivers": ("A",)}, r"receivers are \('A',\)"),
        ({"weighting": "scot"}, "weighting is 'scot'; choose phat or plain"),
        ({"baseline_m": 0.0}, "baseline_m is 0.0"),
        ({"n_lags": 2}, "n_lags is 2"),
        ({"bandwidth_hz": 48e3, "n_lags": 16}, "bandwidth_hz is 48000.0; .*n_lags.* 11530 Hz"),
    ],
)
def test_invalid_settings_are_rejected(wrong, message):
    """Lags that are too coarse for the band would show false peaks."""
    with pytest.raises(FeatureError, match=message):
        CorrelationConfig(**{"receivers": ("A", "B"), "baseline_m": 130e3, **wrong})


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (ClockedRecording(np.full(9000, np.nan + 0j), RATE_HZ), "'B': the recording holds NaN"),
        (ClockedRecording(np.ones(9000), RATE_HZ), "'B': a two-sided spectrum takes complex IQ"),
        (ClockedRecording(np.ones(100, complex), RATE_HZ), "share 100 samples, fewer than the 512"),
        (ClockedRecording(np.ones(9000, complex), -1.0), "'B': the sample rate is -1.0"),
        (ClockedRecording(np.ones(9000, complex), RATE_HZ, 9.0), "'B' 0.188 s from 9.000 s"),
        (ClockedRecording(np.ones(9000, complex), RATE_HZ, np.inf), "'B': start_s is inf"),
    ],
)
def test_an_unfit_recording_is_rejected(recording, message):
    """One bad receiver must not spoil the others unnoticed."""
    good = ClockedRecording(np.ones(9000, complex), RATE_HZ)
    with pytest.raises(FeatureError, match=message):
        cross_correlation_features({"A": good, "B": recording}, CONFIG)


def test_unknown_receivers_and_other_features_are_rejected():
    """A misspelt name must not count as missing, and other lags would be misread."""
    with pytest.raises(FeatureError, match=r"unknown receivers \['D'\]"):
        cross_correlation_features({"D": None}, CONFIG)
    with pytest.raises(FeatureError, match=r"features of shape \(1, 2, 3\)"):
        time_differences_s(np.zeros((1, 2, 3), np.float32), CONFIG)
