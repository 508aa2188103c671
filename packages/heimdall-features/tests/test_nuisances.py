"""Augmentation of IQ keeps the position."""

import numpy as np
import pytest
from heimdall_features import (
    ClockedRecording,
    CorrelationConfig,
    FeatureError,
    cross_correlation_features,
)
from heimdall_features.correlation import time_differences_s
from heimdall_features.nuisances import Nuisances, augment_iq
from heimdall_features.testing import delayed, noise, tone
from hypothesis import given
from hypothesis import strategies as st

RATE_HZ = 48_000.0
OFF = {"gain_db": 0.0, "offset_hz": 0.0, "phase": False}
seeds = st.integers(0, 2**32 - 1)


def heard(seed=0):
    """One transmission at two receivers, 20 dB and 3.3 samples apart."""
    signal = noise(np.random.default_rng(seed), 24_000)
    return {"A": (signal, RATE_HZ), "B": (0.1 * delayed(signal, 3.3 / RATE_HZ, RATE_HZ), RATE_HZ)}


def augmented(recordings, nuisances, seed=0):
    """The recordings with nuisances of this seed."""
    return augment_iq(recordings, np.random.default_rng(seed), nuisances)


@given(seeds)
def test_level_differences_stay(seed):
    """They depend on the position, so all receivers get the same gain."""
    out = augmented(heard(), Nuisances(), seed)
    ratio = np.linalg.norm(out["B"][0]) / np.linalg.norm(out["A"][0])
    np.testing.assert_allclose(ratio, 0.1, rtol=1e-4)


@given(st.integers(0, 7))
def test_differences_of_arrival_time_stay(seed):
    """They depend on the position too, with all nuisances at once."""
    config = CorrelationConfig(receivers=("A", "B"), baseline_m=50e3)
    out = augmented(heard(), Nuisances(snr_db=20.0, shift_s=0.02), seed)
    features = cross_correlation_features(
        {name: ClockedRecording(*found) for name, found in out.items()}, config
    )
    late_samples = -time_differences_s(features, config)["A", "B"] * RATE_HZ
    assert abs(late_samples - 3.3) < 0.05


@given(st.floats(-20, 40))
def test_noise_is_at_the_given_ratio(snr_db):
    """The noise power is that of the signal divided by the ratio."""
    signal = tone(0.0, RATE_HZ, 48_000)
    noisy = augmented({"A": (signal, RATE_HZ)}, Nuisances(**OFF, snr_db=snr_db))["A"][0]
    np.testing.assert_allclose(np.mean(np.abs(noisy - signal) ** 2), 10 ** (-snr_db / 10), rtol=0.1)


@given(seeds)
def test_all_recordings_start_later_by_the_same_time(seed):
    """Also where rates differ, but for the rounding to samples."""
    ramps = {name: (np.arange(int(rate)) + 0j, rate) for name, rate in (("A", 48e3), ("B", 12e3))}
    out = augmented(ramps, Nuisances(**OFF, shift_s=0.5), seed)
    starts_s = [float(iq[0].real) / rate_hz for iq, rate_hz in out.values()]
    assert 0 <= starts_s[0] <= 0.5
    assert abs(starts_s[0] - starts_s[1]) < 0.51 / 12e3 + 0.51 / 48e3


def test_without_nuisances_nothing_changes():
    """Every nuisance can be turned off."""
    out = augmented(heard(), Nuisances(**OFF))
    np.testing.assert_allclose(out["B"][0], heard()["B"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("recording", "shift_s", "message"),
    [
        (np.zeros(10), 0.0, r"receiver 'A': IQ is complex .* not float64 \(10,\)"),
        (np.zeros(10, complex), 9.0, r"lower shift_s \(now 9.0\)"),
    ],
)
def test_unfit_recordings_are_rejected(recording, shift_s, message):
    """A shift past the end would leave nothing."""
    with pytest.raises(FeatureError, match=message):
        augmented({"A": (recording, RATE_HZ)}, Nuisances(shift_s=shift_s))


def test_a_negative_limit_is_rejected():
    """The error gives the setting's name and value."""
    with pytest.raises(FeatureError, match=r"offset_hz is -1\.0"):
        Nuisances(offset_hz=-1.0)
