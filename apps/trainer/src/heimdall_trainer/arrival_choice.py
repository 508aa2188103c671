"""How a run's times of arrival are measured, and whether there are clocks to measure them by.

Loads no torch.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from heimdall_features import ArrivalConfig

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_data import Station

__all__ = ["FEWEST_CLOCKS", "arrival_config", "baseline_m", "clocks_warning"]

FEWEST_CLOCKS = 3
"""Two time differences: a position in the plane."""
_LEAST_M = 10_000.0
_MARGIN = 1.05
"""Stations are surveyed to some metres, clocks and paths are late by some microseconds."""
_STEP_M = 1_000.0
"""A station's position that is corrected by a metre must not leave a cache behind."""


def arrival_config(receivers: Sequence[Station], sample_rate_hz: float) -> ArrivalConfig:
    """How to measure arrivals at these receivers, over all that they record.

    Raises:
        TrainerError: They are too few for a position.
    """
    if len(receivers) < FEWEST_CLOCKS:
        names = ", ".join(station.name for station in receivers)
        raise TrainerError(
            f"--features mel+timing takes {FEWEST_CLOCKS} receivers or more, and {len(receivers)} "
            f"are chosen ({names}); raise --n_receivers, or use --features mel"
        )
    return ArrivalConfig(
        receivers=tuple(station.name for station in receivers),
        baseline_m=baseline_m(receivers),
        sample_rate_hz=sample_rate_hz,
    )


def baseline_m(receivers: Sequence[Station]) -> float:
    """The largest distance between two receivers along the ellipsoid, and a little more."""
    from pyproj import Geod

    places = [station.position_deg for station in receivers]
    ellipsoid = Geod(ellps="WGS84")
    farthest_m = max(
        float(ellipsoid.inv(east, north, other_east, other_north)[2])
        for (north, east), (other_north, other_east) in itertools.combinations(places, 2)
    )
    return max(_LEAST_M, math.ceil(_MARGIN * farthest_m / _STEP_M) * _STEP_M)


def clocks_warning(sessions_by_clocks: Mapping[int, int]) -> str | None:
    """What to tell of sessions that have too few clocks; None where most have enough.

    Args:
        sessions_by_clocks: How many sessions have how many receivers with a locked clock.

    Raises:
        TrainerError: Not one session has enough.
    """
    total = sum(sessions_by_clocks.values())
    enough = sum(n for n_clocks, n in sessions_by_clocks.items() if n_clocks >= FEWEST_CLOCKS)
    found = (
        f"{enough} of {total} sessions have the {FEWEST_CLOCKS} receivers with a locked clock "
        "that a position from arrival times takes"
    )
    if total and not enough:
        raise TrainerError(
            f"{found}; use --features mel, or choose --receivers with GNSS clocks: recordings in "
            "KiwiSDR's WAV have them, NumPy files never do"
        )
    return f"{found}; the others are learned from levels" if 2 * enough < total else None
