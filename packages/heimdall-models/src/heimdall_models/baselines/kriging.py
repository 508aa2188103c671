"""A map of every receiver's level, kriged from sessions whose transmitters are known.

Trend: the log-distance law. What the law leaves is a Gaussian field for each receiver, all of one
exponential covariance (Gudmundson's law of shadowing), independent of each other, observed with
fading and with an unknown power that all receivers of a session share.

Independent fields of one covariance stay so under any rotation of the receivers. Rotate the mean
of the receivers into one component, and power is in that one alone: the deviations from the mean
are kriged with the noise of fading, the mean with that of fading and power, exactly and with two
factorisations for any number of receivers. The variance of the interpolation comes along: of
each receiver on its own, and of all together. An absent receiver's level is replaced by its
own prediction until that agrees with itself, which is the exact conditional mean; only the
variance then counts it as present.

Sources: G. Matheron, "Principles of geostatistics", Economic Geology 58 (1963); M. Gudmundson,
"Correlation model for shadow fading in mobile radio systems", Electronics Letters 27 (1991);
hyper-parameters by marginal likelihood: C. E. Rasmussen and C. K. I. Williams, "Gaussian
Processes for Machine Learning" (2006), sections 2.2 and 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.field_law import FieldLaw
from heimdall_models.baselines.level_map import LevelMap, cells_around
from heimdall_models.baselines.path_loss import PathLossLaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from heimdall_models.baselines.levels import TrainingLevels

MAX_SESSIONS = 6_000
"""A matrix of this size squared is factorised; of more sessions a random choice is taken."""
_N_CELLS = 192
_VARIANCE_EVERY = 4
"""Cells a side that share one variance, which changes slowly: it needs far more arithmetic."""
_CELLS_AT_ONCE = 2_000
_N_REPAIRS = 20
"""Rounds of filling in absent levels; each shrinks the error by about the absent share."""


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


def fit_kriged_map(training: TrainingLevels) -> LevelMap:
    """Level likelihood on a kriged map, the uncertainty of the interpolation included.

    Takes about a minute of one core for 6,000 sessions, most of it factorising.
    """
    training = _at_most(training, MAX_SESSIONS)
    trend = PathLossLaw.of(training)
    places, up = training.places, training.present
    residual = training.levels_db - trend.mean_db(places)
    residual = _filled(residual, up, trend.power_variance / trend.variance)
    law = FieldLaw.of(places, residual)
    kriging = _Kriging.at(places, law)
    residual = _repaired(kriging, residual, up)
    cells, size = cells_around(places, _N_CELLS)
    weights = kriging.weights(residual)
    field = np.concatenate([law.covariance(part, places) @ weights for part in _parts(cells)])
    own, mean = _coarse_variances(kriging, cells, size)
    return LevelMap(
        region=training.region,
        cells=cells,
        cell_size=size,
        mean_db=trend.mean_db(cells) + field,
        own_variance=np.repeat((own + law.own_noise)[:, None], up.shape[1], axis=1),
        common_variance=law.power_variance + (mean - own) / up.shape[1],
    )


def _at_most(training: TrainingLevels, n_sessions: int) -> TrainingLevels:
    if len(training.levels_db) <= n_sessions:
        return training
    chosen = np.random.default_rng(0).permutation(len(training.levels_db))[:n_sessions]
    return replace(
        training,
        levels_db=training.levels_db[chosen],
        present=training.present[chosen],
        position_deg=training.position_deg[chosen],
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
    """Absent values replaced by their own prediction, until the two agree."""
    if up.all():
        return residual
    law = kriging.law
    for _ in range(_N_REPAIRS):
        weights = kriging.weights(residual)
        # K (K + S)^-1 y = y - S (K + S)^-1 y, for each component with its own noise.
        middle = weights.mean(axis=1, keepdims=True)
        field = residual - law.own_noise * (weights - middle) - law.mean_noise * middle
        power = law.power_variance / law.mean_noise * (residual - field).mean(axis=1, keepdims=True)
        residual = np.where(up, residual, field + power)
    return residual


def _coarse_variances(
    kriging: _Kriging, cells: NDArray[np.float64], size: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interpolation's variances in all cells, computed in blocks of cells."""
    block = np.floor((cells - cells.min(axis=0)) / (size * _VARIANCE_EVERY) + 1e-6)
    blocks, of_cell = np.unique(block, axis=0, return_inverse=True)
    middles = cells.min(axis=0) + size * (_VARIANCE_EVERY * (blocks + 0.5) - 0.5)
    pairs = [kriging.variances(part) for part in _parts(middles)]
    own, mean = (np.concatenate(values)[of_cell.reshape(-1)] for values in zip(*pairs, strict=True))
    return own, mean


def _parts(cells: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    return (cells[at : at + _CELLS_AT_ONCE] for at in range(0, len(cells), _CELLS_AT_ONCE))
