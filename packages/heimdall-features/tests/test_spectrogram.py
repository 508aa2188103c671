"""Levels of known signals."""

import numpy as np
import pytest
import scipy.signal
from heimdall_features import FeatureError, compute_mfcc, iq_to_mel_spectrogram
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import bin_frequencies_hz, filter_bank
from heimdall_features.spectrogram import mel_spectrogram
from heimdall_features.spectrum import band_powers, decibels
from heimdall_features.testing import feature_configs, noise, tone
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

RATE_HZ = 48_000.0


def total_db(levels):
    """Total level of all bands of each column."""
    return 10 * np.log10((10 ** (levels / 10)).sum(axis=0))


@given(st.floats(-20e3, 20e3), st.floats(-80, 0))
def test_a_tones_level_is_its_power_at_any_frequency(frequency_hz, level_db):
    """Full scale is 0 dB: levels mean the same at every receiver and in any band."""
    iq = 10 ** (level_db / 20) * tone(frequency_hz, RATE_HZ, 8192)
    levels = iq_to_mel_spectrogram(iq, RATE_HZ)
    np.testing.assert_allclose(total_db(levels), level_db, atol=0.01)


@given(st.floats(500, 20e3))
def test_the_two_sides_of_the_carrier_differ(frequency_hz):
    """The spectrum of a real signal would fold them and lose half of the information."""
    above = iq_to_mel_spectrogram(tone(frequency_hz, RATE_HZ, 4096), RATE_HZ)
    below = iq_to_mel_spectrogram(tone(-frequency_hz, RATE_HZ, 4096), RATE_HZ)
    assert (above.argmax(axis=0) >= 64).all()
    heard = above > -100  # further down, float32 rounds too much
    np.testing.assert_allclose(above[heard], below[::-1][heard], atol=0.01)


@given(st.floats(-60, 20))
def test_gain_is_an_offset(gain_db):
    """Path loss must appear as it is, in dB."""
    iq = 0.01 * noise(np.random.default_rng(0), 8192)
    louder = iq_to_mel_spectrogram(10 ** (gain_db / 20) * iq, RATE_HZ)
    np.testing.assert_allclose(louder, iq_to_mel_spectrogram(iq, RATE_HZ) + gain_db, atol=1e-3)


@given(st.integers(2048, 40_000), st.integers(1, 50))
def test_any_length_gives_the_requested_columns(n_samples, n_frames):
    """The network's input has one size, for recordings of any length."""
    levels = iq_to_mel_spectrogram(np.ones(n_samples, np.complex64), RATE_HZ, n_frames=n_frames)
    assert levels.shape == (128, n_frames)
    np.testing.assert_allclose(total_db(levels), 0.0, atol=1e-3)


@given(st.integers(4096, 40_000), st.floats(0, 1))
def test_the_columns_cover_the_whole_recording(n_samples, where):
    """A click anywhere, even at the very end, must appear: no signal is lost."""
    iq = np.zeros(n_samples, np.complex64)
    at = round(4 + where * (n_samples - 9))
    iq[at] = 1.0
    assert iq_to_mel_spectrogram(iq, RATE_HZ, n_frames=32).max() > -140


@given(feature_configs(), st.integers(1, 5))
def test_tiles_give_the_same_as_the_whole_bank(config, n):
    """Skipping zeros must skip nothing else."""
    n_bins = config.n_fft if config.spectrum == "two-sided" else config.n_fft // 2 + 1
    squares = np.random.default_rng(n).random((n, 2 * n_bins)).astype(np.float32)
    powers = squares.reshape(n, n_bins, 2).sum(-1)
    expected = powers.astype(np.float64) @ filter_bank(config)
    np.testing.assert_allclose(band_powers(squares, config), expected, rtol=1e-5)


@given(arrays(np.float32, 20, elements=st.floats(0, 2**20, width=32)), st.floats(-200, 0))
def test_decibels_agree_with_numpys_logarithm(powers, floor_db):
    """An outside oracle in double precision; zero gives the floor."""
    with np.errstate(divide="ignore"):
        expected = np.maximum(10 * np.log10(powers.astype(np.float64)), floor_db)
    np.testing.assert_allclose(decibels(powers, floor_db), expected, atol=1e-4)


