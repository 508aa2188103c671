"""Standard deviations within bounds, whose gradients survive there."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heimdall_models.errors import ModelError

WELL_WITHIN = 0.9
"""Of the logarithmic way from the middle of sigma's bounds to one of them."""


class BoundedSigma(nn.Module):
    """Standard deviations strictly within bounds, for any finite input.

    The logarithm of sigma runs from the lower to the upper bound along r / (1 + |r|), which
    nears its ends like 1/r: the gradient falls like 1/r^2 there and stays above zero where an
    exponential squashing would underflow and a clamp would be dead.
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        if not (0 < sigma_min < sigma_max and math.isfinite(sigma_max)):
            raise ModelError(
                f"sigma bounds {sigma_min} to {sigma_max}: both must be positive and in order"
            )
        self.middle = math.log(sigma_min * sigma_max) / 2
        self.half_range = math.log(sigma_max / sigma_min) / 2

    def forward(self, raw: Tensor) -> Tensor:
        """Sigmas of the raw outputs, same shape; zero maps to the bounds' geometric mean."""
        # raw / (1 + |raw|), written so that autograd does not subtract near-equal numbers.
        short = 1 / (1 + torch.where(raw > 0, raw, -raw))
        share = torch.where(raw > 0, 1 - short, short - 1)
        return torch.exp(self.middle + self.half_range * share)

    def raw(self, sigma: Tensor) -> Tensor:
        """The raw outputs that give these sigmas, or the nearest well within the bounds."""
        share = (sigma.log() - self.middle) / self.half_range
        share = share.clamp(-WELL_WITHIN, WELL_WITHIN)
        return share / (1 - share.abs())
