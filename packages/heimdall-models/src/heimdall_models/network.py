"""The network of spectrograms: a position and its ellipse.

A map of the level that each receiver reads from a transmitter anywhere, learned from the training
sessions, gives a posterior over the plane. A timm backbone reads the spectrograms as an image with
one channel per receiver. Two heads take the backbone's vector, the levels and the posterior, and
correct the posterior: the mean by some of its sigmas, the sigmas by a factor. The same correction
moves a mixture of Gaussians, which has the posterior's peaks.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
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
    from heimdall_models.mixtures import Mixture

IMAGE_SHAPE = (128, 32)
"""Mel bands and frames of the contract's features."""
LEVEL_WIDTH = 64
SHARPNESS = 4.0
"""Sharpness of the soft maximum: the mean of powers if one deviation is 17 dB, as simulated."""
LOUDEST = 5.0
"""Limit, in deviations, that a receiver's loudness approaches."""
INITIAL_SIGMA = 0.3
"""In plane units: about the spread of a region's transmitters around its middle."""
MOST_TILTED = 0.98
"""Share of the posterior's correlation that an ellipse keeps, because sigmas change after it."""
WELL_WITHIN = 0.9
"""Share of the logarithmic distance from the middle of sigma's bounds to one of them."""
EXPECTED_CORRECTION = 0.2
"""Standard deviation of the Gaussian prior on an answer's correction of the posterior by levels:
in sigmas of the position, and in nats of sigma."""


class BoundedSigma(nn.Module):
    """Standard deviations strictly within bounds, for any finite input.

    The logarithm of sigma follows r / (1 + |r|) from the lower to the upper bound. The gradient
    falls like 1/r^2, while that of a sigmoid would underflow and that of a clamp would be zero.
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
        """Sigmas of the raw outputs, same shape; zero gives the geometric mean of the bounds."""
        # raw / (1 + |raw|), written so that autograd does not subtract near-equal numbers.
        short = 1 / (1 + torch.where(raw > 0, raw, -raw))
        share = torch.where(raw > 0, 1 - short, short - 1)
        return torch.exp(self.middle + self.half_range * share)

    def raw(self, sigma: Tensor) -> Tensor:
        """Raw outputs that give these sigmas, or the nearest sigmas well within the bounds."""
        share = (sigma.log() - self.middle) / self.half_range
        share = share.clamp(-WELL_WITHIN, WELL_WITHIN)
        return share / (1 - share.abs())


class ReceiverLevels(nn.Module):
    """Loudness of each receiver, and the posterior by levels, as a small vector.

    Loudness is the soft maximum of the normalised input over all bands and frames, and that of the
    loudest band. Unlike a mean of decibels, it follows the carrier, not the empty bands, and hardly
    changes with a pause or a masked stretch.
    """

    def __init__(self, n_receivers: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Linear(2 * n_receivers + 4, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, x: Tensor, posterior: Tensor) -> Tensor:
        """`(batch, width)` from the normalised input, and mean and raw sigmas `(batch, 4)`."""
        bands = _soft_maximum(x)
        loudness = torch.cat([_soft_maximum(bands), bands.amax(dim=2)], dim=1)
        # A missing receiver is many deviations below the mean, and must not dominate.
        loudness = loudness / (1 + loudness.abs() / LOUDEST)
        mixed: Tensor = self.mix(torch.cat([loudness, posterior], dim=1))
        return mixed


def _soft_maximum(x: Tensor) -> Tensor:
    """log(mean(exp(s x))) / s over the last axis, with s = `SHARPNESS`."""
    return (torch.logsumexp(SHARPNESS * x, dim=-1) - math.log(x.shape[-1])) / SHARPNESS


class Answer(NamedTuple):
    """Answer of the network, and its distance from the posterior by levels."""

    position: Tensor
    """`(batch, 2)`, plane units."""
    sigma: Tensor
    """`(batch, 2)`, plane units."""
    correlation: Tensor
    """Correlation of the errors east and north, `(batch,)`; zero for upright ellipses."""
    correction: Tensor
    """Mean square of the correction in the posterior's sigmas, plus that of the logarithm of
    sigma's factor; zero before levels are learned. A scalar."""
    mixture: Mixture | None = None
    """The posterior in Gaussians, whose mean square about the position is sigma's; None in training
    and with one component."""

    @property
    def ellipse(self) -> tuple[Tensor, Tensor, Tensor]:
        """Position, sigma and correlation."""
        return self.position, self.sigma, self.correlation