@given(feature_configs(), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.data())
def test_several_recordings_give_what_each_gives_alone(config, several, data):
    """Bit for bit, whatever the layout in memory: a batch must not change a receiver's levels."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = (*several, config.n_fft + data.draw(st.integers(0, 2 * config.n_fft)))
    iq = 0.1 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    iq = iq.real if config.spectrum == "one-sided" else iq
    iq = iq.astype(iq.dtype.newbyteorder(data.draw(st.sampled_from("<>"))))
    layout = data.draw(st.sampled_from(["C", "F", "reversed", "repeated"]))
    if layout == "reversed":
        iq = iq[..., ::-1]
    elif layout == "repeated":
        iq = np.broadcast_to(iq, (2, *shape))
    else:
        iq = np.asarray(iq, order=layout)
    n_frames = data.draw(st.none() | st.integers(1, 9))
    levels = mel_spectrogram(iq, config, n_frames)
    assert levels.dtype == np.float32
    assert levels.shape[:-1] == (*iq.shape[:-1], config.n_mels)
    assert levels.shape[-1] == n_frames or not n_frames
    mfcc = compute_mfcc(levels, 1)
    for number in np.ndindex(iq.shape[:-1]):
        alone = mel_spectrogram(iq[number].copy(), config, n_frames)
        np.testing.assert_array_equal(levels[number], alone)
        np.testing.assert_array_equal(mfcc[number], compute_mfcc(alone, 1))


def test_three_receivers_are_one_call():
    """As the specification says it: (3, 192000) in, (3, 128, 372) out, and MFCCs of these."""
    iq = 0.1 * noise(np.random.default_rng(0), 576_000).reshape(3, 192_000)
    levels = iq_to_mel_spectrogram(iq.astype(np.complex64), 192_000)
    assert levels.shape == (3, 128, 372)
    assert compute_mfcc(levels).shape == (3, 13, 372)
    assert iq_to_mel_spectrogram(iq[:0], 192_000, n_frames=32).shape == (0, 128, 32)


@pytest.mark.parametrize(
    ("iq", "message"),
    [
        (np.zeros((), complex), r"shape \(n_samples,\), not \(\)"),
        (np.zeros((3, 0), complex), r"IQ of shape \(3, 0\), .*0 samples are less"),
        (np.zeros((8192, 3), complex), r"IQ of shape \(8192, 3\), .*3 samples are less"),
        (np.zeros((0, 100), complex), "100 samples are less"),
        (np.zeros((2, 8192)), r"complex IQ, not float64; combine I and Q"),
        (np.zeros((0, 8192)), "complex IQ, not float64"),
        (np.zeros((2, 8192), np.int16), "samples are int16; scale integers"),
        (np.zeros((2, 8192), object), "complex IQ, not object"),
        (np.array([np.ones(8192, complex), np.full(8192, np.nan)]), r"recording \(1,\) of .*NaN"),
        (np.array([np.ones(8192, complex), np.full(8192, 9.0)]), r"recording \(1,\) of .*reach 9"),
        ([[1j] * 4096] * 3, "not list"),
    ],
)
def test_unfit_recordings_are_rejected(iq, message):
    """The error names the shape or the recording: one of three may be the bad one."""
    with pytest.raises(FeatureError, match=message):
        iq_to_mel_spectrogram(iq, RATE_HZ)


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


def test_a_column_averages_power_and_not_decibels():
    """By hand: half silence and half a full-scale tone is -3 dB, not half the floor."""
    iq = tone(1000.0, RATE_HZ, 409_600)
    iq[: iq.size // 2] = 0
    levels = total_db(iq_to_mel_spectrogram(iq, RATE_HZ, n_frames=1))
    np.testing.assert_allclose(levels, -3.01, atol=0.02)


def test_the_carrier_is_in_both_middle_bands():
    """By hand: a tone on the carrier is between bands 63 and 64, 3 dB down in each."""
    levels = iq_to_mel_spectrogram(np.ones(4096, np.complex64), RATE_HZ, n_frames=1)[:, 0]
    np.testing.assert_allclose(levels[[63, 64]], -3.15, atol=0.05)
    assert levels[:61].max() == levels[67:].max() == -140


def test_the_envelope_does_not_depend_on_the_carrier():
    """Old models were trained on |iq|."""
    am = (1 + 0.5 * np.cos(2 * np.pi * 1000 / RATE_HZ * np.arange(8192))) * 0.1
    levels = iq_to_mel_spectrogram(
        am * tone(7000.0, RATE_HZ, 8192), RATE_HZ, n_mels=40, spectrum="envelope"
    )
    direct = iq_to_mel_spectrogram(am, RATE_HZ, n_mels=40, spectrum="one-sided")
    np.testing.assert_allclose(levels, direct, atol=0.05)


@pytest.mark.parametrize("spectrum", ["one-sided", "two-sided"])
def test_the_filter_bank_is_in_fft_order(spectrum):
    """Its rows and the bins of the FFT must be the same bins."""
    config = SpectrumConfig(spectrum=spectrum, n_mels=16)
    frequency_hz = bin_frequencies_hz(config)[300]
    signal = tone(frequency_hz, RATE_HZ, 2048)
    levels = mel_spectrogram(signal.real if spectrum == "one-sided" else signal, config)
    assert levels[:, 0].argmax() == filter_bank(config)[300].argmax()
