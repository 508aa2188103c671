"""A map of every receiver's level, kriged from sessions whose transmitters are known.

Trend: the log-distance law. The rest is a Gaussian field for each receiver, all with one
exponential covariance (Gudmundson's law of shadowing), independent of each other, observed with
fading and with an unknown power that all receivers of a session share.

Fields are projected on their values at `N_SUPPORTS` places: all places of few sessions, which is
exact, or else those farthest from each other, and what is lost counts as fading. With P the
precision of a session's levels, power eliminated, and F the fields' loadings on the places, the
values are the solution of (1 + F^T P F) u = F^T P y, found by conjugate gradients.

Independent fields of one covariance stay so under any rotation of the receivers. If the mean of
the receivers is rotated into one component, power is in that one alone. So where all receivers
are present, two factorisations solve the equations for any number of them: one with the noise of
fading for the deviations from the mean, one with that of fading and power for the mean. They
precondition the search where some are absent, and give the variance, as if none were.

The field's law (sill, range, noise) is fitted by marginal likelihood. With the correlation matrix
C = U diag(l) U^T of a range, values y along U of variance s (l + e), e being noise over sill, have
in closed form the likeliest s and

    -2 log p = n log s + sum log(l + e) + constant

so one eigendecomposition serves every e; the range is searched outside.

Sources: G. Matheron, "Principles of geostatistics", Economic Geology 58 (1963); M. Gudmundson,
"Correlation model for shadow fading in mobile radio systems", Electronics Letters 27 (1991);
hyper-parameters by marginal likelihood: C. E. Rasmussen and C. K. I. Williams, "Gaussian
Processes for Machine Learning" (2006), sections 2.2 and 5.4; the profile over the sill:
K. V. Mardia and R. J. Marshall, Biometrika 71 (1984); the projection with what it loses as noise:
E. Snelson and Z. Ghahramani, "Sparse Gaussian processes using pseudo-inputs", NIPS 2005; places
far from each other: T. F. Gonzalez, Theoretical Computer Science 38 (1985).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.linalg.blas import dsyrk
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
N_SUPPORTS = 1_500
"""Places that the fields are projected on; time grows with their square times the sessions."""
_JITTER = 1e-9
"""Of the sill, so that places next to each other leave a matrix that can be factorised."""
_VARIANCE_EVERY = 3
"""Cells a side that share one variance, which changes slowly and needs far more arithmetic."""
_CELLS_AT_ONCE = 2_000
_TOLERANCE = 1e-4
_ROUNDS = 60
"""Limit of steps of conjugate gradients; the map is fair after fewer."""
_LEAST_PRESENCE = 0.5
"""Share of its sessions in which a receiver that the law is fitted to was up."""


@dataclass(frozen=True, slots=True)
class FieldLaw:
    """Covariance `sill exp(-distance / range)` in dB^2, and noise; distances in plane units."""

    sill: float
    range: float
    own_noise: float
    """Noise of each receiver by itself: fading."""
    power_variance: float
    """Of transmit power, which moves all receivers alike."""
    n_receivers: int
    """That were ever up."""

    @classmethod
    def of(
        cls, training: TrainingLevels, trend: PathLossLaw, residual: NDArray[np.float64]
    ) -> FieldLaw:
        """The likeliest law of fields observed as `(n, receivers)` in dB, zero where absent."""
        chosen = np.random.default_rng(0).permutation(len(residual))[:N_SITES]
        places, up = training.places[chosen], training.present[chosen]
        # A receiver that is seldom up has more invented values than true ones.
        presence = up.mean(axis=0)
        usual = presence >= min(_LEAST_PRESENCE, presence.max())
        up, residual = up[:, usual], residual[chosen][:, usual]
        # Absent values are the power that the session's other receivers imply.
        ratio = trend.power_variance / trend.variance
        power = residual.sum(axis=1, keepdims=True) * ratio
        residual = np.where(up, residual, power / (1 + ratio * up.sum(axis=1, keepdims=True)))
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
        power_variance = max(mean_noise - noise, 0.0) / n_receivers
        # Absent values do not vary by themselves.
        sill, noise = sill / presence[usual].mean(), noise / presence[usual].mean()
        return cls(sill, length, noise, power_variance, int((presence > 0).sum()))

    def covariance(
        self, places: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Covariance of one receiver's field between places `(n, 2)` and `(m, 2)`: `(n, m)`."""
        return np.asarray(self.sill * np.exp(cdist(places, others) / -self.range))