class Heads(nn.Module):
    """Position and ellipse: the posterior by levels, corrected; in float32."""

    sigma_factor: Tensor

    def __init__(
        self,
        n_receivers: int,
        width: int,
        dropout: float,
        sigma: BoundedSigma,
        *,
        tilted: bool,
        n_components: int,
    ) -> None:
        super().__init__()
        self.tilted = tilted
        self.n_components = n_components
        self.posterior = LevelPosterior(n_receivers, IMAGE_SHAPE, INITIAL_SIGMA)
        self.levels = ReceiverLevels(n_receivers, LEVEL_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.position = nn.Linear(width + LEVEL_WIDTH, 2)
        self.spread = nn.Linear(width + LEVEL_WIDTH, 2)
        self.sigma = sigma
        # By which sigmas are multiplied after training; see `training.fit.calibrated`.
        self.register_buffer("sigma_factor", torch.ones(()))
        for head in (self.position, self.spread):
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *others: object
    ) -> None:
        # Older networks were not calibrated.
        if f"{prefix}position.weight" in state_dict:
            state_dict.setdefault(f"{prefix}sigma_factor", torch.ones(()))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forget(self) -> None:
        """Correct nothing: the answer is the posterior by levels."""
        for head in (self.position, self.spread):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, features: Tensor | None, x: Tensor, target: Tensor | None = None) -> Answer:
        """Answer from the backbone's vectors `(batch, width)` and input; see `LevelPosterior`.

        Without vectors, it is the posterior by levels, not corrected.
        """
        # Without autocast: a bfloat16 position is 400 m coarse in a region of 100 km.
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            logits = self.posterior.logits(x.float(), target)
            mean, covariance = self.posterior.moments(logits)
            spread, correlation = sigma_and_correlation(covariance)
            raw = self.sigma.raw(spread)
            shift = change = torch.zeros_like(mean)
            if features is not None:
                levels = self.levels(x.float(), torch.cat([mean, raw], dim=1))
                both = torch.cat([self.dropout(features.float()), levels], dim=1)
                shift, change = self.position(both), self.spread(both)
            sigma = self.sigma(raw + change)
            factor = sigma.log() - self.sigma(raw).log()
            sigma = sigma * self.sigma_factor
            correction = (shift.square() + factor.square()).mean() * self.posterior.has_learned
            correlation = correlation * (MOST_TILTED if self.tilted else 0.0)
            position = mean + spread * shift
            mixture = None
            if self.n_components > 1 and target is None:
                found = self.posterior.mixture(logits, self.n_components)
                mixture = found.moved(mean, position, sigma / spread)
            return Answer(position, sigma, correlation, correction, mixture)


class LocalizationNet(nn.Module):
    """Positions and standard deviations in plane units, from normalised spectrograms.

    Args:
        n_receivers: Channels of the input.
        backbone: timm's name of the backbone.
        weights: None for random weights, a file (safetensors, or PyTorch's with tensors only), or
            `hub` for timm's hub.
        freeze_backbone: Train the heads alone.
        sigma_min: Lower bound of the standard deviations in plane units, before calibration;
            `sigma_max` is the upper.
        dropout: Share of the backbone's vector that is dropped at random, below 1.
        drop_path: Share of the backbone's blocks that are skipped at random, if it supports that.
        tilted: Tilt ellipses as the posterior by levels is; otherwise they are upright.
        n_components: Gaussians that the posterior by levels is given as, beside its mean and
            sigmas; with 1 there are only those.

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
        dropout: float = 0.5,
        drop_path: float = 0.0,
        tilted: bool = False,
        n_components: int = 1,
    ) -> None:
        super().__init__()
        if n_receivers < 1:
            raise ModelError(f"n_receivers is {n_receivers}; a network needs at least one")
        if n_components < 1:
            raise ModelError(f"n_components is {n_components}; an answer needs at least one")
        self.n_receivers = n_receivers
        self.n_components = n_components
        self.backbone, width = trunk(
            backbone, n_receivers, IMAGE_SHAPE, weights=weights, drop_path=drop_path
        )
        bounds = BoundedSigma(sigma_min, sigma_max)
        self.heads = Heads(
            n_receivers, width, dropout, bounds, tilted=tilted, n_components=n_components
        )
        self.backbone_is_frozen = False
        if freeze_backbone:
            self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Positions and sigmas of normalised spectrograms `(batch, receivers, 128, 32)`, float32.

        Both are `(batch, 2)`, east and north in plane units. With `tilted`, then also the
        correlation of both errors, `(batch,)`. With several components, then also the three parts
        of a `Mixture`.

        Raises:
            ModelError: If the input has another shape.
        """
        return self.outputs_of(self.answer(x))

    def answer_in_training(self, x: Tensor, target: Tensor) -> tuple[Answer, Tensor]:
        """Answer for sessions that levels are learned from, and a penalty to add to the loss.

        Each session, whose true place is `target` `(batch, 2)` in plane units, is located on a
        map that was made without it. The penalty is the negative log-prior of the correction.
        """
        answer = self.answer(x, target)
        return answer, answer.correction / (2 * EXPECTED_CORRECTION**2)

    def answer(self, x: Tensor, target: Tensor | None = None) -> Answer:
        """See `forward` and `answer_in_training`."""
        wanted = (self.n_receivers, *IMAGE_SHAPE)
        if x.ndim != 4 or x.shape[1:] != wanted:
            raise ModelError(
                f"the network takes (batch, {', '.join(map(str, wanted))}); got {tuple(x.shape)}"
            )
        answer: Answer = self.heads(self.backbone(x).flatten(1), x, target)
        return answer

    def answer_by_levels(self, x: Tensor) -> Answer:
        """Answer of the posterior by levels alone, without the backbone."""
        answer: Answer = self.heads(None, x)
        return answer

    def outputs_of(self, answer: Answer) -> tuple[Tensor, ...]:
        """Outputs of `forward` for an answer."""
        ellipse = answer.ellipse if self.heads.tilted else answer.ellipse[:2]
        return (*ellipse, *(answer.mixture or ()))

    def learn_levels(self, levels: LearnedLevels, mean: Tensor, std: Tensor) -> None:
        """Start from the posterior by these maps; see `LevelPosterior.learn`."""
        self.heads.posterior.learn(levels, mean, std)
        self.heads.forget()

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


class LevelsAlone(nn.Module):
    """A network's posterior by levels, as what the network adds to it is judged by."""

    def __init__(self, net: LocalizationNet) -> None:
        super().__init__()
        self.net = net
        self.n_components = net.n_components

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs as those of the network."""
        return self.net.outputs_of(self.net.answer_by_levels(x))
