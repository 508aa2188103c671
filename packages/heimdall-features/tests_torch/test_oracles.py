"""torchaudio and librosa as oracles on real signals."""

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from heimdall_features import compute_mfcc
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import filter_bank
from heimdall_features.spectrogram import mel_spectrogram
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000
# Our power is theirs divided by this, so relative to full scale.
FULL_SCALE = 2048 * np.square(np.hanning(2049)[:-1]).sum()
NORMS = {"peak": None, "slaney": "slaney"}
suite = settings(max_examples=30, deadline=None)
scales = st.sampled_from(["htk", "slaney"])
norms = st.sampled_from(["peak", "slaney"])


def powers(config, signal):
    """Our features, converted back to powers."""
    return 10 ** (mel_spectrogram(signal, config).astype(np.float64) / 10)


def one_sided(scale, norm, n_mels=64):
    """Settings of the one-sided spectrum of real signals."""
    return SpectrumConfig(
        spectrum="one-sided", mel_scale=scale, mel_norm=norm, n_mels=n_mels, floor_db=-300.0
    )


def real_signal(seed):
    """Noise at a level at which all libraries round alike."""
    return np.random.default_rng(seed).normal(size=30_000).astype(np.float32)


@suite
@given(scales, norms, st.integers(0, 1000))
def test_torchaudio_gives_the_same_spectrogram(scale, norm, seed):
    """To 1e-4: a model trained on theirs can be served with ours."""
    config, signal = one_sided(scale, norm), real_signal(seed)
    theirs = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, 2048, hop_length=512, n_mels=64, center=False, norm=NORMS[norm], mel_scale=scale
    )(torch.from_numpy(signal))
    np.testing.assert_allclose(powers(config, signal), theirs.numpy() / FULL_SCALE, rtol=1e-4)


@suite
@given(scales, norms, st.integers(0, 1000))
def test_librosa_gives_the_same_spectrogram(scale, norm, seed):
    """To 1e-4."""
    config, signal = one_sided(scale, norm), real_signal(seed)
    theirs = librosa.feature.melspectrogram(
        y=signal, sr=RATE_HZ, n_fft=2048, hop_length=512, n_mels=64, center=False,
        htk=scale == "htk", norm=NORMS[norm],
    )  # fmt: skip
    np.testing.assert_allclose(powers(config, signal), theirs / FULL_SCALE, rtol=1e-4)


@suite
@given(scales, norms, st.integers(8, 90))
def test_librosa_and_torchaudio_have_the_same_bands(scale, norm, n_mels):
    """Each weight of the filter bank."""
    bank = filter_bank(one_sided(scale, norm, n_mels))
    librosas = librosa.filters.mel(
        sr=RATE_HZ, n_fft=2048, n_mels=n_mels, htk=scale == "htk", norm=NORMS[norm],
        dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(bank, librosas.T, atol=1e-6)
    torchaudios = torchaudio.functional.melscale_fbanks(
        1025, 0.0, 24e3, n_mels, RATE_HZ, NORMS[norm], scale
    )
    np.testing.assert_allclose(bank, torchaudios.numpy(), atol=2e-4)


@pytest.mark.parametrize("n_mfcc", [13, 40, 64])
def test_torchaudio_gives_the_same_mfcc(n_mfcc):
    """Its transform of the same log-mel levels is ours."""
    log_mel = mel_spectrogram(real_signal(0), one_sided("htk", "peak"))
    dct = torchaudio.functional.create_dct(n_mfcc, 64, norm="ortho").numpy()
    np.testing.assert_allclose(compute_mfcc(log_mel, n_mfcc), dct.T @ log_mel, atol=2e-3)


def test_torchaudios_whole_mfcc_is_ours():
    """From the signal on; dB re full scale differ by a constant, in coefficient 0."""
    signal = real_signal(1)
    theirs = torchaudio.transforms.MFCC(
        RATE_HZ,
        n_mfcc=20,
        melkwargs={"n_fft": 2048, "hop_length": 512, "n_mels": 64, "center": False},
    )(torch.from_numpy(signal)).numpy()
    ours = compute_mfcc(mel_spectrogram(signal, one_sided("htk", "peak")), 20)
    ours[0] += 10 * np.log10(FULL_SCALE) * np.sqrt(64)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_an_stft_of_complex_iq_gives_the_same_two_sided_bands():
    """torch.stft also gives both sides; the bands are then a matrix product."""
    config = SpectrumConfig()
    iq = (real_signal(2) + 1j * real_signal(3)).astype(np.complex64)
    stft = torch.stft(
        torch.from_numpy(iq), 2048, 512, window=torch.hann_window(2048), center=False,
        onesided=False, return_complex=True,
    )  # fmt: skip
    theirs = filter_bank(config).T @ stft.abs().square().double().numpy() / FULL_SCALE
    np.testing.assert_allclose(powers(config, iq), theirs, rtol=1e-4)
