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


def gaussian_nll(position: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of each value, in nats; see `GaussianNLLLoss`."""
    if not position.shape == sigma.shape == target.shape:
        raise ModelError(
            f"positions {tuple(position.shape)}, sigmas {tuple(sigma.shape)} and targets "
            f"{tuple(target.shape)} must have one shape"
        )
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
