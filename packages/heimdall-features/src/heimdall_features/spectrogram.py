"""The mel spectrogram of a recording, or of several of one length."""

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import Spectrum, SpectrumConfig
from heimdall_features.errors import FeatureError
from heimdall_features.frames import FramePlan
from heimdall_features.signal import Blocks, Samples, open_source, require_rate, require_type
from heimdall_features.spectrum import decibels, mel_powers


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
    """Return the level of each mel band over time, in dB relative to full scale.

    Args:
        iq: `(..., n_samples)` with full scale 1: complex for `two-sided` and `envelope`, real for
            `one-sided`. Each recording gives the same as alone.
        sample_rate_hz: True sample rate.
        n_mels: Bands; two-sided, they run from below the carrier to above it.
        n_fft: Samples per frame.
        hop_length: Samples from one frame to the next.
        spectrum: Both sides of the carrier, one side, or one side of `|iq|`.
        n_frames: Columns that together cover the recording; None: one per hop.

    Returns:
        float32 `(..., n_mels, n_frames)`.

    Raises:
        FeatureError: The settings or the recording are invalid.
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
    """Return the same for IQ at the configured rate, with any settings."""
    if not isinstance(iq, np.ndarray) or iq.ndim < 2:
        powers = mel_powers(open_source(iq, config.spectrum), config, n_frames)
        return decibels(powers, config.floor_db)
    several, n_samples = iq.shape[:-1], iq.shape[-1]
    try:
        # Here, as there may be no recording at all.
        require_type(iq, config.spectrum)
        plan = FramePlan(n_samples, config.n_fft, config.hop_length, n_frames)
    except FeatureError as error:
        raise FeatureError(f"IQ of shape {iq.shape}, (..., n_samples): {error}") from error
    levels = np.empty((*several, config.n_mels, n_frames or plan.n_frames), np.float32)
    for number in np.ndindex(several):
        try:
            levels[number] = mel_spectrogram(iq[number], config, n_frames)
        except FeatureError as error:
            raise FeatureError(f"recording {number} of {several}: {error}") from error
    return levels
