"""The modulated carrier is what FM is: constant in envelope, bounded in frequency."""

import numpy as np
from heimdall_simulation.packets import carson_bandwidth_hz, fm_baseband
from heimdall_simulation.voice import modulating_signal
from hypothesis import given
from hypothesis import strategies as st

RATE_HZ = 48_000.0
seeds = st.integers(0, 2**32)
deviations_hz = st.floats(2500, 5000)


def voice(seed):
    """A quarter of a second of talk."""
    return modulating_signal(np.random.default_rng(seed), 12_000, RATE_HZ)


@given(seeds, deviations_hz)
def test_the_envelope_is_constant(seed, deviation_hz):
    """All of the voice is in the phase: levels tell of the path, not of who speaks."""
    assert np.allclose(np.abs(fm_baseband(voice(seed), deviation_hz, RATE_HZ)), 1, atol=1e-12)


@given(seeds, deviations_hz)
def test_carsons_bandwidth_holds_the_power(seed, deviation_hz):
    """The rule of 1922: 98 % and more for a voice, whose peaks are rare."""
    power = np.abs(np.fft.fft(fm_baseband(voice(seed), deviation_hz, RATE_HZ))) ** 2
    frequency_hz = np.fft.fftfreq(12_000, 1 / RATE_HZ)
    inside = np.abs(frequency_hz) <= carson_bandwidth_hz(deviation_hz, 3000) / 2
    assert power[inside].sum() > 0.98 * power.sum()


@given(seeds, deviations_hz)
def test_the_frequency_follows_the_voice(seed, deviation_hz):
    """A discriminator gives back what was said, in hertz."""
    turns = np.angle(
        np.roll(fm_baseband(voice(seed), deviation_hz, RATE_HZ), -1)
        / fm_baseband(voice(seed), deviation_hz, RATE_HZ)
    ) / (2 * np.pi)
    said_hz = deviation_hz * (voice(seed) + np.roll(voice(seed), -1)) / 2
    assert np.abs(turns * RATE_HZ - said_hz).max() < 0.02 * deviation_hz


def test_a_tone_has_bessels_sidebands():
    """The textbook spectrum: at modulation index 2.405 the carrier vanishes."""
    tone = np.cos(2 * np.pi * 1000 * np.arange(4800) / RATE_HZ)
    spectrum = np.abs(np.fft.fft(fm_baseband(tone, 2404.8, RATE_HZ))) / 4800
    assert spectrum[0] < 1e-4
    assert abs(spectrum[100] - 0.5191) < 1e-4
