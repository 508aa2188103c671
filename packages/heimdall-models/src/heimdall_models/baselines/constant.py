"""Baselines whose ellipse is one for all sessions: the region's prior, and the centroid.

What needs no network: the figures a model must beat to be worth its while.

Each gives positions; `empirical_sigma_m`, measured on training sessions, gives the ellipse, so
that `localization_metrics` treats baselines and networks alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.errors import ModelError
from heimdall_models.levels.estimates import PositionEstimate, checked_levels
from heimdall_models.metrics import offset_east_north_m
from heimdall_models.region import Region

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.levels.estimates import TrainingLevels


def mean_position(train_truth_deg: ArrayLike) -> NDArray[np.float64]:
    """The middle of the training positions, `(2,)` degrees: the best guess that hears nothing.

    The mean is taken in the tangent plane, so that the 180th meridian does no harm.
    """
    truth = np.asarray(train_truth_deg, dtype=np.float64).reshape(-1, 2)
    region = Region.around(truth[:, 0], truth[:, 1])
    return region.to_degrees(region.to_plane(truth).mean(axis=0))


def power_weighted_centroid(
    levels_db: ArrayLike, present: ArrayLike, receivers_deg: ArrayLike, exponent: float = 0.5
) -> NDArray[np.float64]:
    """The receivers' centroid, each weighted by its received power to the `exponent`.

    Args:
        levels_db: Received levels `(n, receivers)` in dB; a common offset does not matter.
        present: `(n, receivers)`, whether the receiver was up; absent ones weigh nothing.
        receivers_deg: Where the receivers are, `(receivers, 2)`, WGS84.
        exponent: Of power; 0.5 weighs by amplitude, that is, by 1/distance in free space.

    Returns:
        `(n, 2)` degrees.

    Raises:
        ModelError: If a session has no receiver, or a level that counts is not finite.

    Source: J. Blumenthal, R. Grossmann, F. Golatowski and D. Timmermann, "Weighted centroid
    localization in Zigbee-based sensor networks", IEEE WISP 2007, with received power for 1/d.
    """
    levels = np.asarray(levels_db, dtype=np.float64)
    up = np.asarray(present, dtype=bool)
    receivers = np.asarray(receivers_deg, dtype=np.float64)
    if levels.shape != up.shape or levels.shape[1:] != receivers.shape[:1]:
        raise ModelError(
            f"levels {levels.shape}, present {up.shape} and receivers {receivers.shape} disagree; "
            f"expected (n, receivers), (n, receivers) and (receivers, 2)"
        )
    if not up.any(axis=1).all():
        raise ModelError(f"session {int(np.argmin(up.any(axis=1)))} has no receiver")
    if not np.isfinite(levels[up]).all():
        raise ModelError("a level of a receiver that is present is not finite")
    heard = np.where(up, levels, -np.inf)
    weights = 10 ** (exponent * (heard - heard.max(axis=1, keepdims=True)) / 10)
    region = Region.around(receivers[:, 0], receivers[:, 1])
    weights /= weights.sum(axis=1, keepdims=True)
    return region.to_degrees(weights @ region.to_plane(receivers))


def empirical_sigma_m(position_deg: ArrayLike, truth_deg: ArrayLike) -> NDArray[np.float64]:
    """Root mean square errors east and north in metres, `(2,)`: the likeliest constant sigma.

    Args:
        position_deg: A baseline's positions of training sessions, `(n, 2)` or `(2,)`.
        truth_deg: Where those transmitters were, `(n, 2)`.
    """
    truth = np.asarray(truth_deg, dtype=np.float64).reshape(-1, 2)
    position = np.broadcast_to(np.asarray(position_deg, dtype=np.float64), truth.shape)
    squares = np.square(offset_east_north_m(position, truth))
    sigma: NDArray[np.float64] = np.sqrt(squares.mean(axis=0))
    return sigma


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
