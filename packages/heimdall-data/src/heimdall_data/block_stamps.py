"""A sample clock from the time stamps of equal blocks.

A receiver stamps every block of samples. Most stamps lie on a straight line over the block
number, whose slope is the true sample rate; the rest are stale (the first blocks after a
receiver starts), glitches, or lie beyond a gap where blocks were lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heimdall_data.gps_time import WEEK_NS

__all__ = ["StampFit", "fit_stamps"]

TOLERATED_STEP_ERROR = 1e-3
"""Half a sample of a 512-sample block: ten times the error of a rounded header rate, and a
thousandth of the smallest gap, one block."""

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StampFit:
    """The blocks that belong together, and their clock."""

    first: int
    n_blocks: int
    sample_rate_hz: float
    start_ns_of_week: int
    """GPS nanoseconds of the week at the first sample of block `first`."""


def fit_stamps(stamps_ns: Stamps, block_samples: int, nominal_rate_hz: float) -> StampFit | None:
    """The longest stretch of blocks without a gap, with its fitted rate and start.

    Args:
        stamps_ns: GPS nanoseconds of the week, one a block, shape `(n_blocks,)`; the week may
            roll over inside.
        block_samples: Samples in each block.
        nominal_rate_hz: The rate to expect, good to some 500 ppm.

    Returns:
        The fit, or None if no two neighbouring stamps are one block apart.
    """
    block_ns = block_samples / nominal_rate_hz * 1e9
    steps_ns = (np.diff(stamps_ns) + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2
    first, last = _longest_run(np.abs(steps_ns - block_ns) < TOLERATED_STEP_ERROR * block_ns)
    if last == first:
        return None
    # Relative to the run's first stamp, so that a float holds every nanosecond.
    elapsed_ns = np.concatenate([[0], np.cumsum(steps_ns)])
    relative_ns = (elapsed_ns - elapsed_ns[first]).astype(np.float64)
    block = np.arange(len(stamps_ns), dtype=np.float64) - first
    run = slice(first, last + 1)
    slope, offset = np.polyfit(block[run], relative_ns[run], 1)
    # A lone glitch splits a run in two; both halves are still on one line.
    on_line = np.abs(relative_ns - (slope * block + offset)) < TOLERATED_STEP_ERROR * block_ns
    on_line[run] = True
    kept = np.flatnonzero(on_line)
    slope, offset = _trimmed_line(block[kept], relative_ns[kept])
    start_ns = int(stamps_ns[first]) + round(offset + slope * block[kept[0]])
    n_blocks = int(kept[-1] - kept[0]) + 1
    return StampFit(int(kept[0]), n_blocks, block_samples * 1e9 / slope, start_ns % WEEK_NS)


def _longest_run(good: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First and last block of the longest stretch of good steps; equal if there is none."""
    edges = np.diff(np.concatenate([[False], good, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(begins):
        return 0, 0
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def _trimmed_line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset by least squares, twice: once on all, once without the outliers."""
    slope, offset = np.polyfit(x, y, 1)
    distance = np.abs(y - (slope * x + offset))
    near = distance <= 5 * np.median(distance) + 1
    slope, offset = np.polyfit(x[near], y[near], 1)
    return float(slope), float(offset)
