"""A map of every receiver's level, kriged from sessions whose transmitters are known.

Trend: the log-distance law. What the law leaves is a Gaussian field for each receiver, all of one
exponential covariance (Gudmundson's law of shadowing), independent of each other, observed with
fading and with an unknown power that all receivers of a session share.

Independent fields of one covariance stay so under any rotation of the receivers. With the mean of
the receivers rotated into one component, power is in that one alone: the deviations from the mean
are kriged with the noise of fading, the mean with that of fading and power, exactly and with two
factorisations for any number of receivers. They also give the variance of the interpolation, of
each receiver on its own and of all together. An absent receiver's level is replaced by its
conditional mean, which does not change the map; only the variance then counts it as present.

The field's law (sill, range, noise) is fitted by marginal likelihood. With the correlation matrix
C = U diag(l) U^T of a range, values y of variance s (l + e) along U, e being noise over sill, have
in closed form the likeliest s and

    -2 log p = n log s + sum log(l + e) + constant

so that one eigendecomposition serves every e; the range is searched outside.

Sources: G. Matheron, "Principles of geostatistics", Economic Geology 58 (1963); M. Gudmundson,
"Correlation model for shadow fading in mobile radio systems", Electronics Letters 27 (1991);
hyper-parameters by marginal likelihood: C. E. Rasmussen and C. K. I. Williams, "Gaussian
Processes for Machine Learning" (2006), sections 2.2 and 5.4; the profile over the sill:
K. V. Mardia and R. J. Marshall, Biometrika 71 (1984).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.levels.path_loss import PathLossLaw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from heimdall_models.levels.grid import Grid
    from heimdall_models.levels.received_power import TrainingLevels

__all__ = ["FieldLaw", "KrigedField"]

N_SITES = 800
"""Sessions that the law is fitted on; the eigendecomposition's cost is their cube."""
_RANGES = (0.01, 3.0)
"""Plane units: a kilometre, to much more than the region."""
_RATIOS = (1e-3, 1e3)
"""Noise over sill; without any noise the matrices could not be factorised."""
_LEAST_SILL = 1e-4
"""dB^2."""
MAX_SESSIONS = 6_000
"""A matrix of this size squared is factorised; of more sessions a random choice is taken."""
_VARIANCE_EVERY = 3
"""Cells a side that share one variance, which changes slowly: it needs far more arithmetic."""
_CELLS_AT_ONCE = 2_000
_TOLERANCE = 1e-5
_ROUNDS = 100
"""Of conjugate gradients; what is not exact by then is still a fair guess of an absent level."""


