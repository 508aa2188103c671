"""The law of a field of levels: how strong, how far correlated, how noisily observed.

Fitted by marginal likelihood. With the correlation matrix C = U diag(l) U^T of a range, values
y of variance s (l + e) along U, e being noise over sill, have in closed form the likeliest s and

    -2 log p = n log s + sum log(l + e) + constant

so that one eigendecomposition serves every e; the range is searched outside.

Source: C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning" (2006),
section 5.4; the profile over the sill: K. V. Mardia and R. J. Marshall, Biometrika 71 (1984).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N_SITES = 800
"""As many sessions tell the law well; the eigendecomposition's cost is their cube."""
_RANGES = (0.01, 3.0)
"""Plane units: a kilometre, to much more than the region."""
_RATIOS = (1e-3, 1e3)
"""Noise over sill; without any noise the matrices could not be factorised."""
_LEAST_SILL = 1e-4
"""dB^2."""


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
        """The likeliest law of fields seen at places `(n, 2)` as `(n, receivers)` in dB."""
        chosen = np.random.default_rng(0).permutation(len(places))[:N_SITES]
        places, residual = places[chosen], residual[chosen]
        n_receivers = residual.shape[1]
        middle = residual.mean(axis=1, keepdims=True)
        own = (residual - middle) @ _contrasts(n_receivers)
        mean = middle * np.sqrt(n_receivers)
        # With one receiver there are no differences between receivers: it tells all there is.
        spread = own if n_receivers > 1 else mean
        length = _least(lambda length: _own_law(places, spread, length)[0], _RANGES)
        _, sill, noise = _own_law(places, spread, length)
        mean_noise = _mean_noise(places, mean, sill, length, noise)
        return cls(sill, length, noise, mean_noise, n_receivers)

    def covariance(
        self, places: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Of one receiver's field between places: `(n, 2)` and `(m, 2)` give `(n, m)`."""
        covariance: NDArray[np.float64] = self.sill * np.exp(
            _distance(places, others) / -self.range
        )
        return covariance


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
    """Where a cost is least within positive bounds, searched along the logarithm."""
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
