"""Baselines with one ellipse for all sessions: the region's prior, and the centroid.

The ellipse is the covariance of their errors on the training sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.levels import PositionEstimate
from heimdall_models.errors import ModelError
from heimdall_models.levels.received_power import checked_levels
from heimdall_models.metrics import offset_east_north_m
from heimdall_models.region import Region

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.levels.received_power import TrainingLevels


def power_weighted_centroid(
    levels_db: ArrayLike, present: ArrayLike, receivers_deg: ArrayLike
) -> NDArray[np.float64]:
    """The receivers' centroid, each weighted by its amplitude: by 1/distance in free space.

    Args:
        levels_db: Received levels `(n, receivers)` in dB; a common offset does not matter.
        present: `(n, receivers)`, true where the receiver was up; absent ones weigh nothing.
        receivers_deg: Places of the receivers, `(receivers, 2)`, WGS84.

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
    weights = 10 ** (0.5 * (heard - heard.max(axis=1, keepdims=True)) / 10)
    region = Region.around(receivers[:, 0], receivers[:, 1])
    weights /= weights.sum(axis=1, keepdims=True)
    return region.to_degrees(weights @ region.to_plane(receivers))


@dataclass(frozen=True, slots=True)
class RegionPrior:
    """The training transmitters' mean place and covariance, for every session."""

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
    """The answer for sessions that no receiver heard."""

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
    """The prior that the training transmitters give."""
    mean = training.region.to_degrees(training.places.mean(axis=0))
    everywhere = np.broadcast_to(mean, training.position_deg.shape)
    covariance = _error_covariance_m2(everywhere, training.position_deg)
    return RegionPrior(mean, covariance, len(training.receivers_deg))


def fit_centroid(training: TrainingLevels) -> Centroid:
    """The centroid with the ellipse of its errors in training."""
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
