"""Error ellipses that may tilt: two standard deviations and a correlation.

The covariance of a position is kept as east-east, east-north, north-north, `(..., 3)`, so that
every operation on it exists in exported graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_CORRELATED = 0.999_999
"""Limit of a correlation: rounding must not turn a thin ellipse into a line."""


def sigma_and_correlation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations `(..., 2)` and their correlation `(...)` of covariances `(..., 3)`."""
    ee, en, nn = covariance.unbind(dim=-1)
    sigma = torch.stack([ee.sqrt(), nn.sqrt()], dim=-1)
    correlation = en / (sigma[..., 0] * sigma[..., 1])
    return sigma, correlation.clamp(-MOST_CORRELATED, MOST_CORRELATED)


def covariance_of(sigma: Tensor, correlation: Tensor) -> Tensor:
    """The inverse of `sigma_and_correlation`."""
    east, north = sigma.unbind(dim=-1)
    return torch.stack([east.square(), correlation * east * north, north.square()], dim=-1)


def precision_of(sigma: Tensor, correlation: Tensor) -> Tensor:
    """Inverse of the covariance, `(..., 3)`, of sigmas `(..., 2)` and correlations `(...)`."""
    east, north = sigma.reciprocal().unbind(dim=-1)
    products = torch.stack([east.square(), -correlation * east * north, north.square()], dim=-1)
    return products / (1 - correlation.square()).unsqueeze(-1)


def outer(offset: Tensor) -> Tensor:
    """Outer product of offsets `(..., 2)` with themselves, `(..., 3)`."""
    east, north = offset.unbind(dim=-1)
    return torch.stack([east.square(), east * north, north.square()], dim=-1)


def mahalanobis_squared(error: Tensor, sigma: Tensor, correlation: Tensor) -> Tensor:
    """Squared distance in standard deviations, `(...)`, of errors `(..., 2)`.

    Along the ellipse's Cholesky factors, which keeps it exact for thin ellipses.
    """
    east, north = (error / sigma).unbind(dim=-1)
    across = (north - correlation * east) / (1 - correlation.square()).sqrt()
    return east.square() + across.square()


def stretched(covariance: Tensor, along: Tensor, shear: Tensor, across: Tensor) -> Tensor:
    """The square of the covariance's Cholesky factor times a lower triangle, `(..., 3)`.

    The triangle is `[[exp(along), 0], [shear, exp(across)]]`, so the result is a covariance again.
    """
    sigma, tilt = sigma_and_correlation(covariance)
    east, north = sigma.unbind(dim=-1)
    upright = (1 - tilt.square()).sqrt()
    first = east * along.exp()
    second = north * (tilt * along.exp() + upright * shear)
    third = north * upright * across.exp()
    return torch.stack([first.square(), first * second, second.square() + third.square()], dim=-1)
