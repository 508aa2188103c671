"""Power spectra of overlapping windowed frames, a few frames at a time.

The method is Welch's: P. D. Welch, "The use of fast Fourier transform for the estimation of
power spectra", IEEE Trans. Audio Electroacoust. 15 (1967). Power is relative to full scale
(`|iq| = 1`): divided by `n_fft * sum(window ** 2)`, the bins of a frame add up to its mean
windowed power, so a full-scale tone totals 1, whichever bin it is in (Parseval).

Memory, not arithmetic, is the limit, so the frames of a block stay in cache from the window
to the square, and a column's frames are added up before any filter bank is applied.
A mel filter bank is nearly all zeros: 2 weights to a bin. Cut into tiles of a few bands, what
is left is dense, and a matrix product runs over each at full speed.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import SpectrumConfig
from heimdall_features.errors import FeatureError
from heimdall_features.frames import FramePlan
from heimdall_features.mel import filter_bank
from heimdall_features.signal import Samples, Source

__all__ = ["band_powers", "column_powers", "decibels", "frame_powers"]


Float32 = NDArray[np.float32]

BLOCK_BYTES = 1 << 20
"""Size of a block of frames in memory: it stays in a core's own cache."""
BANDS_PER_TILE = 8
UNTHREADED_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS starts no threads (`interface/gemm.c`). Products this
small gain nothing by threads, and lose much where workers already fill the machine."""


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused at the end
def column_powers(
    source: Source, config: SpectrumConfig, n_columns: int, n_samples: int | None = None
) -> Float32:
    """The mean power of each band in each of `n_columns` columns, over the whole recording.

    Args:
        source: the recording, at the configuration's rate.
        config: which bands.
        n_columns: how many columns.
        n_samples: where the recording ends, if before its own end.

    Returns:
        float32 `(n_mels, n_columns)`, relative to full scale.

    Raises:
        FeatureError: when the recording is too short or not finite.
    """
    n_samples = source.n_samples if n_samples is None else n_samples
    plan = FramePlan(n_samples, config.n_fft, config.hop_length, n_columns)
    totals: Float32 | None = None
    for first, squares in _blocks(source, plan, config):
        if totals is None:
            totals = np.zeros((n_columns, squares.shape[1]), np.float32)
        for column, start, stop in plan.columns(first, first + squares.shape[0]):
            totals[column] += np.add.reduce(squares[start - first : stop - first], axis=0)
    frames_in = np.diff([plan.column_start(column) for column in range(n_columns + 1)])
    # Both are linear: dividing by what the bank leaves of each column is far less work.
    powers = band_powers(np.asarray(totals), config).T
    powers /= frames_in.astype(np.float32)
    return _require_finite(powers)


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused at the end
def frame_powers(source: Source, config: SpectrumConfig) -> Float32:
    """The power of each band in each frame, a frame every hop.

    Returns:
        float32 `(n_mels, n_frames)`, relative to full scale.

    Raises:
        FeatureError: when the recording is too short or not finite.
    """
    plan = FramePlan(source.n_samples, config.n_fft, config.hop_length, None)
    powers = np.empty((config.n_mels, plan.n_frames), np.float32)
    for first, squares in _blocks(source, plan, config):
        bands = _require_finite(band_powers(squares, config))
        powers[:, first : first + squares.shape[0]] = bands.T
    return powers


def _blocks(
    source: Source, plan: FramePlan, config: SpectrumConfig
) -> Iterator[tuple[int, Float32]]:
    """All frames in order, a block at a time: (first frame, its squares)."""
    squares = Squares(config)
    # A short recording's frames are unevenly spaced: then each run is one frame.
    for first in range(0, plan.n_frames, squares.frames_per_block):
        stop = min(first + squares.frames_per_block, plan.n_frames)
        for start, n_frames in plan.runs(first, stop):
            end = start + (n_frames - 1) * plan.hop_length + plan.n_fft
            yield first, squares.of_run(source.read(start, end), n_frames, plan.hop_length)
            first += n_frames


def _require_finite(powers: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(powers).all():
        raise FeatureError(
            "the recording holds NaN, infinite or overflowing samples; "
            "repair or drop it, and scale it so that full scale is |iq| = 1"
        )
    return powers


class Squares:
    """The squared real and imaginary part of each bin of each frame, side by side.

    Their pairwise sums are powers; since all that follows is linear, that sum waits until
    there is less to add. Complex frames are seen as twice as many floats throughout: NumPy
    would otherwise make the window complex too.
    """

    def __init__(self, config: SpectrumConfig) -> None:
        """Set up the window and the work space of one block."""
        # Imported here: it takes 0.4 s.
        import scipy.fft

        self._is_complex = config.spectrum == "two-sided"
        self._is_envelope = config.spectrum == "envelope"
        self._transform = scipy.fft.fft if self._is_complex else scipy.fft.rfft
        self._parts = 2 if self._is_complex else 1
        self._window = np.repeat(scaled_window(config.n_fft), self._parts)
        self.frames_per_block = max(1, BLOCK_BYTES // (4 * self._window.size))
        self._work = np.empty((self.frames_per_block, self._window.size), np.float32)

    def of_run(self, samples: Samples, n_frames: int, hop_length: int) -> Float32:
        """The squares of frames a hop apart, at most `frames_per_block` of them.

        Args:
            samples: `((n_frames - 1) * hop_length + n_fft,)`, float32 or complex64.
            n_frames: how many.
            hop_length: from one to the next.

        Returns:
            float32 `(n_frames, 2 * n_bins)`, valid until the next call.
        """
        # The strided view costs no copy; the product writes each sample once per frame.
        signal = np.abs(samples) if self._is_envelope else samples
        frames = np.ndarray(
            (n_frames, self._window.size),
            np.float32,
            signal,
            strides=(4 * self._parts * hop_length, 4),
        )
        work = np.multiply(frames, self._window, out=self._work[:n_frames])
        spectrum = self._transform(
            work.view(np.complex64) if self._is_complex else work, overwrite_x=True
        )
        # Real and imaginary part side by side: squaring needs no complex arithmetic.
        squares: Float32 = spectrum.view(np.float32)
        return np.multiply(squares, squares, out=squares)


@functools.lru_cache(maxsize=16)
def scaled_window(n_fft: int) -> Float32:
    """The periodic Hann window, scaled so that squared bins are powers re full scale."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    scaled: Float32 = (window / np.sqrt(n_fft * np.sum(window**2))).astype(np.float32)
    scaled.flags.writeable = False
    return scaled


