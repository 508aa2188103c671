"""From the receivers' spectrograms to a position and how sure of it the network is.

A timm backbone reads the spectrograms as an image with one channel per receiver. Two heads read
the backbone's vector and, beside it, each receiver's level: position is in the differences
between levels, and the normalisations inside a backbone are made to discard exactly those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from heimdall_models.backbone import trunk
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SHAPE = (128, 32)
"""Mel bands and frames of the contract's features."""
INITIAL_SIGMA = 0.3
"""In plane units: about the spread of a region's transmitters around its middle."""


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
        return torch.exp(self.middle + self.half_range * raw / (1 + raw.abs()))

    def raw(self, sigma: float) -> float:
        """The raw output that gives `sigma`, or the nearest sigma well within the bounds."""
        share = (math.log(sigma) - self.middle) / self.half_range
        share = min(max(share, -0.9), 0.9)
        return share / (1 - abs(share))


class ReceiverLevels(nn.Module):
    """Each receiver's mean, strongest band and spread, as a small vector.

    Of a normalised input `(batch, receivers, bands, frames)`: the mean over all, and over bands
    the maximum and standard deviation of the frames' mean.
    """

    def __init__(self, n_receivers: int, width: int = 64) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Linear(3 * n_receivers, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, width)`."""
        bands = x.mean(dim=3)
        mean = bands.mean(dim=2, keepdim=True)
        spread = ((bands - mean).square().mean(dim=2) + 1e-6).sqrt()
        mixed: Tensor = self.mix(torch.cat([mean.squeeze(2), bands.amax(dim=2), spread], dim=1))
        return mixed


class LocalizationNet(nn.Module):
    """Positions and standard deviations in plane units, from normalised spectrograms.

    Args:
        n_receivers: Channels of the input, in the order of training.
        backbone: timm's name of the backbone.
        weights: The backbone's start: None for random, a file (safetensors, or PyTorch's with
            tensors only), or `hub` for timm's hub.
        freeze_backbone: Train the heads alone.
        sigma_min: The net never claims to be surer than this, in plane units.
        sigma_max: Nor less sure than this.
        drop_path: Stochastic depth rate of the backbone.

    Raises:
        ModelError: If the backbone, its weights or the bounds cannot be used.
    """

    def __init__(
        self,
        n_receivers: int = 3,
        backbone: str = "convnext_large",
        weights: str | Path | None = None,
        freeze_backbone: bool = False,  # noqa: FBT001, FBT002 - the contract's signature
        sigma_min: float = 0.01,
        sigma_max: float = 1.0,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if n_receivers < 1:
            raise ModelError(f"n_receivers is {n_receivers}; a network needs at least one")
        self.n_receivers = n_receivers
        self.backbone, width = trunk(
            backbone, n_receivers, IMAGE_SHAPE, weights=weights, drop_path=drop_path
        )
        self.levels = ReceiverLevels(n_receivers)
        width += 64
        self.position = nn.Linear(width, 2)
        self.spread = nn.Linear(width, 2)
        self.sigma = BoundedSigma(sigma_min, sigma_max)
        nn.init.trunc_normal_(self.position.weight, std=0.02)
        nn.init.trunc_normal_(self.spread.weight, std=0.02)
        nn.init.zeros_(self.position.bias)
        nn.init.constant_(self.spread.bias, self.sigma.raw(INITIAL_SIGMA))
        self.backbone_is_frozen = False
        if freeze_backbone:
            self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and sigmas, both `(batch, 2)`, east and north in plane units.

        Args:
            x: Normalised spectrograms, float32 `(batch, receivers, 128, 32)`.

        Raises:
            ModelError: If the input has another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (self.n_receivers, *IMAGE_SHAPE):
            raise ModelError(
                f"the network takes (batch, {self.n_receivers}, {IMAGE_SHAPE[0]}, "
                f"{IMAGE_SHAPE[1]}); got {tuple(x.shape)}"
            )
        features = torch.cat([self.backbone(x).flatten(1), self.levels(x)], dim=1)
        return self.position(features), self.sigma(self.spread(features))

    def freeze(self) -> None:
        """Keep the backbone as it is: no gradients, no dropout, no running statistics."""
        self.backbone_is_frozen = True
        self.backbone.requires_grad_(requires_grad=False)
        self.backbone.eval()

    def unfreeze(self) -> None:
        """Train the backbone again."""
        self.backbone_is_frozen = False
        self.backbone.requires_grad_(requires_grad=True)
        self.backbone.train(self.training)

    def train(self, mode: bool = True) -> LocalizationNet:  # noqa: FBT001, FBT002 - torch's own
        """Training mode for all but a frozen backbone."""
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        return self
