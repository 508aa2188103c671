"""The network of spectrograms: a position and its ellipse.

Levels come first: a map of the level that each receiver reads of a transmitter anywhere, learned
from the training sessions, gives a posterior over the plane. A timm backbone reads the spectrograms
as an image with one channel per receiver; two heads read its vector and, beside it, the levels and
the posterior, and correct the posterior: its mean by some of its sigmas, its sigmas by a factor.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from heimdall_models.backbone import trunk
from heimdall_models.ellipses import sigma_and_correlation
from heimdall_models.errors import ModelError
from heimdall_models.levels.posterior import LevelPosterior

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_models.levels.maps import LearnedLevels

__all__ = ["BoundedSigma", "LocalizationNet", "Regularization"]

IMAGE_SHAPE = (128, 32)
"""Mel bands and frames of the contract's features."""
LEVEL_WIDTH = 64
SHARPNESS = 4.0
"""Sharpness of the soft maximum: with 17 dB a deviation, as simulated sessions have, it is a mean
of powers."""
LOUDEST = 5.0
"""Deviations towards which a receiver's loudness saturates."""
INITIAL_SIGMA = 0.3
"""In plane units: about the spread of a region's transmitters around its middle."""
MOST_TILTED = 0.98
"""Share of the posterior's tilt that an ellipse takes over, because sigmas change after it."""
WELL_WITHIN = 0.9
"""Share of the logarithmic distance from the middle of sigma's bounds to one of them."""


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


