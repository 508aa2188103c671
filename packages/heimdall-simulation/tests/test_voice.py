"""What modulates the carrier has speech's band, pauses and peaks."""

import numpy as np
import pytest
from heimdall_simulation.voice import AUDIO_BAND_HZ, modulating_signal

RATE_HZ = 48_000.0


@pytest.fixture(scope="module")
def minute():
    """A minute of talk."""
    return modulating_signal(np.random.default_rng(5), 60 * 48_000, RATE_HZ)


def loud(signal):
    """Whether each 20 ms are above a twentieth of the whole's level."""
    power = (signal**2).reshape(-1, 960).mean(axis=1)
    return power > (signal**2).mean() / 400


def test_nothing_is_outside_the_audio_band(minute):
    """A set's filters hold the channel; energy beside it would be noise to the neighbour."""
    power = np.abs(np.fft.rfft(minute)) ** 2
    frequency_hz = np.fft.rfftfreq(len(minute), 1 / RATE_HZ)
    outside = (frequency_hz < AUDIO_BAND_HZ[0]) | (frequency_hz > AUDIO_BAND_HZ[1])
    assert power[outside].sum() < 1e-9 * power.sum()


def test_peaks_stay_within_full_deviation_and_come_near_it(minute):
    """More would break the channel; much less would waste the signal-to-noise ratio."""
    assert 0.7 < np.abs(minute).max() <= 1.0


def test_the_speaker_pauses_and_still_talks_most_of_the_time(minute):
    """With the key held, spurts of a second and breaths of 0.4 s: some 70 % speech."""
    assert 0.5 < loud(minute).mean() < 0.85


def test_pauses_last_as_long_as_a_breath(minute):
    """A pause is hundreds of milliseconds: a hole of one pitch period is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], loud(minute), [True]]).astype(int)))
    silences_s = np.diff(edges)[::2] * 0.02
    assert 10 < np.sum(silences_s > 0.2) < 60


def test_syllables_shape_the_envelope(minute):
    """Speech is loud and soft about four times a second, which noise is not."""
    envelope = np.sqrt((minute**2).reshape(-1, 480).mean(axis=1))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean())) ** 2
    frequency_hz = np.fft.rfftfreq(len(envelope), 0.01)
    slow = spectrum[(frequency_hz > 0.3) & (frequency_hz < 10)].mean()
    fast = spectrum[(frequency_hz > 25) & (frequency_hz < 50)].mean()
    assert slow > 10 * fast


def test_another_generator_says_something_else():
    """Two sessions must not share their words."""
    one, two = (modulating_signal(np.random.default_rng(n), 48_000, RATE_HZ) for n in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.2
