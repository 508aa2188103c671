"""A map of every receiver's level, kriged from sessions whose transmitters are known.

Trend: the log-distance law. What the law leaves is a Gaussian field for each receiver, all of one
exponential covariance (Gudmundson's law of shadowing), independent of each other, observed with
fading and with an unknown power that all receivers of a session share.

Independent fields of one covariance stay so under any rotation of the receivers. Rotate the mean
of the receivers into one component, and power is in that one alone: the deviations from the mean
are kriged with the noise of fading, the mean with that of fading and power, exactly and with two
factorisations for any number of receivers. The variance of the interpolation comes along: of
each receiver on its own, and of all together. An absent receiver's level is replaced by its
conditional mean, which leaves the map what it is without it; only the variance then counts it
as present.

Sources: G. Matheron, "Principles of geostatistics", Economic Geology 58 (1963); M. Gudmundson,
"Correlation model for shadow fading in mobile radio systems", Electronics Letters 27 (1991);
hyper-parameters by marginal likelihood: C. E. Rasmussen and C. K. I. Williams, "Gaussian
Processes for Machine Learning" (2006), sections 2.2 and 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.field_law import FieldLaw
from heimdall_models.baselines.grid import Grid
from heimdall_models.baselines.level_map import LevelMap
from heimdall_models.baselines.path_loss import PathLossLaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from heimdall_models.baselines.levels import TrainingLevels

MAX_SESSIONS = 6_000
"""A matrix of this size squared is factorised; of more sessions a random choice is taken."""
_N_CELLS = 192
_VARIANCE_EVERY = 3
"""Cells a side that share one variance, which changes slowly: it needs far more arithmetic."""
_CELLS_AT_ONCE = 2_000
_TOLERANCE = 1e-5
_ROUNDS = 100
"""Of conjugate gradients; what is not exact by then is still a fair guess of an absent level."""


@dataclass(frozen=True, slots=True)
class _Kriging:
    """Two factorised covariances of the training sites, and what they were factorised from."""

    law: FieldLaw
    places: NDArray[np.float64]
    own: NDArray[np.float64]
    """Cholesky factor with fading, `(n, n)`, lower."""
    mean: NDArray[np.float64]
    """Cholesky factor with fading and power."""

    @classmethod
    def at(cls, places: NDArray[np.float64], law: FieldLaw) -> _Kriging:
        from scipy.linalg import cholesky

        covariance = law.covariance(places, places)
        diagonal = np.eye(len(places))
        own = cholesky(covariance + law.own_noise * diagonal, lower=True, overwrite_a=True)
        mean = cholesky(covariance + law.mean_noise * diagonal, lower=True, overwrite_a=True)
        return cls(law, places, own, mean)

    def weights(self, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the sites' covariances with a place are multiplied by, `(n, receivers)`."""
        from scipy.linalg import cho_solve

        middle = residual.mean(axis=1, keepdims=True)
        weights: NDArray[np.float64] = cho_solve((self.own, True), residual - middle) + cho_solve(
            (self.mean, True), middle
        )
        return weights

    def variances(
        self, cells: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the interpolation, `(cells,)` each: of a receiver alone, and of the rotated mean."""
        from scipy.linalg import solve_triangular

        covariance = self.law.covariance(self.places, cells)
        own, mean = (
            self.law.sill - np.square(solve_triangular(factor, covariance, lower=True)).sum(axis=0)
            for factor in (self.own, self.mean)
        )
        return np.maximum(own, 0.0), np.maximum(mean, 0.0)


@dataclass(frozen=True, slots=True)
class KrigedField:
    """Every receiver's level anywhere in the plane, and how well it is known."""

    trend: PathLossLaw
    kriging: _Kriging
    weights: NDArray[np.float64]
    """Of the training sites, `(n, receivers)`."""

    @classmethod
    def of(cls, training: TrainingLevels, law: FieldLaw | None = None) -> KrigedField:
        """The field that the training sessions tell of.

        Args:
            training: At most `MAX_SESSIONS` of them are used.
            law: Of the field; None is the likeliest.
        """
        training = training.some(MAX_SESSIONS)
        trend = PathLossLaw.of(training)
        places, up = training.places, training.present
        residual = training.levels_db - trend.mean_db(places)
        residual = _filled(residual, up, trend.power_variance / trend.variance)
        kriging = _Kriging.at(places, law or FieldLaw.of(places, residual))
        return cls(trend, kriging, kriging.weights(_repaired(kriging, residual, up)))

    @property
    def law(self) -> FieldLaw:
        """The field's law."""
        return self.kriging.law

    def mean_db(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected levels at the mean transmit power, `(cells, receivers)`."""
        places = self.kriging.places
        field = [self.law.covariance(part, places) @ self.weights for part in _parts(cells)]
        return self.trend.mean_db(cells) + np.concatenate(field)

    def variances(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """In dB^2, `(cells,)` each: of a level by itself, and what all receivers share."""
        blocks, of_cell = grid.blocks(_VARIANCE_EVERY)
        pairs = [self.kriging.variances(part) for part in _parts(blocks)]
        own, mean = (np.concatenate(values)[of_cell] for values in zip(*pairs, strict=True))
        shared = self.law.power_variance + (mean - own) / self.law.n_receivers
        return own + self.law.own_noise, shared


def fit_kriged_map(training: TrainingLevels) -> LevelMap:
    """Level likelihood on a kriged map, the uncertainty of the interpolation included.

    Takes 14 s of one core for 6,000 sessions, most of it factorising.
    """
    field = KrigedField.of(training)
    grid = Grid.of_squares(training.places, _N_CELLS)
    mean = field.mean_db(grid.cells)
    own, common = field.variances(grid)
    return LevelMap(
        region=training.region,
        grid=grid,
        mean_db=mean,
        own_variance=np.repeat(own[:, None], mean.shape[1], axis=1),
        common_variance=common,
    )


def _filled(
    residual: NDArray[np.float64], up: NDArray[np.bool_], power_to_own: float
) -> NDArray[np.float64]:
    """Absent values replaced by what the session's other receivers say of its power."""
    total = np.where(up, residual, 0.0).sum(axis=1, keepdims=True)
    power = total * power_to_own / (1 + power_to_own * up.sum(axis=1, keepdims=True))
    return np.where(up, residual, power)


def _repaired(
    kriging: _Kriging, residual: NDArray[np.float64], up: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Absent values replaced by what all others predict, by conjugate gradients.

    Of a Gaussian with precision G, the conditional mean of some values is where the product of
    G and all values is zero at them; `weights` is that product.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    absent = ~up
    if not absent.any():
        return residual

    def at_absent(values: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.zeros_like(residual)
        full[absent] = values
        return kriging.weights(full)[absent]

    n_absent = int(absent.sum())
    precision = LinearOperator((n_absent, n_absent), matvec=at_absent, dtype=np.float64)
    change, _ = cg(precision, -kriging.weights(residual)[absent], rtol=_TOLERANCE, maxiter=_ROUNDS)
    repaired = residual.copy()
    repaired[absent] += change
    return repaired


def _parts(cells: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    return (cells[at : at + _CELLS_AT_ONCE] for at in range(0, len(cells), _CELLS_AT_ONCE))
