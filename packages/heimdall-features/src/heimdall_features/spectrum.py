"""Power spectra of overlapping windowed frames, a few frames at a time.

The method is Welch's: P. D. Welch, "The use of fast Fourier transform for the estimation of
power spectra", IEEE Trans. Audio Electroacoust. 15 (1967). Power is relative to full scale
(`|iq| = 1`): divided by `n_fft * sum(window ** 2)`, the bins of a frame add up to its mean
windowed power, so a full-scale tone totals 1, whichever bin it is in (Parseval).

Memory, not arithmetic, is the limit, so the frames of a block stay in cache from the window
to the square, and a column's frames are added up before any filter bank is applied.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from heimdall_features.config import SpectrumConfig
from heimdall_features.errors import FeatureError
from heimdall_features.mel import filter_bank
from heimdall_features.signal import Samples, Source

__all__ = ["FramePlan", "column_powers", "frame_powers", "mel_powers"]

BLOCK_BYTES = 1 << 18
"""What one block of frames takes as it is transformed: it fits a core's second-level cache."""

BANDS_PER_TILE = 16

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Where the frames of a recording start, and which column each belongs to.

    A regular frame every hop, and one last frame that ends with the recording. A recording
    too short for `n_columns` hops has its frames closer together, one to a column, the first
    at its start and the last at its end.
    """

    n_samples: int
    n_fft: int
    hop_length: int
    n_columns: int | None
    """None: one column per regular frame, and what is left at the end is not analysed."""

    def __post_init__(self) -> None:
        """Refuse a recording without a whole frame.

        Raises:
            FeatureError: says how many samples there are and how many it takes.
        """
        if self.n_samples < self.n_fft:
            raise FeatureError(
                f"{self.n_samples} samples are less than one frame of n_fft={self.n_fft}; "
                "record for longer or choose a smaller n_fft"
            )

    @property
    def n_regular(self) -> int:
        """Frames that start at a multiple of the hop."""
        return 1 + (self.n_samples - self.n_fft) // self.hop_length

    @property
    def n_frames(self) -> int:
        """All frames."""
        if self.n_columns is None:
            return self.n_regular
        return max(self.n_columns, self.n_regular + (self._last > self._last_regular))

    @property
    def _last(self) -> int:
        return self.n_samples - self.n_fft

    @property
    def _last_regular(self) -> int:
        return (self.n_regular - 1) * self.hop_length

    def runs(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Frames `first` to `stop` as evenly spaced runs: (start, how many, spacing)."""
        if self.n_frames == self.n_columns:
            for frame in range(first, stop):
                yield round(frame * self._last / max(1, self.n_frames - 1)), 1, self.hop_length
            return
        regular_stop = min(stop, self.n_regular)
        if first < regular_stop:
            yield first * self.hop_length, regular_stop - first, self.hop_length
        if stop > self.n_regular:
            yield self._last, 1, self.hop_length

    def columns(self) -> Iterator[tuple[int, int]]:
        """The frames (first, stop) of each column; their numbers differ by one at most."""
        n_columns = self.n_frames if self.n_columns is None else self.n_columns
        for column in range(n_columns):
            yield column * self.n_frames // n_columns, (column + 1) * self.n_frames // n_columns


