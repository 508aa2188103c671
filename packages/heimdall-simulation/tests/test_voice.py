"""The modulating signal has the band, pauses and peaks of speech."""

import numpy as np
import pytest
from heimdall_simulation.voice import AUDIO_BAND_HZ, modulating_signal
from hypothesis import given
from hypothesis import strategies as st

RATE_HZ = 48_000.0


@pytest.fixture(scope="module")
def minute():
    """A minute of speech."""
    return modulating_signal(np.random.default_rng(5), 60 * 48_000, RATE_HZ)


def is_loud(signal):
    """For each 20 ms, whether the power is above a 400th of the mean."""
    power = (signal**2).reshape(-1, 960).mean(axis=1)
    return power > (signal**2).mean() / 400


@given(st.integers(0, 2**32), st.integers(4800, 48_000))
def test_the_signal_stays_within_full_deviation_and_the_audio_band(seed, n_samples):
    """More would disturb the neighbouring channel."""
    signal = modulating_signal(np.random.default_rng(seed), n_samples, RATE_HZ)
    power = np.abs(np.fft.rfft(signal)) ** 2
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / RATE_HZ)
    outside = (frequency_hz < 0.99 * AUDIO_BAND_HZ[0]) | (frequency_hz > 1.01 * AUDIO_BAND_HZ[1])
    assert signal.shape == (n_samples,)
    assert np.abs(signal).max() <= 1.0
    assert power[outside].sum() < 1e-9 * power.sum()


def test_the_speaker_is_loud_and_talks_most_of_the_time(minute):
    """Spurts of a second and breaths of 0.4 s are 70 % speech; weak peaks would waste SNR."""
    assert np.abs(minute).max() > 0.7
    assert 0.5 < is_loud(minute).mean() < 0.85


def test_pauses_have_the_length_of_a_breath(minute):
    """Hundreds of milliseconds; the gap of one pitch period is not a pause."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_loud(minute), [True]]).astype(int)))
    silences_s = np.diff(edges)[::2] * 0.02
    assert 10 < np.sum(silences_s > 0.2) < 60


def test_syllables_shape_the_envelope(minute):
    """Speech varies about four times a second, noise does not."""
    envelope = np.sqrt((minute**2).reshape(-1, 480).mean(axis=1))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean())) ** 2
    frequency_hz = np.fft.rfftfreq(len(envelope), 0.01)
    slow = spectrum[(frequency_hz > 0.3) & (frequency_hz < 10)].mean()
    fast = spectrum[(frequency_hz > 25) & (frequency_hz < 50)].mean()
    assert slow > 10 * fast
