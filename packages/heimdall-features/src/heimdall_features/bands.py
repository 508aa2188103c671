"""The filter bank at work: from FFT bins to the power in each band.

A mel filter bank is nearly all zeros: 2 weights to a bin. Cut into tiles of a few bands,
what is left is dense, and a matrix product runs over each at full speed.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import filter_bank

__all__ = ["band_powers"]

BANDS_PER_TILE = 8

UNTHREADED_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS starts no threads (`interface/gemm.c`). Products this
small gain nothing by threads, and lose much where workers already fill the machine."""

Float32 = NDArray[np.float32]


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
