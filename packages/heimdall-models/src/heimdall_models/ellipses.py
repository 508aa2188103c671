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


def cut_to(covariance: Tensor, precision: Tensor) -> Tensor:
    """The covariances `(..., 3)`, cut where they are wider than those of `precision`, `(..., 3)`.

    In no direction is the result wider than either; where the first is narrower in every
    direction, it is returned as it is. In the frame in which the limit is a unit circle, the
    ellipse keeps its axes, and those longer than 1 become 1.
    """
    ee, en, nn = covariance.double().unbind(dim=-1)
    p_ee, p_en, p_nn = precision.double().unbind(dim=-1)
    # The precision's Cholesky factor [[first, 0], [second, third]].
    first = p_ee.sqrt()
    second = p_en / first
    third = (p_nn - second.square()).clamp_min(1e-12 * p_nn).sqrt()
    # The covariance in that frame, [[a, b], [b, c]], and its eigenvalues.
    a = first.square() * ee + 2 * first * second * en + second.square() * nn
    b = third * (first * en + second * nn)
    c = third.square() * nn
    half = (a + c) / 2
    apart = (((a - c) / 2).square() + b.square()).sqrt()
    longest = half + apart
    # By the determinants, because `half - apart` is rounding where the ellipse is thin.
    area = (ee * nn - en.square()).clamp_min(0) * (first * third).square()
    shortest = area / longest.clamp_min(1e-30)
    low = shortest.clamp_max(1.0)
    slope = (1 - low) / (2 * apart).clamp_min(1e-12)
    a, b, c = low + slope * (a - shortest), slope * b, low + slope * (c - shortest)
    # Back again.
    north = c / third.square()
    across = (b / third - second * north) / first
    east = (a - second.square() * north - 2 * first * second * across) / first.square()
    cut = torch.stack([east, across, north], dim=-1).to(covariance.dtype)
    return torch.where((longest > 1).unsqueeze(-1), cut, covariance)
