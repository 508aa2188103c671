"""A backend measures levels without knowing what was sent, and comes close."""

import numpy as np
import pytest
from heimdall_simulation.receiver import LEAST_SNR_DB, measured_levels_db

CHANNEL_SHARE = 20_000 / 48_000


def recording(signal_rms, noise_rms, n_samples=24_000):
    """A carrier off the middle, in noise; full scale is 32767."""
    rng = np.random.default_rng(3)
    carrier = signal_rms * np.exp(2j * np.pi * 0.03 * np.arange(n_samples))
    noise = noise_rms / np.sqrt(2) * rng.standard_normal((2, n_samples))
    return np.rint(np.stack([carrier.real, carrier.imag]) + noise).astype(np.int16)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0, 50.0])
def test_signal_and_noise_are_told_apart(snr_db):
    """The catalogue's snr_db means what it says over the whole range of a network."""
    noise_rms = 20.0
    signal_rms = noise_rms * 10 ** (snr_db / 20)
    measured_snr_db, strength_db = measured_levels_db(
        recording(signal_rms, noise_rms), CHANNEL_SHARE
    )
    assert abs(measured_snr_db - snr_db) < 0.4
    assert abs(strength_db - 20 * np.log10(signal_rms / 32767)) < 0.3


def test_nothing_but_noise_is_reported_as_the_least():
    """No logarithm of zero, and no claim of a signal."""
    measured_snr_db, _ = measured_levels_db(recording(0.0, 20.0), CHANNEL_SHARE)
    assert LEAST_SNR_DB <= measured_snr_db < -15
