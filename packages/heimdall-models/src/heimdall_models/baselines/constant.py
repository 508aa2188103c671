"""Baselines with one ellipse for all sessions: the region's prior, and the centroid.

The ellipse is the covariance of their errors on the training sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.levels import LevelEstimator, PositionEstimate
from heimdall_models.errors import ModelError
from heimdall_models.levels.received_power import TrainingLevels, checked_levels
from heimdall_models.metrics import offset_east_north_m
from heimdall_models.region import Region

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def power_weighted_centroid(
    levels_db: ArrayLike, present: ArrayLike, receivers_deg: ArrayLike
) -> NDArray[np.float64]:
    """The receivers' centroid, each weighted by its amplitude: by 1/distance in free space.

    From levels `(n, receivers)` in dB of receivers that were up, at degrees `(receivers, 2)` WGS84:
    `(n, 2)` degrees.

    Raises:
        ModelError: If a session has no receiver, or a level that counts is not finite.

    Source: J. Blumenthal, R. Grossmann, F. Golatowski and D. Timmermann, "Weighted centroid
    localization in Zigbee-based sensor networks", IEEE WISP 2007, with received power for 1/d.
    """
    receivers = np.asarray(receivers_deg, dtype=np.float64)
    levels, up = checked_levels(levels_db, present, len(receivers))
    if not up.any(axis=1).all():
        raise ModelError(f"session {int(np.argmin(up.any(axis=1)))} has no receiver")
    heard = np.where(up, levels, -np.inf)
    weights = 10 ** (0.5 * (heard - heard.max(axis=1, keepdims=True)) / 10)
    weights /= weights.sum(axis=1, keepdims=True)
    region = Region.around(receivers[:, 0], receivers[:, 1])
    return region.to_degrees(weights @ region.to_plane(receivers))


def fit_region_prior(training: TrainingLevels) -> LevelEstimator:
    """The training transmitters' mean place and covariance, for every session."""
    mean = training.region.to_degrees(training.places.mean(axis=0))
    everywhere = np.broadcast_to(mean, training.position_deg.shape)
    covariance_m2 = _error_covariance_m2(everywhere, training.position_deg)

    def estimate(levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        n_sessions = len(checked_levels(levels_db, present, len(training.receivers_deg))[0])
        return PositionEstimate(
            np.tile(mean, (n_sessions, 1)), np.tile(covariance_m2, (n_sessions, 1, 1))
        )

    return estimate


def fit_centroid(training: TrainingLevels) -> LevelEstimator:
    """The power-weighted centroid, or the prior for sessions that no receiver heard."""
    prior, receivers_deg = fit_region_prior(training), training.receivers_deg
    up = training.present.any(axis=1)
    known = power_weighted_centroid(training.levels_db[up], training.present[up], receivers_deg)
    covariance_m2 = _error_covariance_m2(known, training.position_deg[up])

    def estimate(levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        position, covariance = prior(levels_db, present)
        levels, up = checked_levels(levels_db, present, len(receivers_deg))
        heard = up.any(axis=1)
        position[heard] = power_weighted_centroid(levels[heard], up[heard], receivers_deg)
        covariance[heard] = covariance_m2
        return PositionEstimate(position, covariance)

    return estimate


def _error_covariance_m2(
    position_deg: NDArray[np.float64], truth_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean square of the errors, bias included: the likeliest constant covariance."""
    offset_m = offset_east_north_m(position_deg, truth_deg)
    return np.asarray(offset_m.T @ offset_m / len(offset_m))
