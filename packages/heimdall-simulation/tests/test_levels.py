"""Levels are measured without knowing the signal."""

import numpy as np
from heimdall_simulation.receiver import LEAST_SNR_DB, measured_levels_db
from hypothesis import given
from hypothesis import strategies as st

CHANNEL_SHARE = 20_000 / 48_000
seeds = st.integers(0, 2**32)


def recording(seed, signal_rms, noise_rms=20.0, n_samples=24_000):
    """A carrier beside the middle, in noise; full scale is 32767."""
    rng = np.random.default_rng(seed)
    carrier = signal_rms * np.exp(2j * np.pi * 0.03 * np.arange(n_samples))
    noise = noise_rms / np.sqrt(2) * rng.standard_normal((2, n_samples))
    return np.rint(np.stack([carrier.real, carrier.imag]) + noise).astype(np.int16)


@given(seeds, st.floats(-5, 50))
def test_signal_and_noise_are_measured(seed, snr_db):
    """The catalogue's snr_db is accurate over the whole range of a network."""
    signal_rms = 20.0 * 10 ** (snr_db / 20)
    measured_snr_db, strength_db = measured_levels_db(recording(seed, signal_rms), CHANNEL_SHARE)
    assert abs(measured_snr_db - snr_db) < 0.6
    assert abs(strength_db - 20 * np.log10(signal_rms / 32767)) < 0.6


@given(seeds)
def test_noise_alone_gives_the_lowest_ratio(seed):
    """No logarithm of zero, and no report of a signal."""
    measured_snr_db, _ = measured_levels_db(recording(seed, 0.0), CHANNEL_SHARE)
    assert LEAST_SNR_DB <= measured_snr_db < -12
