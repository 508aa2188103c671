"""From a map of expected levels to a posterior over the plane, power unknown, in closed form.

At a place, the levels of one session are Gaussian: each receiver's own deviations (fading, and
what the map does not know) are independent, and the transmitter's unknown power moves all
of them alike. So their covariance is D + c 1 1^T, D diagonal, and with residuals e and weights
w = 1 / D Sherman and Morrison give all that the likelihood needs:

    e^T (D + c 1 1^T)^-1 e = sum w e^2 - c (sum w e)^2 / (1 + c sum w)
    log det                = sum log D + log(1 + c sum w)

Absent receivers drop out of every sum. The answer is the posterior's mean and covariance: of all
Gaussians the nearest to it in Kullback-Leibler divergence, hence the most likely ellipse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.levels.estimates import PositionEstimate, checked_levels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.levels.grid import Grid
    from heimdall_models.region import Region

_SESSIONS_AT_ONCE = 64
"""Bounds the memory: the posterior of a session is one number for each cell."""


@dataclass(frozen=True, slots=True)
class LevelMap:
    """What every receiver is expected to read of a transmitter in every cell of the plane."""

    region: Region
    grid: Grid
    """The cells in which transmitters may be."""
    mean_db: NDArray[np.float64]
    """`(cells, receivers)`: expected level at the mean transmit power."""
    own_variance: NDArray[np.float64]
    """`(cells, receivers)` in dB^2: of each receiver by itself, fading and ignorance of the map."""
    common_variance: NDArray[np.float64]
    """`(cells,)` in dB^2: of all receivers together, transmit power first of all."""

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """Mean and covariance of the posterior; see `LevelEstimator`."""
        levels, up = checked_levels(levels_db, present, self.mean_db.shape[1])
        parts = [
            self._moments(levels[at : at + _SESSIONS_AT_ONCE], up[at : at + _SESSIONS_AT_ONCE])
            for at in range(0, len(levels), _SESSIONS_AT_ONCE)
        ]
        mean = np.concatenate([part[0] for part in parts])
        covariance = np.concatenate([part[1] for part in parts])
        return PositionEstimate(self.region.to_degrees(mean), covariance * self.region.scale_m**2)

    def log_likelihood(
        self, levels_db: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Log-density of sessions' levels in every cell, `(n, cells)`, but for a constant each.

        Args:
            levels_db: `(n, receivers)`; zero where absent.
            present: `(n, receivers)`.
        """
        up = present.astype(np.float64)
        middle = self.mean_db.mean(axis=0)
        level, mean = (levels_db - middle) * up, self.mean_db - middle
        weight = 1 / self.own_variance
        weights = up @ weight.T
        first = level @ weight.T - up @ (weight * mean).T
        second = level**2 @ weight.T - 2 * level @ (weight * mean).T + up @ (weight * mean**2).T
        shared = 1 + self.common_variance * weights
        quadratic = second - self.common_variance * first**2 / shared
        likelihood: NDArray[np.float64] = -0.5 * (
            quadratic - up @ np.log(weight).T + np.log(shared)
        )
        return likelihood

    def _moments(
        self, levels_db: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The posterior's means `(n, 2)` and covariances `(n, 2, 2)`, in plane units."""
        likelihood = self.log_likelihood(levels_db, present)
        posterior = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        cells = self.grid.cells
        east, north = cells.T
        mean = posterior @ cells
        squares = posterior @ np.stack([east**2, east * north, east * north, north**2], axis=1)
        covariance = squares.reshape(-1, 2, 2) - mean[:, :, None] * mean[:, None, :]
        # A transmitter is anywhere in its cell.
        return mean, covariance + np.diag(np.square(self.grid.size) / 12)