@dataclass(frozen=True, slots=True)
class Loadings:
    """Places that carry the fields, and how training sessions load on the fields there."""

    law: FieldLaw
    supports: NDArray[np.float64]
    """`(supports, 2)`, plane units."""
    root: NDArray[np.float64]
    """Cholesky factor, lower, of the fields' covariance at the supports."""
    of_sessions: NDArray[np.float64]
    """`(n, supports)`: the fields at the sessions' places are these times independent values."""
    noise: NDArray[np.float64]
    """`(n,)` in dB^2: of a level by itself, fading and what the projection loses."""

    @classmethod
    def of(cls, places: NDArray[np.float64], law: FieldLaw) -> Loadings:
        """Loadings of sessions at these places, `(n, 2)`."""
        supports = _apart(places)
        covariance = law.covariance(supports, supports)
        covariance.flat[:: len(supports) + 1] += _JITTER * law.sill
        root = np.asarray(cholesky(covariance, lower=True, overwrite_a=True))
        none = np.empty((0, 0))
        made = cls(law, supports, root, none, none)
        loads = np.concatenate([made.at(part) for part in _parts(places)])
        lost = np.maximum(law.sill - np.square(loads).sum(axis=1), 0.0)
        return replace(made, of_sessions=loads, noise=law.own_noise + lost)

    def at(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loadings of fields at places `(n, 2)`: `(n, supports)`."""
        covariance = self.law.covariance(self.supports, places)
        return np.asarray(solve_triangular(self.root, covariance, lower=True).T)


@dataclass(frozen=True, slots=True)
class KrigedField:
    """Every receiver's level anywhere in the plane, and its variance."""

    trend: PathLossLaw
    loadings: Loadings
    own: NDArray[np.float64]
    """Cholesky factor, lower, of the precision of the supports' values with fading alone."""
    mean: NDArray[np.float64]
    """The same with fading and power."""
    values: NDArray[np.float64]
    """Independent values that the fields are made of, `(supports, receivers)`."""

    @property
    def law(self) -> FieldLaw:
        """The law of the fields."""
        return self.loadings.law

    @classmethod
    def of(cls, training: TrainingLevels, law: FieldLaw | None = None) -> KrigedField:
        """The field estimated from training sessions; with the likeliest law if none is given."""
        return next(cls.of_folds(training, np.zeros(len(training.levels_db), np.intp), 0, law))

    @classmethod
    def of_folds(
        cls,
        training: TrainingLevels,
        fold: NDArray[np.intp],
        n_folds: int,
        law: FieldLaw | None = None,
    ) -> Iterator[KrigedField]:
        """The field of all sessions, then one without each fold, whose numbers are `(n,)`."""
        trend = PathLossLaw.of(training)
        places, up = training.places, training.present
        residual = np.where(up, training.levels_db - trend.mean_db(places), 0.0)
        law = law or FieldLaw.of(training, trend, residual)
        loadings = Loadings.of(places, law)
        with_power = loadings.noise + law.power_variance * law.n_receivers
        parts = [fold == number for number in range(n_folds)] or [fold == fold]
        grams = [
            [_gram(loadings.of_sessions[part], 1 / noise[part]) for part in parts]
            for noise in (loadings.noise, with_power)
        ]
        nobody, start = np.zeros(len(fold), dtype=bool), None
        for number, left_out in enumerate([nobody, *parts[:n_folds]]):
            others = [each[: max(number - 1, 0)] + each[number:] for each in grams]
            own, mean = (
                np.asarray(cholesky(sum(each, np.eye(len(each[0]))), lower=True, overwrite_a=True))
                for each in others
            )
            field = cls(trend, loadings, own, mean, np.empty(0))
            start = field._solved(~left_out, residual, up, start)
            yield replace(field, values=start)

    def _solved(
        self,
        kept: NDArray[np.bool_],
        residual: NDArray[np.float64],
        up: NDArray[np.bool_],
        start: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """The supports' values, from the sessions kept."""
        up, residual = up[kept], residual[kept]
        loads, noise = self.loadings.of_sessions[kept], self.loadings.noise[kept, None]
        n_supports, n_receivers = loads.shape[1], up.shape[1]
        ratio = self.law.power_variance / noise
        shared = ratio / (1 + ratio * up.sum(axis=1, keepdims=True))

        def precision(values: NDArray[np.float64]) -> NDArray[np.float64]:
            total = shared * values.sum(axis=1, keepdims=True)
            return np.asarray(np.where(up, values - total, 0.0) / noise)

        def equations(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            values = flat.reshape(n_supports, n_receivers)
            heard = np.where(up, loads @ values, 0.0)
            return np.asarray(values + loads.T @ precision(heard)).reshape(-1)

        def as_if_all_present(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            values = flat.reshape(n_supports, n_receivers)
            middle = values.mean(axis=1, keepdims=True)
            apart = cho_solve((self.own, True), values - middle)
            return np.asarray(apart + cho_solve((self.mean, True), middle)).reshape(-1)

        shape = (n_supports * n_receivers,) * 2
        found, _ = cg(
            LinearOperator(shape, matvec=equations, dtype=np.float64),
            (loads.T @ precision(residual)).reshape(-1),
            None if start is None else start.reshape(-1),
            M=LinearOperator(shape, matvec=as_if_all_present, dtype=np.float64),
            rtol=_TOLERANCE,
            maxiter=_ROUNDS,
        )
        return np.asarray(found.reshape(n_supports, n_receivers))

    def mean_db(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected levels at the mean transmit power, `(cells, receivers)`."""
        root = self.loadings.root
        weights = solve_triangular(root, self.values, lower=True, trans="T")
        supports = self.loadings.supports
        field = [self.law.covariance(part, supports) @ weights for part in _parts(cells)]
        return np.asarray(self.trend.mean_db(cells) + np.concatenate(field))

    def variances(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances in dB^2, `(cells,)`: of a level by itself, and shared by all receivers."""
        blocks, of_cell = grid.blocks(_VARIANCE_EVERY)
        pairs = []
        for part in _parts(blocks):
            loads = self.loadings.at(part).T
            solved = (solve_triangular(by, loads, lower=True) for by in (self.own, self.mean))
            unknown = self.law.sill - np.square(loads).sum(axis=0)
            pairs.append([unknown + np.square(each).sum(axis=0) for each in solved])
        both = np.maximum(np.concatenate(pairs, axis=1), 0.0)
        own, mean = both[:, of_cell]
        shared = self.law.power_variance + (mean - own) / self.law.n_receivers
        return own + self.law.own_noise, shared


def _gram(loads: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over sessions of the weighted outer products of their loadings; its upper half is 0."""
    # The transpose is in the order of memory that BLAS takes without a copy.
    return np.asarray(dsyrk(1.0, (loads * np.sqrt(weights)[:, None]).T, lower=True))


def _apart(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """All places `(n, 2)` without repetition, or `N_SUPPORTS` that are far from each other."""
    places = np.unique(places, axis=0)
    if len(places) <= N_SUPPORTS:
        return places
    chosen = np.zeros(N_SUPPORTS, dtype=np.intp)
    nearest = np.full(len(places), np.inf)
    for number in range(1, N_SUPPORTS):
        apart = np.square(places - places[chosen[number - 1]]).sum(axis=1)
        nearest = np.minimum(nearest, apart)
        chosen[number] = nearest.argmax()
    return np.asarray(places[chosen])


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
