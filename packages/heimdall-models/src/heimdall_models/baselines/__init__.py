"""What needs no network: the figures a model must beat to be worth its while.

`LEVEL_BASELINES` names the methods that take each receiver's level; every one of them is fitted
on `TrainingLevels` and answers positions with covariances, so that reports treat them alike:

    training = TrainingLevels(levels_db, present, position_deg, receivers_deg, region)
    for name, fit in LEVEL_BASELINES.items():
        position_deg, covariance_m2 = fit(training)(test_levels_db, test_present)
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from heimdall_models.baselines.constant import (
    empirical_sigma_m,
    fit_centroid,
    fit_region_prior,
    mean_position,
    power_weighted_centroid,
)
from heimdall_models.baselines.neighbours import fit_nearest_neighbours
from heimdall_models.levels.estimates import LevelEstimator, PositionEstimate, TrainingLevels
from heimdall_models.levels.kriging import fit_kriged_map
from heimdall_models.levels.path_loss import fit_path_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from heimdall_models.baselines.time_differences import (
        TimedPositions,
        locate_by_time_differences,
    )

__all__ = [
    "LEVEL_BASELINES",
    "LevelEstimator",
    "PositionEstimate",
    "TimedPositions",
    "TrainingLevels",
    "empirical_sigma_m",
    "fit_centroid",
    "fit_kriged_map",
    "fit_nearest_neighbours",
    "fit_path_loss",
    "fit_region_prior",
    "locate_by_time_differences",
    "mean_position",
    "power_weighted_centroid",
]

LEVEL_BASELINES: Mapping[str, Callable[[TrainingLevels], LevelEstimator]] = MappingProxyType(
    {
        "region prior": fit_region_prior,
        "power-weighted centroid": fit_centroid,
        "level likelihood, path-loss law": fit_path_loss,
        "nearest neighbours in level": fit_nearest_neighbours,
        "level likelihood, kriged map": fit_kriged_map,
    }
)
"""From the least to the most that they know of the region."""


def __getattr__(name: str) -> object:
    """What needs torch, which the others do not: loaded on first use (PEP 562)."""
    if name not in ("TimedPositions", "locate_by_time_differences"):
        raise AttributeError(f"heimdall_models.baselines has no {name!r}")
    from heimdall_models.baselines import time_differences

    return getattr(time_differences, name)
