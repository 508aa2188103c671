"""Level likelihood: a posterior over the plane from a map of expected levels, in closed form.

At a place, the levels of one session are Gaussian: each receiver's own deviations (fading, and
the error of the map) are independent, and the transmitter's unknown power moves all of them alike.
So their covariance is D + c 1 1^T, D diagonal. With residuals e and weights w = 1 / D, the formula
of Sherman and Morrison gives all that the likelihood needs:

    e^T (D + c 1 1^T)^-1 e = sum w e^2 - c (sum w e)^2 / (1 + c sum w)
    log det                = sum log D + log(1 + c sum w)

Absent receivers drop out of every sum. The answer is the posterior's mean and covariance: of all
Gaussians the nearest to it in Kullback-Leibler divergence, hence the most likely ellipse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from heimdall_models.levels.grid import Grid
from heimdall_models.levels.kriging import KrigedField
from heimdall_models.levels.path_loss import PathLossLaw
from heimdall_models.levels.received_power import TrainingLevels, checked_levels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.region import Region

LAW_CELLS = 128
KRIGED_CELLS = 192
"""Cells along the longer side of the training transmitters."""
_AT_ONCE = 64
"""Sessions; bounds the memory: the posterior of a session is one number for each cell."""


class PositionEstimate(NamedTuple):
    """Positions and their uncertainty."""

    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude, WGS84."""
    covariance_m2: NDArray[np.float64]
    """Covariance of the error east and north, square metres: `(n, 2, 2)`."""

    @property
    def sigma_m(self) -> NDArray[np.float64]:
        """Standard deviations east and north in metres, `(n, 2)`: the ellipse without its tilt."""
        return np.sqrt(np.diagonal(self.covariance_m2, axis1=1, axis2=2))


LevelEstimator: TypeAlias = "Callable[[ArrayLike, ArrayLike], PositionEstimate]"
"""A fitted baseline: positions from levels `(n, receivers)` and presence of the same shape.

Absent receivers weigh nothing. Raises `ModelError` for wrong shapes, or a level that counts and is
not finite.
"""


@dataclass(frozen=True, slots=True)
class LevelMap:
    """Expected level of every receiver for a transmitter in every cell of the plane."""

    region: Region
    grid: Grid
    """The cells in which transmitters may be."""
    mean_db: NDArray[np.float64]
    """`(cells, receivers)`: expected level at the mean transmit power."""
    own_variance: NDArray[np.float64]
    """`(cells, receivers)` in dB^2: of each receiver by itself, fading and the map's error."""
    common_variance: NDArray[np.float64]
    """`(cells,)` in dB^2: of all receivers together, mainly transmit power."""

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """Mean and covariance of the posterior; see `LevelEstimator`."""
        levels, up = checked_levels(levels_db, present, self.mean_db.shape[1])
        cells = self.grid.cells
        east, north = cells.T
        products = np.stack([east**2, east * north, east * north, north**2], axis=1)
        means, squares = [], []
        for at in range(0, len(levels), _AT_ONCE):
            likelihood = self.log_likelihood(levels[at : at + _AT_ONCE], up[at : at + _AT_ONCE])
            posterior = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
            posterior /= posterior.sum(axis=1, keepdims=True)
            means.append(posterior @ cells)
            squares.append(posterior @ products)
        mean = np.concatenate(means)
        covariance = np.concatenate(squares).reshape(-1, 2, 2) - mean[:, :, None] * mean[:, None]
        # A transmitter is anywhere in its cell.
        covariance += np.diag(np.square(self.grid.size) / 12)
        return PositionEstimate(self.region.to_degrees(mean), covariance * self.region.scale_m**2)

    def log_likelihood(
        self, levels_db: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Log-density of each session's levels in every cell up to a constant, `(n, cells)`.

        Levels and presence are `(n, receivers)`; the level of an absent receiver is zero.
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
        return np.asarray(-0.5 * (quadratic - up @ np.log(weight).T + np.log(shared)))


def fit_path_loss(training: TrainingLevels) -> LevelMap:
    """Level likelihood on the map of the log-distance law."""
    law = PathLossLaw.of(training)
    grid = Grid.of_squares(training.places, LAW_CELLS)
    mean = law.mean_db(grid.cells)
    own, common = np.full_like(mean, law.variance), np.full(len(mean), law.power_variance)
    return LevelMap(training.region, grid, mean, own, common)


def fit_kriged_map(training: TrainingLevels) -> LevelMap:
    """Level likelihood on a kriged map, including the uncertainty of the interpolation.

    Takes 14 s of one core for 6,000 sessions, most of it factorising.
    """
    field = KrigedField.of(training)
    grid = Grid.of_squares(training.places, KRIGED_CELLS)
    mean = field.mean_db(grid.cells)
    own, common = field.variances(grid)
    own = np.repeat(own[:, None], mean.shape[1], axis=1)
    return LevelMap(training.region, grid, mean, own, common)
