"""Negative log-likelihood of positions with tilted ellipses; `module` trains with it.

The loss of the network of times is in `timing.module`.

Source: D. A. Nix and A. S. Weigend, "Estimating the mean and variance of the target probability
distribution", IEEE ICNN 1994; for the tilt P. M. Williams, "Using neural networks to model
conditional multivariate densities", Neural Computation 8 (1996), with its factors: east, and north
given east.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from heimdall_models.errors import ModelError

SIGMA_FLOOR = 1e-3
"""Smaller sigmas count as this: the square root of the `eps` of torch.nn.GaussianNLLLoss."""
FAR_SIGMAS = 1e3
"""Beyond this many sigmas the square turns into a logarithm, so that no gradient overflows."""
MOST_CORRELATED = 0.999
"""Limit of the correlation: no ellipse is thinner than 1 : 22 of its narrower axis' own sigma."""


def gaussian_nll(position: Tensor, sigma: Tensor, correlation: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-likelihood per axis, in nats; a scalar.

    Equal to half of `-torch.distributions.MultivariateNormal(...).log_prob(target)` up to 1,000
    sigmas, and without correlation to `torch.nn.GaussianNLLLoss(full=True)`. The constant
    log(2 pi) / 2 is kept, so that figures compare across runs and with the literature. Gradients
    are finite for any finite input; computed in float32 or better under any autocast.

    Shapes: `(batch, 2)`, and `(batch,)` for correlations, which are limited to +-0.999. Sigmas
    below `SIGMA_FLOOR` count as the floor.

    Raises:
        ModelError: If the shapes differ.
    """
    shapes = [tuple(part.shape) for part in (position, sigma, target)]
    if len({*shapes}) > 1 or correlation.shape != position.shape[:-1]:
        raise ModelError(
            f"positions {shapes[0]}, sigmas {shapes[1]} and targets {shapes[2]} must have one "
            f"shape (batch, 2), and correlations {tuple(correlation.shape)} the shape (batch,)"
        )
    sigma = sigma.float().clamp_min(SIGMA_FLOOR)
    tilt = correlation.float().clamp(-MOST_CORRELATED, MOST_CORRELATED)
    # Halved before subtracting: the difference of two finite numbers may overflow.
    half_error = target.float() / 2 - position.float() / 2
    half_east, half_north = half_error.unbind(dim=-1)
    east, north = sigma.unbind(dim=-1)
    # The conditional mean of north stops growing at the same distance, so that it cannot overflow.
    far = half_east.abs() > east * (FAR_SIGMAS / 2)
    near_east = torch.where(far, half_east.sign() * east.detach() * (FAR_SIGMAS / 2), half_east)
    half_north = half_north - tilt * north * (near_east / east)
    narrow = north * (1 - tilt.square()).sqrt()
    both = _half_square(half_east, east) + _half_square(half_north, narrow)
    return ((both + east.log() + narrow.log()) / 2).mean() + math.log(2 * math.pi) / 2


def _half_square(half_error: Tensor, sigma: Tensor) -> Tensor:
    """z^2 / 2 of z = 2 half_error / sigma, growing like F^2 log(z / F) beyond F sigmas."""
    far = half_error.abs() > sigma * (FAR_SIGMAS / 2)
    # Each branch sees only inputs that it can take: torch.where's gradient is 0 * inf otherwise.
    near_error = torch.where(far, torch.zeros_like(half_error), half_error)
    far_error = torch.where(far, half_error.abs(), sigma.detach() * (FAR_SIGMAS / 2))
    tail = far_error.log() - sigma.log() + math.log(2 / FAR_SIGMAS)
    near = (near_error * 2 / sigma).square() / 2
    return torch.where(far, FAR_SIGMAS**2 * (0.5 + tail), near)
