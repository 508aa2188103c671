"""The mel spectrogram of one recording."""

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import Spectrum, SpectrumConfig
from heimdall_features.signal import Blocks, Samples, open_source, require_rate
from heimdall_features.spectrum import column_powers, decibels, frame_powers

__all__ = ["iq_to_mel_spectrogram", "mel_spectrogram"]


def iq_to_mel_spectrogram(
    iq: Samples | Blocks,
    sample_rate_hz: float,
    *,
    n_mels: int = 128,
    n_fft: int = 2048,
    hop_length: int = 512,
    spectrum: Spectrum = "two-sided",
    n_frames: int | None = None,
) -> NDArray[np.float32]:
    """The level of each mel band over time, in dB relative to full scale.

    Args:
        iq: `(n_samples,)`, full scale 1: complex for `two-sided` and `envelope`, real for
            `one-sided`.
        sample_rate_hz: its true rate.
        n_mels: bands; two-sided they run from below the carrier to above it.
        n_fft: samples a frame.
        hop_length: samples from one frame to the next.
        spectrum: both sides of the carrier, one side, or one side of `|iq|`.
        n_frames: columns that together cover the recording; None gives one per hop.

    Returns:
        float32 `(n_mels, n_frames)`.

    Raises:
        FeatureError: when the settings or the recording allow no true feature.
    """
    config = SpectrumConfig(
        sample_rate_hz=require_rate(sample_rate_hz),
        n_mels=n_mels,
        n_fft=n_fft,
        hop_length=hop_length,
        spectrum=spectrum,
    )
    return mel_spectrogram(iq, config, n_frames)


def mel_spectrogram(
    iq: Samples | Blocks, config: SpectrumConfig, n_frames: int | None = None
) -> NDArray[np.float32]:
    """The level of each mel band over time, as `config` defines it.

    Args:
        iq: `(n_samples,)` at the configuration's rate, full scale 1.
        config: the definition.
        n_frames: columns that together cover the recording; None gives one per hop.

    Returns:
        float32 `(n_mels, n_frames)`, dB relative to full scale.

    Raises:
        FeatureError: when the recording allows no true feature.
    """
    source = open_source(iq, config.spectrum)
    if n_frames is None:
        powers = frame_powers(source, config)
    else:
        powers = column_powers(source, config, n_frames)
    return decibels(powers, config.floor_db)