class Squares:
    """The squared real and imaginary parts of each frame's spectrum, side by side.

    Their pairwise sums are powers; since all that follows is linear, the sum waits until
    there is less to add.
    """

    def __init__(self, config: SpectrumConfig) -> None:
        """Set up the window and one block of work space."""
        # 0.4 s to import: only who computes pays.
        import scipy.fft

        is_complex = config.spectrum == "two-sided"
        self._transform = scipy.fft.fft if is_complex else scipy.fft.rfft
        self._window = scaled_window(config.n_fft)
        dtype = np.dtype(np.complex64 if is_complex else np.float32)
        self.frames_per_block = max(1, BLOCK_BYTES // (config.n_fft * dtype.itemsize))
        self._work: NDArray[Any] = np.empty((self.frames_per_block, config.n_fft), dtype)

    def of(self, frames: Samples) -> Float32:
        """The squares of `(n, n_fft)` frames.

        Returns:
            float32 `(n, 2 * n_bins)`, valid until the next call.
        """
        work = np.multiply(frames, self._window, out=self._work[: frames.shape[0]])
        spectrum = self._transform(work, axis=-1, overwrite_x=True)
        parts: Float32 = spectrum.view(np.float32)
        return np.multiply(parts, parts, out=parts)


@functools.lru_cache(maxsize=16)
def scaled_window(n_fft: int) -> Float32:
    """The periodic Hann window, scaled so that squared bins are powers re full scale."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    scaled = (window / np.sqrt(n_fft * np.sum(window**2))).astype(np.float32)
    scaled.flags.writeable = False
    return scaled


def column_powers(source: Source, config: SpectrumConfig, n_columns: int) -> Float32:
    """The mean power of each band in each of `n_columns` columns, over the whole recording.

    Returns:
        float32 `(n_mels, n_columns)`, relative to full scale.

    Raises:
        FeatureError: when the recording is too short or not finite.
    """
    plan = FramePlan(source.n_samples, config.n_fft, config.hop_length, n_columns)
    squares = Squares(config)
    columns = [_mean_squares(source, plan, squares, span) for span in plan.columns()]
    return mel_powers(np.stack(columns), config).T


def _mean_squares(
    source: Source, plan: FramePlan, squares: Squares, span: tuple[int, int]
) -> Float32:
    total = np.zeros(1)
    for frames in _blocks(source, plan, squares.frames_per_block, span):
        total = total + squares.of(frames).sum(axis=0)
    return _require_finite(total / (span[1] - span[0])).astype(np.float32)


def frame_powers(source: Source, config: SpectrumConfig) -> Float32:
    """The power of each band in each frame, a frame every hop.

    Returns:
        float32 `(n_mels, n_frames)`, relative to full scale.

    Raises:
        FeatureError: when the recording is too short or not finite.
    """
    plan = FramePlan(source.n_samples, config.n_fft, config.hop_length, None)
    squares = Squares(config)
    powers = np.empty((plan.n_frames, config.n_mels), np.float32)
    done = 0
    for frames in _blocks(source, plan, squares.frames_per_block, (0, plan.n_frames)):
        block = powers[done : done + frames.shape[0]]
        mel_powers(squares.of(frames), config, out=block)
        _require_finite(block)
        done += frames.shape[0]
    return powers.T


def _blocks(
    source: Source, plan: FramePlan, frames_per_block: int, span: tuple[int, int]
) -> Iterator[Samples]:
    for first in range(*span, frames_per_block):
        stop = min(first + frames_per_block, span[1])
        for start, n_frames, spacing in plan.runs(first, stop):
            end = start + (n_frames - 1) * spacing + plan.n_fft
            samples = source.read(start, end)
            step = samples.strides[0]
            yield as_strided(
                samples, (n_frames, plan.n_fft), (spacing * step, step), writeable=False
            )


def mel_powers(squares: Float32, config: SpectrumConfig, out: Float32 | None = None) -> Float32:
    """The power in each band.

    Args:
        squares: `(n, 2 * n_bins)`, as `Squares` gives them.
        config: which bands.
        out: where to write, `(n, n_mels)`.

    Returns:
        float32 `(n, n_mels)`.
    """
    powers = np.zeros((squares.shape[0], config.n_mels), np.float32) if out is None else out
    powers[...] = 0.0
    for bins, bands, weights in _tiles(config):
        powers[:, bands] += squares[:, bins] @ weights
    return powers


@functools.lru_cache(maxsize=16)
def _tiles(config: SpectrumConfig) -> tuple[tuple[slice, slice, Float32], ...]:
    """The filter bank as small dense tiles: it is nearly all zeros elsewhere.

    Rows come in pairs, for the real and the imaginary part of each bin.
    """
    weights = filter_bank(config)
    half = config.n_fft // 2 if config.spectrum == "two-sided" else weights.shape[0]
    tiles = []
    for low in range(0, config.n_mels, BANDS_PER_TILE):
        bands = slice(low, min(low + BANDS_PER_TILE, config.n_mels))
        for offset in range(0, weights.shape[0], half):
            used = np.flatnonzero(weights[offset : offset + half, bands].any(axis=1)) + offset
            if used.size:
                bins = slice(used[0], used[-1] + 1)
                tile = np.repeat(weights[bins, bands], 2, axis=0).astype(np.float32)
                tiles.append((slice(2 * bins.start, 2 * bins.stop), bands, tile))
    return tuple(tiles)


def _require_finite(powers: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(powers).all():
        raise FeatureError(
            "the recording holds NaN, infinite or overflowing samples; "
            "repair or drop it, and scale it so that full scale is |iq| = 1"
        )
    return powers
