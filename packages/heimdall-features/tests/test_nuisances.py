"""What happens to a signal on its way, without moving the transmitter."""

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
QUIET = Nuisances(**OFF)
seeds = st.integers(0, 2**32 - 1)


def heard(seed=0):
    """One transmission at two receivers, 20 dB and 3.3 samples apart."""
    signal = noise(np.random.default_rng(seed), 24_000)
    return {"A": (signal, RATE_HZ), "B": (0.1 * delayed(signal, 3.3 / RATE_HZ, RATE_HZ), RATE_HZ)}


@given(seeds)
def test_level_differences_stay(seed):
    """One gain for all: they carry the position."""
    out = augment_iq(heard(), np.random.default_rng(seed))
    ratio = np.linalg.norm(out["B"][0]) / np.linalg.norm(out["A"][0])
    np.testing.assert_allclose(ratio, 0.1, rtol=1e-4)


@given(st.integers(0, 7))
def test_differences_of_arrival_time_stay(seed):
    """They carry the position too, through every nuisance at once."""
    config = CorrelationConfig(receivers=("A", "B"), baseline_m=50e3)
    nuisances = Nuisances(snr_db=20.0, shift_s=0.02)
    out = augment_iq(heard(), np.random.default_rng(seed), nuisances)
    features = cross_correlation_features(
        {name: ClockedRecording(*found) for name, found in out.items()}, config
    )
    late_samples = -time_differences_s(features, config)["A", "B"] * RATE_HZ
    assert abs(late_samples - 3.3) < 0.05


def test_noise_is_at_the_stated_ratio():
    """By hand: 10 dB below the signal."""
    signal = {"A": (tone(0.0, RATE_HZ, 48_000), RATE_HZ)}
    noisy = augment_iq(
        signal,
        np.random.default_rng(0),
        Nuisances(**OFF, snr_db=10.0),
    )
    added = noisy["A"][0] - signal["A"][0]
    np.testing.assert_allclose(np.mean(np.abs(added) ** 2), 0.1, rtol=0.03)


def test_all_recordings_start_later_by_the_same_time():
    """Also where rates differ."""
    ramps = {name: (np.arange(int(rate)) + 0j, rate) for name, rate in (("A", 48e3), ("B", 12e3))}
    out = augment_iq(
        ramps,
        np.random.default_rng(0),
        Nuisances(**OFF, shift_s=0.5),
    )
    starts_s = [float(iq[0].real) / rate_hz for iq, rate_hz in out.values()]
    assert 0 < starts_s[0] < 0.5
    assert abs(starts_s[0] - starts_s[1]) <= 0.5 / 12e3


def test_nothing_asked_for_nothing_changed():
    """Every nuisance can be turned off."""
    out = augment_iq(heard(), np.random.default_rng(0), QUIET)
    np.testing.assert_allclose(out["B"][0], heard()["B"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("recording", "nuisances", "says"),
    [
        (np.zeros(10), QUIET, "receiver 'A': IQ is complex (n_samples,), not float64 (10,)"),
        (np.zeros(10, complex), Nuisances(shift_s=9.0), "lower shift_s (now 9.0)"),
    ],
)
def test_what_cannot_be_changed_is_refused(recording, nuisances, says):
    """A shift past the end would leave nothing."""
    with pytest.raises(FeatureError) as error:
        augment_iq({"A": (recording, RATE_HZ)}, np.random.default_rng(0), nuisances)
    assert says in str(error.value)


def test_a_negative_offset_limit_is_refused():
    """The message is all an operator sees."""
    with pytest.raises(FeatureError, match=r"offset_hz is -1\.0; it must be finite"):
        Nuisances(offset_hz=-1.0)
