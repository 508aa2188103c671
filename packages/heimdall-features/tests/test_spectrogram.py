"""Levels of known signals."""

import numpy as np
import pytest
import scipy.signal
from heimdall_features import iq_to_mel_spectrogram
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import bin_frequencies_hz, filter_bank
from heimdall_features.spectrogram import mel_spectrogram
from heimdall_features.testing import noise, tone
from hypothesis import given
from hypothesis import strategies as st

RATE_HZ = 48_000.0


def total_db(levels):
    """What all bands of each column hold together."""
    return 10 * np.log10((10 ** (levels / 10)).sum(axis=0))


@given(st.floats(-20e3, 20e3), st.floats(-80, 0))
def test_a_tones_level_is_its_power_wherever_it_lies(frequency_hz, level_db):
    """Full scale is 0 dB: levels mean the same at every receiver, in any band."""
    iq = 10 ** (level_db / 20) * tone(frequency_hz, RATE_HZ, 8192)
    levels = iq_to_mel_spectrogram(iq, RATE_HZ)
    np.testing.assert_allclose(total_db(levels), level_db, atol=0.01)


@given(st.floats(500, 20e3))
def test_the_sides_of_the_carrier_are_told_apart(frequency_hz):
    """A real-signal spectrum would fold them, and lose half of what IQ knows."""
    above = iq_to_mel_spectrogram(tone(frequency_hz, RATE_HZ, 4096), RATE_HZ)
    below = iq_to_mel_spectrogram(tone(-frequency_hz, RATE_HZ, 4096), RATE_HZ)
    assert (above.argmax(axis=0) >= 64).all()
    heard = above > -100  # float32 rounds, the more the further below the strongest band
    np.testing.assert_allclose(above[heard], below[::-1][heard], atol=0.01)


@given(st.floats(-60, 20))
def test_gain_is_an_offset(gain_db):
    """What the path loss does must be seen as it is, in dB."""
    iq = 0.01 * noise(np.random.default_rng(0), 8192)
    louder = iq_to_mel_spectrogram(10 ** (gain_db / 20) * iq, RATE_HZ)
    np.testing.assert_allclose(louder, iq_to_mel_spectrogram(iq, RATE_HZ) + gain_db, atol=1e-3)


@given(st.integers(2048, 40_000), st.integers(1, 50))
def test_any_length_gives_the_columns_asked_for(n_samples, n_frames):
    """The network's input has one size, however long the recording."""
    levels = iq_to_mel_spectrogram(np.ones(n_samples, np.complex64), RATE_HZ, n_frames=n_frames)
    assert levels.shape == (128, n_frames)
    np.testing.assert_allclose(total_db(levels), 0.0, atol=1e-3)


@given(st.integers(4096, 40_000), st.floats(0, 1))
def test_the_columns_cover_the_whole_recording(n_samples, where):
    """A click anywhere, even at the very end, must show: no signal is thrown away."""
    iq = np.zeros(n_samples, np.complex64)
    at = round(4 + where * (n_samples - 9))
    iq[at] = 1.0
    assert iq_to_mel_spectrogram(iq, RATE_HZ, n_frames=32).max() > -140


def test_welchs_method_gives_the_same_spectrum():
    """An outside oracle: SciPy's own estimate, over the same frames."""
    iq = noise(np.random.default_rng(0), 2048 + 99 * 512)
    config = SpectrumConfig()
    _, density = scipy.signal.welch(
        iq, RATE_HZ, "hann", 2048, 1536, detrend=False, return_onesided=False
    )
    expected = density * RATE_HZ / 2048 @ filter_bank(config)
    levels = mel_spectrogram(iq, config, n_frames=1)[:, 0]
    np.testing.assert_allclose(10 ** (levels / 10), expected, rtol=1e-4)


def test_power_is_averaged_inside_a_column_not_decibels():
    """By hand: half silence and half a full-scale tone is -3 dB, not the mean of two floors."""
    iq = tone(1000.0, RATE_HZ, 409_600)
    iq[: iq.size // 2] = 0
    levels = total_db(iq_to_mel_spectrogram(iq, RATE_HZ, n_frames=1))
    np.testing.assert_allclose(levels, -3.01, atol=0.02)


def test_the_carrier_itself_is_heard_in_both_middle_bands():
    """By hand: a tone on the carrier sits between band 63 and band 64, 3 dB down in each."""
    levels = iq_to_mel_spectrogram(np.ones(4096, np.complex64), RATE_HZ, n_frames=1)[:, 0]
    np.testing.assert_allclose(levels[[63, 64]], -3.15, atol=0.05)
    assert levels[:61].max() == levels[67:].max() == -140


def test_the_envelope_of_the_predecessor_is_there_by_name():
    """Old models were trained on |iq|: the carrier's frequency must not matter."""
    am = (1 + 0.5 * np.cos(2 * np.pi * 1000 / RATE_HZ * np.arange(8192))) * 0.1
    levels = iq_to_mel_spectrogram(
        am * tone(7000.0, RATE_HZ, 8192), RATE_HZ, n_mels=40, spectrum="envelope"
    )
    direct = iq_to_mel_spectrogram(am, RATE_HZ, n_mels=40, spectrum="one-sided")
    np.testing.assert_allclose(levels, direct, atol=0.05)


@pytest.mark.parametrize("spectrum", ["one-sided", "two-sided"])
def test_bins_stand_in_the_transforms_order(spectrum):
    """The filter bank's rows and the FFT's bins must be the same bins."""
    config = SpectrumConfig(spectrum=spectrum, n_mels=16)
    frequency_hz = bin_frequencies_hz(config)[300]
    signal = tone(frequency_hz, RATE_HZ, 2048)
    levels = mel_spectrogram(signal.real if spectrum == "one-sided" else signal, config)
    assert levels[:, 0].argmax() == filter_bank(config)[300].argmax()