def band_powers(squares: Float32, config: SpectrumConfig) -> Float32:
    """The power in each band.

    Args:
        squares: `(n, 2 * n_bins)`, the squared real and imaginary part of each bin.
        config: which bands.

    Returns:
        float32 `(n, n_mels)`, relative to full scale.
    """
    powers = np.zeros((squares.shape[0], config.n_mels), np.float32)
    for bins, bands, weights in _tiles(config):
        n_rows = max(1, UNTHREADED_PRODUCT // weights.size)
        for first in range(0, squares.shape[0], n_rows):
            rows = slice(first, first + n_rows)
            powers[rows, bands] += squares[rows, bins] @ weights
    return powers


@functools.lru_cache(maxsize=16)
def _tiles(config: SpectrumConfig) -> tuple[tuple[slice, slice, Float32], ...]:
    """The dense parts of the filter bank: (squares, bands, weights).

    Two-sided bins stand in the transform's order, so that a tile at the carrier is in two
    parts. Rows come in pairs, for the real and the imaginary part.
    """
    bank = filter_bank(config)
    side = config.n_fft // 2 if config.spectrum == "two-sided" else bank.shape[0]
    tiles = []
    for low in range(0, config.n_mels, BANDS_PER_TILE):
        bands = slice(low, min(low + BANDS_PER_TILE, config.n_mels))
        for offset in range(0, bank.shape[0], side):
            used = offset + np.flatnonzero(bank[offset : offset + side, bands].any(axis=1))
            if used.size:
                rows = bank[used[0] : used[-1] + 1, bands].astype(np.float32)
                bins = slice(2 * int(used[0]), 2 * int(used[-1]) + 2)
                tiles.append((bins, bands, np.repeat(rows, 2, axis=0)))
    return tuple(tiles)


def decibels(powers: NDArray[Any], floor_db: float) -> NDArray[np.float32]:
    """Ten times the decimal logarithm, never below the floor.

    Args:
        powers: any shape, relative to full scale, not negative.
        floor_db: what no power and less power than this reads as.

    Returns:
        float32, the same shape.
    """
    # np.log10 costs five times what np.log does in float32; the smallest normal number
    # stands for zero, far below any floor.
    logs = np.log(np.maximum(powers, np.finfo(np.float32).tiny))
    levels: NDArray[np.float32] = np.multiply(logs, np.float32(10 / np.log(10)), dtype=np.float32)
    return np.maximum(levels, np.float32(floor_db), out=levels)
