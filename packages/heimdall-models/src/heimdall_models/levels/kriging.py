"""A map of every receiver's level, kriged from sessions whose transmitters are known.

Trend: the log-distance law. The rest is a Gaussian field for each receiver, all with one
exponential covariance (Gudmundson's law of shadowing), independent of each other, observed with
fading and with an unknown power that all receivers of a session share.

Independent fields of one covariance stay so under any rotation of the receivers. If the mean of
the receivers is rotated into one component, power is in that one alone. Two factorisations serve
any number of receivers: one with the noise of fading for the deviations from the mean, one with
that of fading and power for the mean. An absent receiver's level is replaced by its conditional
mean, which does not change the map; only the variance then counts it as present.

The field's law (sill, range, noise) is fitted by marginal likelihood. With the correlation matrix
C = U diag(l) U^T of a range, values y along U of variance s (l + e), e being noise over sill, have
in closed form the likeliest s and

    -2 log p = n log s + sum log(l + e) + constant

so one eigendecomposition serves every e; the range is searched outside.

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
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial.distance import cdist

from heimdall_models.levels.path_loss import PathLossLaw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from heimdall_models.levels.grid import Grid
    from heimdall_models.levels.received_power import TrainingLevels

N_SITES = 800
"""Sessions that the law is fitted on; the eigendecomposition costs their cube."""
_RANGES = (0.01, 3.0)
"""Plane units: from a kilometre to much more than the region."""
_RATIOS = (1e-3, 1e3)
"""Noise over sill; without any noise the matrices could not be factorised."""
_LEAST_SILL = 1e-4
"""dB^2."""
MAX_SESSIONS = 6_000
"""A matrix of this size squared is factorised; of more sessions a random choice is used."""
_VARIANCE_EVERY = 3
"""Cells a side that share one variance, which changes slowly and needs far more arithmetic."""
_CELLS_AT_ONCE = 2_000
_TOLERANCE = 1e-5
_ROUNDS = 100
"""Limit of steps of conjugate gradients; an absent level is still a fair guess after them."""


@dataclass(frozen=True, slots=True)
class FieldLaw:
    """Covariance `sill exp(-distance / range)` in dB^2, and noise; distances in plane units."""

    sill: float
    range: float
    own_noise: float
    """Noise of each receiver by itself: fading."""
    mean_noise: float
    """Noise of the sum of n receivers over the root of n: fading, plus power times n."""
    n_receivers: int

    @property
    def power_variance(self) -> float:
        """Variance of transmit power, in dB^2."""
        return max(self.mean_noise - self.own_noise, 0.0) / self.n_receivers

    @classmethod
    def of(cls, places: NDArray[np.float64], residual: NDArray[np.float64]) -> FieldLaw:
        """The likeliest law of fields observed at places `(n, 2)` as `(n, receivers)` in dB."""
        chosen = np.random.default_rng(0).permutation(len(places))[:N_SITES]
        places, residual = places[chosen], residual[chosen]
        n_receivers = residual.shape[1]
        middle = residual.mean(axis=1, keepdims=True)
        mean = middle * np.sqrt(n_receivers)
        spread = mean
        if n_receivers > 1:  # With one, there are no differences between receivers.
            axes = np.column_stack([np.ones(n_receivers), np.eye(n_receivers)[:, 1:]])
            spread = (residual - middle) @ np.linalg.qr(axes)[0][:, 1:]
        length = _least(lambda length: _own_law(places, spread, length)[0], _RANGES)
        _, sill, noise = _own_law(places, spread, length)
        share, along = _along_eigenvectors(places, mean, length)

        def cost(mean_noise: float) -> float:
            variance = sill * share + mean_noise
            return float((np.log(variance) + along[:, 0] ** 2 / variance).mean())

        mean_noise = _least(cost, (noise, noise + 1e3 * (1 + float(np.var(mean)))))
        return cls(sill, length, noise, mean_noise, n_receivers)

    def covariance(
        self, places: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Covariance of one receiver's field between places `(n, 2)` and `(m, 2)`: `(n, m)`."""
        return np.asarray(self.sill * np.exp(cdist(places, others) / -self.range))

    def factor(self, places: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
        """Cholesky factor, lower, of the covariance of values at places with that noise."""
        covariance = self.covariance(places, places) + noise * np.eye(len(places))
        return np.asarray(cholesky(covariance, lower=True, overwrite_a=True))


@dataclass(frozen=True, slots=True)
class KrigedField:
    """Every receiver's level anywhere in the plane, and its variance."""

    trend: PathLossLaw
    law: FieldLaw
    places: NDArray[np.float64]
    """Places of the training sessions, `(n, 2)`."""
    own: NDArray[np.float64]
    """Cholesky factor with fading, `(n, n)`, lower."""
    mean: NDArray[np.float64]
    """Cholesky factor with fading and power."""
    weights: NDArray[np.float64]
    """Weights of the sessions' covariances with a place, `(n, receivers)`."""

    @classmethod
    def of(cls, training: TrainingLevels, law: FieldLaw | None = None) -> KrigedField:
        """The field estimated from training sessions; with the likeliest law if none is given."""
        training = training.some(MAX_SESSIONS)
        trend = PathLossLaw.of(training)
        places, up = training.places, training.present
        residual = training.levels_db - trend.mean_db(places)
        # Absent values are first the power that the session's other receivers imply.
        ratio = trend.power_variance / trend.variance
        total = np.where(up, residual, 0.0).sum(axis=1, keepdims=True)
        power = total * ratio / (1 + ratio * up.sum(axis=1, keepdims=True))
        residual = np.where(up, residual, power)
        law = law or FieldLaw.of(places, residual)
        own, mean = (law.factor(places, noise) for noise in (law.own_noise, law.mean_noise))

        def weights(residual: NDArray[np.float64]) -> NDArray[np.float64]:
            middle = residual.mean(axis=1, keepdims=True)
            apart = cho_solve((own, True), residual - middle)
            return np.asarray(apart + cho_solve((mean, True), middle))

        repaired = _repaired(weights, residual, ~up)
        return cls(trend, law, places, own, mean, weights(repaired))

    def mean_db(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected levels at the mean transmit power, `(cells, receivers)`."""
        field = [self.law.covariance(part, self.places) @ self.weights for part in _parts(cells)]
        return self.trend.mean_db(cells) + np.concatenate(field)

    def variances(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances in dB^2, `(cells,)`: of a level by itself, and shared by all receivers."""
        blocks, of_cell = grid.blocks(_VARIANCE_EVERY)
        pairs = []
        for part in _parts(blocks):
            covariance = self.law.covariance(self.places, part)
            solved = (solve_triangular(by, covariance, lower=True) for by in (self.own, self.mean))
            pairs.append([self.law.sill - np.square(each).sum(axis=0) for each in solved])
        both = np.maximum(np.concatenate(pairs, axis=1), 0.0)
        own, mean = both[:, of_cell]
        shared = self.law.power_variance + (mean - own) / self.law.n_receivers
        return own + self.law.own_noise, shared


def _repaired(
    weights: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    residual: NDArray[np.float64],
    absent: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Absent values replaced by the prediction from all others, by conjugate gradients.

    In a Gaussian of precision G, values are the conditional mean of the others where the product
    of G and all values is zero; `weights` is that product.
    """
    if not absent.any():
        return residual

    def at_absent(values: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.zeros_like(residual)
        full[absent] = values
        return weights(full)[absent]

    n_absent = int(absent.sum())
    precision = LinearOperator((n_absent, n_absent), matvec=at_absent, dtype=np.float64)
    change, _ = cg(precision, -weights(residual)[absent], rtol=_TOLERANCE, maxiter=_ROUNDS)
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


def _along_eigenvectors(
    places: NDArray[np.float64], values: NDArray[np.float64], length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The correlation's eigenvalues, and the values along its eigenvectors."""
    share, vectors = eigh(np.exp(-cdist(places, places) / length), overwrite_a=True)
    return np.maximum(share, 0.0), vectors.T @ values


def _least(cost: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """Minimum of a cost within positive bounds, searched along the logarithm."""
    found = minimize_scalar(
        lambda logarithm: cost(float(np.exp(logarithm))), bounds=np.log(bounds), method="bounded"
    )
    return float(np.exp(found.x))
