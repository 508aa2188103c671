"""The mel scale, mirrored at the carrier, and its triangular filter bank.

Narrow-band radio signals concentrate near the carrier as speech does at low frequencies, so the
mel scale suits them: `mel(-f) = -mel(f)` gives bands that widen outwards on both sides.

Sources: S. S. Stevens, J. Volkmann and E. B. Newman, "A scale for the measurement of the
psychological magnitude pitch", JASA 8 (1937). HTK's constants: D. O'Shaughnessy, "Speech
Communication" (1987), p. 150. Slaney's: M. Slaney, "Auditory Toolbox", Interval Research
Technical Report 1998-010.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import SpectrumConfig
from heimdall_features.errors import FeatureError

HTK_CORNER_HZ = 700.0
SLANEY_CORNER_HZ = 1000.0
SLANEY_LINEAR_HZ = 200.0 / 3.0
SLANEY_LOG_STEP = math.log(6.4) / 27.0

Array = NDArray[np.float64]


def bin_frequencies_hz(config: SpectrumConfig) -> Array:
    """Frequency of each FFT bin, in FFT order: `(n_fft,)` two-sided, else `(n_fft // 2 + 1,)`."""
    spacing_s = 1.0 / config.sample_rate_hz
    transform = np.fft.fftfreq if config.spectrum == "two-sided" else np.fft.rfftfreq
    return np.asarray(transform(config.n_fft, spacing_s), dtype=np.float64)


def band_edges_hz(config: SpectrumConfig) -> Array:
    """Corners of the triangles in Hz from the carrier, rising: float64 `(n_mels + 2,)`.

    Band `i` starts at corner `i`, has its peak at `i + 1` and ends at `i + 2`.
    """
    if config.mel_scale == "slaney":
        return _slaney_edges_hz(config)
    corner_hz = HTK_CORNER_HZ if config.mel_scale == "htk" else _radio_corner_hz(config)
    return _log_edges_hz(config, corner_hz)


def _span(config: SpectrumConfig, low_mel: float, high_mel: float) -> Array:
    start = -high_mel if config.spectrum == "two-sided" else low_mel
    return np.linspace(start, high_mel, config.n_mels + 2)


def _log_edges_hz(config: SpectrumConfig, corner_hz: float) -> Array:
    low_mel = math.log1p(config.f_min_hz / corner_hz)
    mels = _span(config, low_mel, math.log1p(config.band_edge_hz / corner_hz))
    return np.copysign(corner_hz * np.expm1(np.abs(mels)), mels)


def _radio_corner_hz(config: SpectrumConfig) -> float:
    """HTK's corner, or the lowest one with which no band is narrower than an FFT bin."""
    bin_hz = config.sample_rate_hz / config.n_fft

    def is_wide_enough(corner_hz: float) -> bool:
        return bool(np.diff(_log_edges_hz(config, corner_hz)).min() >= bin_hz)

    if is_wide_enough(HTK_CORNER_HZ):
        return HTK_CORNER_HZ
    # With a corner far above the band the scale is linear, which gives the widest bands.
    low, high = math.log(HTK_CORNER_HZ), math.log(HTK_CORNER_HZ + 1e4 * config.band_edge_hz)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if is_wide_enough(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _slaney_edges_hz(config: SpectrumConfig) -> Array:
    corner_mel = SLANEY_CORNER_HZ / SLANEY_LINEAR_HZ

    def to_mel(f_hz: float) -> float:
        if f_hz < SLANEY_CORNER_HZ:
            return f_hz / SLANEY_LINEAR_HZ
        return corner_mel + math.log(f_hz / SLANEY_CORNER_HZ) / SLANEY_LOG_STEP

    mels = _span(config, to_mel(config.f_min_hz), to_mel(config.band_edge_hz))
    above = np.maximum(np.abs(mels) - corner_mel, 0.0)
    linear_hz = np.minimum(np.abs(mels) * SLANEY_LINEAR_HZ, SLANEY_CORNER_HZ)
    edges_hz: Array = np.copysign(linear_hz * np.exp(above * SLANEY_LOG_STEP), mels)
    return edges_hz


@functools.lru_cache(maxsize=32)
def filter_bank(config: SpectrumConfig) -> Array:
    """Weight of each FFT bin in each band: float64 `(n_bins, n_mels)` in FFT order, read-only.

    Raises:
        FeatureError: A band contains no bin and would always be silent.
    """
    edges_hz = band_edges_hz(config)
    offsets_hz = bin_frequencies_hz(config)[:, None]
    low_hz, centre_hz, high_hz = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    # Each triangle is the lower of its two sides, and zero outside.
    weights: Array = offsets_hz - low_hz
    weights /= centre_hz - low_hz
    falling = high_hz - offsets_hz
    falling /= high_hz - centre_hz
    np.minimum(weights, falling, out=weights)
    np.maximum(weights, 0.0, out=weights)
    if config.mel_norm == "slaney":
        weights *= 2.0 / (high_hz - low_hz)
    silent = np.flatnonzero(weights.sum(axis=0) == 0.0)
    if silent.size:
        raise FeatureError(
            f"mel band {silent[0]} of {config.n_mels} holds no FFT bin ({silent.size} such bands); "
            f"raise n_fft (now {config.n_fft}), lower n_mels, or use mel_scale='radio'"
        )
    weights.flags.writeable = False
    return weights
