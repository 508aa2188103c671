"""Baselines that need no network: a model is only worth its cost if it beats them.

`LEVEL_BASELINES` names the methods that take each receiver's level; every one of them is fitted
on `TrainingLevels` and returns positions with covariances, so that reports treat them alike:

    training = TrainingLevels(levels_db, present, position_deg, receivers_deg, region)
    for name, fit in LEVEL_BASELINES.items():
        position_deg, covariance_m2 = fit(training)(test_levels_db, test_present)

`time_differences`, which needs torch, takes times of arrival. Only the evaluation uses baselines:
networks share the laws of `levels` and the solver of `timing` with them, not the methods.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from heimdall_models.baselines.constant import fit_centroid, fit_region_prior
from heimdall_models.baselines.levels import (
    LevelEstimator,
    PositionEstimate,
    fit_kriged_map,
    fit_path_loss,
)
from heimdall_models.baselines.neighbours import fit_nearest_neighbours
from heimdall_models.levels.received_power import TrainingLevels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LEVEL_BASELINES", "LevelEstimator", "PositionEstimate", "TrainingLevels"]

LEVEL_BASELINES: Mapping[str, Callable[[TrainingLevels], LevelEstimator]] = MappingProxyType(
    {
        "region prior": fit_region_prior,
        "power-weighted centroid": fit_centroid,
        "level likelihood, path-loss law": fit_path_loss,
        "nearest neighbours in level": fit_nearest_neighbours,
        "level likelihood, kriged map": fit_kriged_map,
    }
)
"""In order of how much they know about the region, least first."""
