"""Power spectra of overlapping windowed frames, one block of frames at a time.

The method is Welch's. Power is relative to full scale (`|iq| = 1`): divided by
`n_fft * sum(window ** 2)`, the bins of a frame add up to its mean windowed power, so a full-scale
tone has a total of 1 in any bin (Parseval).

Memory is the limit, not arithmetic. The frames of a block therefore stay in cache from the window
to the square, and a column's frames are summed before the filter bank is applied. The filter bank
is mostly zeros (2 weights per bin), so it is cut into dense tiles of a few bands, each of which
is one matrix product.

Source: P. D. Welch, "The use of fast Fourier transform for the estimation of power spectra",
IEEE Trans. Audio Electroacoust. 15 (1967).
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

Float32 = NDArray[np.float32]

BLOCK_BYTES = 1 << 20
"""Size of a block of frames, which fits into the cache of one core."""
BANDS_PER_TILE = 8
UNTHREADED_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS starts no threads (`interface/gemm.c`). Products this
small gain nothing from threads, and lose much where workers already use all cores."""


@np.errstate(over="ignore", invalid="ignore")  # overflow is rejected at the end
def mel_powers(
    source: Source,
    config: SpectrumConfig,
    n_columns: int | None = None,
    n_samples: int | None = None,
) -> Float32:
    """Mean power of each band in each column: float32 `(n_mels, n_columns)`, re full scale.

    The columns (None: one per hop) cover a recording at the configured rate, or its first
    `n_samples`.

    Raises:
        FeatureError: The recording is too short or not finite.
    """
    n_samples = source.n_samples if n_samples is None else n_samples
    plan = FramePlan(n_samples, config.n_fft, config.hop_length, n_columns)
    if n_columns is None:
        powers = np.empty((config.n_mels, plan.n_frames), np.float32)
        for first, squares in _blocks(source, plan, config):
            powers[:, first : first + squares.shape[0]] = band_powers(squares, config).T
    else:
        totals: Float32 | None = None
        for first, squares in _blocks(source, plan, config):
            if totals is None:
                totals = np.zeros((n_columns, squares.shape[1]), np.float32)
            for column, start, stop in plan.columns(first, first + squares.shape[0]):
                totals[column] += np.add.reduce(squares[start - first : stop - first], axis=0)
        frames_in = np.diff([plan.column_start(column) for column in range(n_columns + 1)])
        # Both steps are linear, and there is far less to divide after the filter bank.
        powers = band_powers(np.asarray(totals), config).T
        powers /= frames_in.astype(np.float32)
    if not np.isfinite(powers).all():
        raise FeatureError(
            "the recording holds NaN, infinite or overflowing samples; "
            "repair or drop it, and scale it to full scale |iq| = 1"
        )
    return powers


def _blocks(
    source: Source, plan: FramePlan, config: SpectrumConfig
) -> Iterator[tuple[int, Float32]]:
    """Yield all frames in order, one block at a time: (first frame, its squares)."""
    squares = Squares(config)
    # The frames of a short recording are unevenly spaced: then each run is one frame.
    for first in range(0, plan.n_frames, squares.frames_per_block):
        stop = min(first + squares.frames_per_block, plan.n_frames)
        for start, n_frames in plan.runs(first, stop):
            end = start + (n_frames - 1) * plan.hop_length + plan.n_fft
            yield first, squares.of_run(source.read(start, end), n_frames, plan.hop_length)
            first += n_frames


class Squares:
    """Squared real and imaginary part of each bin of each frame, side by side.

    Their pairwise sums are powers. The rest is linear, so they are summed later, where there is
    less to sum. Complex frames are viewed as twice as many floats, because NumPy would otherwise
    make the window complex too.
    """

    def __init__(self, config: SpectrumConfig) -> None:
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
        """Return the squares of at most `frames_per_block` frames, valid until the next call.

        Shapes: `((n_frames - 1) * hop_length + n_fft,)` samples, float32 or complex64, give
        float32 `(n_frames, 2 * n_bins)`.
        """
        # A strided view needs no copy; the product writes each sample once per frame.
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
        squares: Float32 = spectrum.view(np.float32)
        return np.multiply(squares, squares, out=squares)


@functools.lru_cache(maxsize=16)
def scaled_window(n_fft: int) -> Float32:
    """Periodic Hann window, scaled so that squared bins are powers re full scale."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    scaled: Float32 = (window / np.sqrt(n_fft * np.sum(window**2))).astype(np.float32)
    scaled.flags.writeable = False
    return scaled


def band_powers(squares: Float32, config: SpectrumConfig) -> Float32:
    """Power in each band: `(n, 2 * n_bins)` squares give float32 `(n, n_mels)`, re full scale."""
    powers = np.zeros((squares.shape[0], config.n_mels), np.float32)
    for bins, bands, weights in _tiles(config):
        n_rows = max(1, UNTHREADED_PRODUCT // weights.size)
        for first in range(0, squares.shape[0], n_rows):
            rows = slice(first, first + n_rows)
            powers[rows, bands] += squares[rows, bins] @ weights
    return powers


@functools.lru_cache(maxsize=16)
def _tiles(config: SpectrumConfig) -> tuple[tuple[slice, slice, Float32], ...]:
    """Dense parts of the filter bank: (squares, bands, weights).

    Two-sided bins are in FFT order, so a tile at the carrier has two parts. Rows come in pairs,
    for the real and the imaginary part.
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


def decibels(powers: NDArray[Any], floor_db: float) -> Float32:
    """Return `10 log10(powers)` as float32, never below the floor; powers are not negative."""
    # np.log10 takes five times as long as np.log in float32. The smallest normal number stands
    # for zero, far below any floor.
    logs = np.log(np.maximum(powers, np.finfo(np.float32).tiny))
    levels: Float32 = np.multiply(logs, np.float32(10 / np.log(10)), dtype=np.float32)
    return np.maximum(levels, np.float32(floor_db), out=levels)
