"""The nearest training sessions in level, regardless of transmit power.

The distance between two sessions is the Mahalanobis length of their levels' difference over the
receivers that both have, if each receiver deviates by itself and power moves all alike: with the
difference e, m receivers and power over own variance q, e^T e - q (sum e)^2 / (1 + q m), per
receiver. The number of neighbours and the factor on their scatter are the likeliest on the
training sessions, each left out of its own neighbours.

Source: P. Bahl and V. N. Padmanabhan, "RADAR: an in-building RF-based user location and tracking
system", IEEE INFOCOM 2000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.levels import PositionEstimate
from heimdall_models.levels.path_loss import PathLossLaw
from heimdall_models.levels.received_power import TrainingLevels, checked_levels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_COUNTS = (1, 2, 4, 8, 16, 32, 64)
_LEAST_SCATTER = 8
"""Neighbours whose scatter gives the ellipse, where fewer give the position."""
_ROUNDING = 1e-8
"""Plane units squared, added to scatters: neighbours may stand on one site."""
_SESSIONS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class LevelNeighbours:
    """Training sessions, the number of nearest ones to use, and the factor on their scatter."""

    training: TrainingLevels
    power_to_own: float
    """Variance of transmit power over that of a receiver's own deviations."""
    n_neighbours: int = 1
    inflation: float = 1.0
    """Factor from the neighbours' scatter to the error's covariance."""

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """Mean place of the nearest sessions, and their scatter; see `LevelEstimator`."""
        levels, up = checked_levels(levels_db, present, len(self.training.receivers_deg))
        order = self.nearest(levels, up, max(self.n_neighbours, _LEAST_SCATTER))
        mean, scatter = _of_neighbours(self.training.places[order], self.n_neighbours)
        region = self.training.region
        return PositionEstimate(
            region.to_degrees(mean), self.inflation * scatter * region.scale_m**2
        )

    def nearest(
        self,
        levels_db: NDArray[np.float64],
        present: NDArray[np.bool_],
        count: int,
        *,
        are_training: bool = False,
    ) -> NDArray[np.intp]:
        """Rows of the nearest training sessions, nearest first: `(n, count)` or all there are.

        Levels are zero where absent. With `are_training`, none is its own neighbour.
        """
        middle = self.training.levels_db.mean(axis=0)
        train_up = self.training.present.astype(np.float64)
        train = (self.training.levels_db - middle) * train_up
        found = []
        for at in range(0, len(levels_db), _SESSIONS_AT_ONCE):
            rows = slice(at, at + _SESSIONS_AT_ONCE)
            up = present[rows].astype(np.float64)
            level = (levels_db[rows] - middle) * up
            shared = up @ train_up.T
            total = level @ train_up.T - up @ train.T
            squares = level**2 @ train_up.T - 2 * level @ train.T + up @ (train**2).T
            power = self.power_to_own * total**2 / (1 + self.power_to_own * shared)
            far = (squares - power) / np.maximum(shared, 1.0)
            # Sessions without a common receiver are not near.
            far[shared == 0] = np.finfo(np.float64).max
            if are_training:
                far[np.arange(len(far)), at + np.arange(len(far))] = np.inf
            n_chosen = min(count, far.shape[1] - are_training)
            chosen = np.argpartition(far, n_chosen - 1, axis=1)[:, :n_chosen]
            order = np.argsort(np.take_along_axis(far, chosen, axis=1), axis=1)
            found.append(np.take_along_axis(chosen, order, axis=1))
        return np.concatenate(found)


def fit_nearest_neighbours(training: TrainingLevels) -> LevelNeighbours:
    """As many neighbours as make the training sessions likeliest, each left out of its own."""
    law = PathLossLaw.of(training)
    neighbours = LevelNeighbours(training, law.power_variance / law.variance)
    order = neighbours.nearest(
        training.levels_db, training.present, max(_COUNTS), are_training=True
    )
    around, truth = training.places[order], training.places
    counts = [count for count in _COUNTS if count <= around.shape[1]]
    _, inflation, count = min((*_judged(around, truth, count), count) for count in counts)
    return LevelNeighbours(training, neighbours.power_to_own, count, inflation)


def _judged(
    around: NDArray[np.float64], truth: NDArray[np.float64], count: int
) -> tuple[float, float]:
    """Cost of a number of neighbours, and the likeliest inflation of their scatter."""
    mean, scatter = _of_neighbours(around[:, : max(count, _LEAST_SCATTER)], count)
    error = (truth - mean)[:, :, None]
    squares = (error * np.linalg.solve(scatter, error)).sum(axis=(1, 2))
    inflation = float(squares.mean()) / 2
    return 2 * np.log(inflation) + float(np.linalg.slogdet(scatter)[1].mean()), inflation


def _of_neighbours(
    around: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the nearest, `(n, 2)`, and all neighbours' scatter around it, `(n, 2, 2)`."""
    mean = around[:, :count].mean(axis=1)
    apart = around - mean[:, None]
    scatter = np.einsum("nki,nkj->nij", apart, apart) / around.shape[1]
    return mean, scatter + _ROUNDING * np.eye(2)
