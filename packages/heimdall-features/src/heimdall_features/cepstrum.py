"""Mel-frequency cepstral coefficients: the shape of a spectrum in a few numbers.

Source: S. B. Davis and P. Mermelstein, "Comparison of parametric representations for
monosyllabic word recognition", IEEE Trans. ASSP 28 (1980), with the orthonormal DCT-II.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError


def compute_mfcc(log_mel: NDArray[np.floating[Any]], n_mfcc: int = 13) -> NDArray[np.float32]:
    """Return the orthonormal DCT-II of log-mel levels along the bands.

    Args:
        log_mel: `(..., n_mels, n_frames)`, dB.
        n_mfcc: Number of coefficients, the slowest first; at most `n_mels`.

    Returns:
        float32 `(..., n_mfcc, n_frames)`, dB.

    Raises:
        FeatureError: The levels are not such an array or not finite, or `n_mfcc` is too large.
    """
    levels = np.asarray(log_mel)
    if levels.ndim < 2 or levels.dtype.kind != "f":
        raise FeatureError(
            f"log_mel is {levels.dtype} of shape {levels.shape}; "
            "give real levels of shape (..., n_mels, n_frames)"
        )
    n_mels = levels.shape[-2]
    if not 1 <= n_mfcc <= n_mels:
        raise FeatureError(f"n_mfcc is {n_mfcc}; {n_mels} bands give between 1 and {n_mels}")
    if not np.isfinite(levels).all():
        raise FeatureError("log_mel holds NaN or infinite levels; compute it with a floor")
    matrix = _dct_matrix(n_mels)[:n_mfcc]
    found = np.empty((*levels.shape[:-2], n_mfcc, levels.shape[-1]), np.float32)
    for each in np.ndindex(levels.shape[:-2]):  # one after the other stays in the cache
        found[each] = matrix @ levels[each]
    return found


@functools.lru_cache(maxsize=8)
def _dct_matrix(size: int) -> NDArray[np.float64]:
    angles = np.pi * np.arange(size)[:, None] * (np.arange(size) + 0.5) / size
    cosines: NDArray[np.float64] = np.cos(angles) * np.sqrt(2 / size)
    cosines[0] /= np.sqrt(2)
    return cosines
