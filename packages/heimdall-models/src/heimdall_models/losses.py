"""Losses of a position with its standard deviations.

All keep the constant log(2 pi) / 2 of each axis, so that figures compare across runs and with
the literature, and all compute in float32 or better, whatever autocast does around them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heimdall_models.errors import ModelError

SIGMA_FLOOR = 1e-3
"""Smaller sigmas count as this: the square root of the `eps` of torch.nn.GaussianNLLLoss."""
FAR_SIGMAS = 1e3
"""Beyond this many sigmas the square turns into a logarithm, so that no gradient overflows."""
MOST_CORRELATED = 0.999
"""An ellipse is never thinner than 1 : 22 of its narrower axis' own sigma."""


class GaussianNLLLoss(nn.Module):
    """Mean negative log-likelihood per axis, in nats, of independent Gaussians.

    Equal to `torch.nn.GaussianNLLLoss(full=True)` of the variances and to the mean of
    `-torch.distributions.Normal(position, sigma).log_prob(target)`, up to 1,000 sigmas. Gradients
    are finite for any finite input.

    Source: D. A. Nix and A. S. Weigend, "Estimating the mean and variance of the target
    probability distribution", IEEE ICNN 1994.
    """

    def forward(self, position: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            position: `(batch, axes)`.
            sigma: The same shape; values below `SIGMA_FLOOR` count as the floor.
            target: The same shape.

        Raises:
            ModelError: If the shapes differ.
        """
        return gaussian_nll(position, sigma, target).mean()


class BetaNLLLoss(nn.Module):
    """The same, each value weighted by its own variance to the power `beta`, held fixed.

    The plain likelihood hardly learns where it is unsure; with `beta` of 1 all errors count
    alike, as in least squares, and with 0 it is the likelihood.

    Args:
        beta: From 0 to 1.

    Raises:
        ModelError: If `beta` is outside.

    Source: M. Seitzer, A. Tavakoli, D. Antic and G. Martius, "On the pitfalls of heteroscedastic
    uncertainty estimation with probabilistic neural networks", ICLR 2022.
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ModelError(f"beta is {beta!r}; give a number from 0 to 1")
        self.beta = beta

    def forward(self, position: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; arguments as of `GaussianNLLLoss`."""
        weight = sigma.detach().float().clamp_min(SIGMA_FLOOR) ** (2 * self.beta)
        return (weight * gaussian_nll(position, sigma, target)).mean()


class CorrelatedGaussianNLLLoss(nn.Module):
    """Mean negative log-likelihood per axis, in nats, of ellipses that may tilt.

    Equal to half of `-torch.distributions.MultivariateNormal(...).log_prob(target)`, up to 1,000
    sigmas, and to `GaussianNLLLoss` without correlation. Gradients are finite for any finite
    input.

    Source: P. M. Williams, "Using neural networks to model conditional multivariate densities",
    Neural Computation 8 (1996), whose factors these are: east, and north given east.
    """

    def forward(
        self, position: Tensor, sigma: Tensor, correlation: Tensor, target: Tensor
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            position: `(batch, 2)`.
            sigma: The same shape; values below `SIGMA_FLOOR` count as the floor.
            correlation: `(batch,)`; beyond 0.999 either way it counts as that.
            target: As `position`.

        Raises:
            ModelError: If the shapes differ.
        """
        if correlation.shape != position.shape[:-1]:
            raise ModelError(
                f"correlations {tuple(correlation.shape)} do not match positions "
                f"{tuple(position.shape)}; expected {tuple(position.shape[:-1])}"
            )
        _require_one_shape(position, sigma, target)
        sigma = sigma.float().clamp_min(SIGMA_FLOOR)
        tilt = correlation.float().clamp(-MOST_CORRELATED, MOST_CORRELATED)
        half_error = target.float() / 2 - position.float() / 2
        half_east, half_north = half_error.unbind(dim=-1)
        east, north = sigma.unbind(dim=-1)
        # Beyond so many sigmas what east says of north no longer grows, nor overflows.
        far = half_east.abs() > east * (FAR_SIGMAS / 2)
        near_east = torch.where(far, half_east.sign() * east.detach() * (FAR_SIGMAS / 2), half_east)
        half_north = half_north - tilt * north * (near_east / east)
        narrow = north * (1 - tilt.square()).sqrt()
        both = _half_square(half_east, east) + _half_square(half_north, narrow)
        return ((both + east.log() + narrow.log()) / 2).mean() + math.log(2 * math.pi) / 2


def gaussian_nll(position: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of each value, in nats; see `GaussianNLLLoss`."""
    _require_one_shape(position, sigma, target)
    sigma = sigma.float().clamp_min(SIGMA_FLOOR)
    # Halved before subtracting: the difference of two finite numbers may overflow.
    half_error = target.float() / 2 - position.float() / 2
    return sigma.log() + _half_square(half_error, sigma) + math.log(2 * math.pi) / 2


def _half_square(half_error: Tensor, sigma: Tensor) -> Tensor:
    """z^2 / 2 of z = 2 half_error / sigma, growing like F^2 log(z / F) beyond F sigmas."""
    far = half_error.abs() > sigma * (FAR_SIGMAS / 2)
    # Each branch sees only inputs that it can take: torch.where's gradient is 0 * inf otherwise.
    near_error = torch.where(far, torch.zeros_like(half_error), half_error)
    far_error = torch.where(far, half_error.abs(), sigma.detach() * (FAR_SIGMAS / 2))
    tail = far_error.log() - sigma.log() + math.log(2 / FAR_SIGMAS)
    near = (near_error * 2 / sigma).square() / 2
    return torch.where(far, FAR_SIGMAS**2 * (0.5 + tail), near)


def _require_one_shape(position: Tensor, sigma: Tensor, target: Tensor) -> None:
    if not position.shape == sigma.shape == target.shape:
        raise ModelError(
            f"positions {tuple(position.shape)}, sigmas {tuple(sigma.shape)} and targets "
            f"{tuple(target.shape)} must have one shape"
        )
