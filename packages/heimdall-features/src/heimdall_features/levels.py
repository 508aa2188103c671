"""Power ratios as decibels, with a floor."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decibels"]


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