class ReceiverLevels(nn.Module):
    """Loudness of each receiver, and the posterior by levels, as a small vector.

    Two numbers a receiver: the soft maximum of the normalised input over all bands and frames,
    and that of the loudest band. A mean of powers, unlike a mean of decibels, follows the carrier
    and not the empty bands, and hardly changes with a pause or a masked stretch. Of the posterior
    two numbers a direction.
    """

    def __init__(self, n_receivers: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Linear(2 * n_receivers + 4, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, x: Tensor, posterior: Tensor) -> Tensor:
        """`(batch, width)`.

        Args:
            x: A normalised input `(batch, receivers, bands, frames)`.
            posterior: Mean and raw sigmas by levels, `(batch, 4)`.
        """
        bands = _soft_maximum(x)
        loudness = torch.cat([_soft_maximum(bands), bands.amax(dim=2)], dim=1)
        # A missing receiver reads many deviations below the mean, and must not dominate.
        loudness = loudness / (1 + loudness.abs() / LOUDEST)
        mixed: Tensor = self.mix(torch.cat([loudness, posterior], dim=1))
        return mixed


def _soft_maximum(x: Tensor) -> Tensor:
    """log(mean(exp(s x))) / s over the last axis, s being `SHARPNESS`."""
    return (torch.logsumexp(SHARPNESS * x, dim=-1) - math.log(x.shape[-1])) / SHARPNESS


class Answer(NamedTuple):
    """Answer of the network, and its distance from the posterior by levels."""

    position: Tensor
    """`(batch, 2)`, plane units."""
    sigma: Tensor
    """`(batch, 2)`, plane units."""
    correlation: Tensor
    """Of the errors east and north, `(batch,)`; zero where ellipses are upright."""
    correction: Tensor
    """Mean over batch and axes of the squared correction, in the posterior's sigmas, and of the
    squared logarithm of sigma's factor; zero as long as no levels were learned. A scalar."""

    @property
    def ellipse(self) -> tuple[Tensor, Tensor, Tensor]:
        """Position, sigma and correlation."""
        return self.position, self.sigma, self.correlation


class Heads(nn.Module):
    """Position and ellipse: the posterior by levels, corrected; in float32."""

    def __init__(
        self, n_receivers: int, width: int, dropout: float, sigma: BoundedSigma, *, tilted: bool
    ) -> None:
        super().__init__()
        self.tilted = tilted
        self.posterior = LevelPosterior(n_receivers, IMAGE_SHAPE, INITIAL_SIGMA)
        self.levels = ReceiverLevels(n_receivers, LEVEL_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.position = nn.Linear(width + LEVEL_WIDTH, 2)
        self.spread = nn.Linear(width + LEVEL_WIDTH, 2)
        self.sigma = sigma
        for head in (self.position, self.spread):
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(self, features: Tensor, x: Tensor, target: Tensor | None = None) -> Answer:
        """Positions and sigmas.

        Args:
            features: The backbone's vectors, `(batch, width)`.
            x: Input of the backbone.
            target: The truth, in training; see `LevelPosterior`.
        """
        # Without autocast: a bfloat16 position is 400 m coarse in a region of 100 km.
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            mean, covariance = self.posterior(x.float(), target)
            spread, correlation = sigma_and_correlation(covariance)
            raw = self.sigma.raw(spread)
            levels = self.levels(x.float(), torch.cat([mean, raw], dim=1))
            both = torch.cat([self.dropout(features.float()), levels], dim=1)
            shift = self.position(both)
            sigma = self.sigma(raw + self.spread(both))
            factor = sigma.log() - self.sigma(raw).log()
            correction = (shift.square() + factor.square()).mean() * self.posterior.has_learned
            correlation = correlation * (MOST_TILTED if self.tilted else 0.0)
            return Answer(mean + spread * shift, sigma, correlation, correction)

    def learn_levels(self, levels: LearnedLevels, mean: Tensor, std: Tensor) -> None:
        """Take maps over, and start from their posterior without correction."""
        self.posterior.learn(levels, mean, std)
        for head in (self.position, self.spread):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)


@dataclass(frozen=True, slots=True)
class Regularization:
    """Guards against learning sessions by heart."""

    dropout: float = 0.5
    """Share of the backbone's vector that is left out at random, below 1."""
    drop_path: float = 0.0
    """Stochastic depth: share of whole blocks of the backbone, where it has them, below 1."""
    correction: float = 0.2
    """Expected distance of an answer from the posterior by levels, once learned: in its sigmas,
    and in nats of sigma. The odds are Gaussian."""


class LocalizationNet(nn.Module):
    """Positions and standard deviations in plane units, from normalised spectrograms.

    Args:
        n_receivers: Channels of the input, in the order of training.
        backbone: timm's name of the backbone.
        weights: The backbone's start: None for random, a file (safetensors, or PyTorch's with
            tensors only), or `hub` for timm's hub.
        freeze_backbone: Train the heads alone.
        sigma_min: Lower bound of the standard deviations, in plane units.
        sigma_max: Upper bound.
        regularization: Guards against learning sessions by heart.
        tilted: Tilt ellipses as the posterior by levels is; otherwise they are upright.

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
        regularization: Regularization = Regularization(),
        *,
        tilted: bool = False,
    ) -> None:
        super().__init__()
        if n_receivers < 1:
            raise ModelError(f"n_receivers is {n_receivers}; a network needs at least one")
        self.n_receivers = n_receivers
        self.expected_correction = regularization.correction
        self.backbone, width = trunk(
            backbone, n_receivers, IMAGE_SHAPE, weights=weights, drop_path=regularization.drop_path
        )
        bounds = BoundedSigma(sigma_min, sigma_max)
        self.heads = Heads(n_receivers, width, regularization.dropout, bounds, tilted=tilted)
        self.backbone_is_frozen = False
        if freeze_backbone:
            self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Positions and sigmas, both `(batch, 2)`, east and north in plane units.

        With `tilted`, then also the correlation of both errors, `(batch,)`.

        Args:
            x: Normalised spectrograms, float32 `(batch, receivers, 128, 32)`.

        Raises:
            ModelError: If the input has another shape.
        """
        answer = self.answer(x)
        return answer.ellipse if self.heads.tilted else answer.ellipse[:2]

    def answer_in_training(self, x: Tensor, target: Tensor) -> tuple[Answer, Tensor]:
        """The answer, and a penalty to add to the loss, for sessions that levels are learned from.

        Each session is seen through a map of levels that was made without it. The penalty is the
        negative logarithm of the correction's odds, see `Regularization`; a scalar.

        Args:
            x: As in `forward`.
            target: The truth, `(batch, 2)`, plane units.
        """
        answer = self.answer(x, target)
        return answer, answer.correction / (2 * self.expected_correction**2)

    def answer(self, x: Tensor, target: Tensor | None = None) -> Answer:
        """See `forward` and `answer_in_training`."""
        if x.ndim != 4 or x.shape[1:] != (self.n_receivers, *IMAGE_SHAPE):
            raise ModelError(
                f"the network takes (batch, {self.n_receivers}, {IMAGE_SHAPE[0]}, "
                f"{IMAGE_SHAPE[1]}); got {tuple(x.shape)}"
            )
        answer: Answer = self.heads(self.backbone(x).flatten(1), x, target)
        return answer

    def learn_levels(self, levels: LearnedLevels, mean: Tensor, std: Tensor) -> None:
        """Start from maps of levels that training sessions gave.

        Args:
            levels: The maps.
            mean: Of the input's normalisation in dB, broadcastable to `(receivers, 128, 32)`.
            std: The same.
        """
        self.heads.learn_levels(levels, mean, std)

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
