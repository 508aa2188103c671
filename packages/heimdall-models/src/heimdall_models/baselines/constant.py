"""Baselines whose ellipse is one for all sessions: the region's prior, and the centroid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.levels import PositionEstimate, checked_levels
from heimdall_models.baselines.simple import power_weighted_centroid
from heimdall_models.metrics import offset_east_north_m

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.baselines.levels import TrainingLevels


@dataclass(frozen=True, slots=True)
class RegionPrior:
    """The training transmitters' mean place and covariance, whatever is heard."""

    mean_deg: NDArray[np.float64]
    covariance_m2: NDArray[np.float64]
    n_receivers: int

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """The same for every session; see `LevelEstimator`."""
        n_sessions = len(checked_levels(levels_db, present, self.n_receivers)[0])
        return PositionEstimate(
            np.tile(self.mean_deg, (n_sessions, 1)),
            np.tile(self.covariance_m2, (n_sessions, 1, 1)),
        )


@dataclass(frozen=True, slots=True)
class Centroid:
    """The power-weighted centroid, with the covariance of its errors in training."""

    receivers_deg: NDArray[np.float64]
    covariance_m2: NDArray[np.float64]
    prior: RegionPrior
    """The answer for sessions that nobody heard."""

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """See `LevelEstimator` and `power_weighted_centroid`."""
        position, covariance = self.prior(levels_db, present)
        levels, up = checked_levels(levels_db, present, len(self.receivers_deg))
        heard = up.any(axis=1)
        if heard.any():
            position[heard] = power_weighted_centroid(levels[heard], up[heard], self.receivers_deg)
            covariance[heard] = self.covariance_m2
        return PositionEstimate(position, covariance)


def fit_region_prior(training: TrainingLevels) -> RegionPrior:
    """What is known before anything is heard."""
    mean = training.region.to_degrees(training.places.mean(axis=0))
    everywhere = np.broadcast_to(mean, training.position_deg.shape)
    covariance = _error_covariance_m2(everywhere, training.position_deg)
    return RegionPrior(mean, covariance, len(training.receivers_deg))


def fit_centroid(training: TrainingLevels) -> Centroid:
    """The centroid needs no training, its ellipse does."""
    heard = training.present.any(axis=1)
    position = power_weighted_centroid(
        training.levels_db[heard], training.present[heard], training.receivers_deg
    )
    covariance = _error_covariance_m2(position, training.position_deg[heard])
    return Centroid(training.receivers_deg, covariance, fit_region_prior(training))


def _error_covariance_m2(
    position_deg: NDArray[np.float64], truth_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean square of the errors, bias included: the likeliest constant covariance."""
    offset_m = offset_east_north_m(position_deg, truth_deg)
    covariance: NDArray[np.float64] = offset_m.T @ offset_m / len(offset_m)
    return covariance