@dataclass(frozen=True, slots=True)
class FieldLaw:
    """Covariance `sill exp(-distance / range)` in dB^2, and noise; distances in plane units."""

    sill: float
    range: float
    own_noise: float
    """Of each receiver by itself: fading."""
    mean_noise: float
    """Of the receivers' sum over the root of their number: fading, and power as often as there
    are receivers."""
    n_receivers: int

    @property
    def power_variance(self) -> float:
        """Of transmit power, in dB^2."""
        return max(self.mean_noise - self.own_noise, 0.0) / self.n_receivers

    @classmethod
    def of(cls, places: NDArray[np.float64], residual: NDArray[np.float64]) -> FieldLaw:
        """The likeliest law of fields observed at places `(n, 2)` as `(n, receivers)` in dB."""
        chosen = np.random.default_rng(0).permutation(len(places))[:N_SITES]
        places, residual = places[chosen], residual[chosen]
        n_receivers = residual.shape[1]
        middle = residual.mean(axis=1, keepdims=True)
        own = (residual - middle) @ _contrasts(n_receivers)
        mean = middle * np.sqrt(n_receivers)
        # With one receiver there are no differences between receivers.
        spread = own if n_receivers > 1 else mean
        length = _least(lambda length: _own_law(places, spread, length)[0], _RANGES)
        _, sill, noise = _own_law(places, spread, length)
        mean_noise = _mean_noise(places, mean, sill, length, noise)
        return cls(sill, length, noise, mean_noise, n_receivers)

    def covariance(
        self, places: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Covariance of one receiver's field between places `(n, 2)` and `(m, 2)`: `(n, m)`."""
        covariance: NDArray[np.float64] = self.sill * np.exp(
            _distance(places, others) / -self.range
        )
        return covariance


@dataclass(frozen=True, slots=True)
class _Kriging:
    """Two factorised covariances of the training sites, with their law and places."""

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
        """Weights of the sites' covariances with a place, `(n, receivers)`."""
        from scipy.linalg import cho_solve

        middle = residual.mean(axis=1, keepdims=True)
        weights: NDArray[np.float64] = cho_solve((self.own, True), residual - middle) + cho_solve(
            (self.mean, True), middle
        )
        return weights

    def variances(
        self, cells: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variance of the interpolation, `(cells,)`: of a receiver alone, of the rotated mean."""
        from scipy.linalg import solve_triangular

        covariance = self.law.covariance(self.places, cells)
        own, mean = (
            self.law.sill - np.square(solve_triangular(factor, covariance, lower=True)).sum(axis=0)
            for factor in (self.own, self.mean)
        )
        return np.maximum(own, 0.0), np.maximum(mean, 0.0)


@dataclass(frozen=True, slots=True)
class KrigedField:
    """Every receiver's level anywhere in the plane, and its variance."""

    trend: PathLossLaw
    kriging: _Kriging
    weights: NDArray[np.float64]
    """Of the training sites, `(n, receivers)`."""

    @classmethod
    def of(cls, training: TrainingLevels, law: FieldLaw | None = None) -> KrigedField:
        """The field estimated from training sessions.

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
        """Variances in dB^2, `(cells,)`: of a level by itself, and shared by all receivers."""
        blocks, of_cell = grid.blocks(_VARIANCE_EVERY)
        pairs = [self.kriging.variances(part) for part in _parts(blocks)]
        own, mean = (np.concatenate(values)[of_cell] for values in zip(*pairs, strict=True))
        shared = self.law.power_variance + (mean - own) / self.law.n_receivers
        return own + self.law.own_noise, shared


def _filled(
    residual: NDArray[np.float64], up: NDArray[np.bool_], power_to_own: float
) -> NDArray[np.float64]:
    """Absent values replaced by the power that the session's other receivers imply."""
    total = np.where(up, residual, 0.0).sum(axis=1, keepdims=True)
    power = total * power_to_own / (1 + power_to_own * up.sum(axis=1, keepdims=True))
    return np.where(up, residual, power)


def _repaired(
    kriging: _Kriging, residual: NDArray[np.float64], up: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Absent values replaced by the prediction from all others, by conjugate gradients.

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


def _own_law(
    places: NDArray[np.float64], values: NDArray[np.float64], length: float
) -> tuple[float, float, float]:
    """Cost, and likeliest sill and noise, of independent columns with a given range."""
    share, along = _along_eigenvectors(places, values, length)

    def profile(ratio: float) -> tuple[float, float]:
        variance = share + ratio
        sill = max(float((along**2 / variance[:, None]).mean()), _LEAST_SILL)
        return float(np.log(variance).mean()) + np.log(sill), sill

    ratio = _least(lambda ratio: profile(ratio)[0], _RATIOS)
    cost, sill = profile(ratio)
    return cost, sill, ratio * sill


def _mean_noise(
    places: NDArray[np.float64],
    mean: NDArray[np.float64],
    sill: float,
    length: float,
    own_noise: float,
) -> float:
    """The likeliest noise of the mean component, whose field is known; not below `own_noise`."""
    share, along = _along_eigenvectors(places, mean, length)

    def cost(noise: float) -> float:
        variance = sill * share + noise
        return float((np.log(variance) + along[:, 0] ** 2 / variance).mean())

    return _least(cost, (own_noise, own_noise + 1e3 * (1 + float(np.var(mean)))))


def _along_eigenvectors(
    places: NDArray[np.float64], values: NDArray[np.float64], length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The correlation's eigenvalues, and the values along its eigenvectors."""
    from scipy.linalg import eigh

    share, vectors = eigh(np.exp(-_distance(places, places) / length), overwrite_a=True)
    return np.maximum(share, 0.0), vectors.T @ values


def _least(cost: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """Minimum of a cost within positive bounds, searched along the logarithm."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda logarithm: cost(float(np.exp(logarithm))), bounds=np.log(bounds), method="bounded"
    )
    return float(np.exp(found.x))


def _contrasts(n_receivers: int) -> NDArray[np.float64]:
    """Orthonormal columns, all orthogonal to the mean: `(receivers, receivers - 1)`."""
    basis = np.linalg.qr(np.column_stack([np.ones(n_receivers), np.eye(n_receivers)[:, 1:]]))[0]
    contrasts: NDArray[np.float64] = basis[:, 1:]
    return contrasts


def _distance(places: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    distance: NDArray[np.float64] = cdist(places, others)
    return distance
