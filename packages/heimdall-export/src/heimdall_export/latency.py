"""How long calls take, measured in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Latency", "latencies"]

_CALLS = 5
"""In a row, before the next one has its turn."""
_PAUSE_S = 0.02
"""Before a turn: the threads of the one before spin for a while, on the same cores."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one call, in milliseconds."""

    median_ms: float
    p95_ms: float


def latencies(calls: Sequence[Callable[[], object]], *, seconds: float) -> tuple[Latency, ...]:
    """The times of each of some calls, measured for so many seconds together, once at least."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while not times[-1] or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            time.sleep(_PAUSE_S)
            call()
            taken.extend(_elapsed_ms(call) for _ in range(_CALLS))
    return tuple(
        Latency(float(np.median(taken)), float(np.percentile(taken, 95))) for taken in times
    )


def _elapsed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
