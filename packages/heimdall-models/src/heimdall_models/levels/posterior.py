"""Posterior of a transmitter's place by its levels alone, over the cells of a learned map.

The likelihood of `baselines.levels`, in torch, for batches and exported graphs: the session's
unknown power is eliminated in closed form, here for each Gaussian of a mixture, and absent
receivers weigh nothing. Before maps are learned, every cell is equally likely.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heimdall_models.ellipses import outer
from heimdall_models.errors import ModelError
from heimdall_models.levels.maps import (
    GRID_SHAPE,
    N_FOLDS,
    LearnedLevels,
    TransmitPowers,
    folds_of,
)
from heimdall_models.levels.received_power import FAINTEST, SILENT_SPREAD_DB

_KNOWS_NOTHING = 1e12
"""dB^2: the variance of a level without a map."""
_LOUDEST_DB = 100.0
"""Decibels over full scale; a louder value is not a feature, and its power would overflow."""
_LEAST_POWER = 1e-30
SHARPNESS = 1.1
"""Exponent of the position's weights: above 1 it is nearer to the likeliest place than the mean,
for a smaller median error."""


class LevelPosterior(nn.Module):
    """Mean and covariance of the posterior over a map of levels.

    Before levels are learned, it has standard deviations `sigma` about the middle, plane units.
    """

    mean: Tensor
    std: Tensor
    noise: Tensor
    places: Tensor
    cell_variance: Tensor
    mean_db: Tensor
    own_variance: Tensor
    common_variance: Tensor
    power_db: Tensor
    power_variance: Tensor
    power_share: Tensor

    def __init__(self, n_receivers: int, image_shape: tuple[int, int], sigma: float) -> None:
        super().__init__()
        n_cells = math.prod(GRID_SHAPE)
        # A square grid around the middle whose places deviate by sigma each way.
        reach = sigma * math.sqrt(3)
        axes = [torch.linspace(-reach + reach / n, reach - reach / n, n) for n in GRID_SHAPE]
        powers = TransmitPowers.spaced(1.0)
        initial = {
            "mean": torch.zeros(n_receivers, *image_shape),
            "std": torch.ones(n_receivers, *image_shape),
            "noise": torch.zeros(n_receivers),
            "places": torch.cartesian_prod(*axes),
            "cell_variance": torch.zeros(2),
            "mean_db": torch.zeros(1 + N_FOLDS, n_receivers, n_cells),
            "own_variance": torch.full((1 + N_FOLDS, n_cells), _KNOWS_NOTHING),
            "common_variance": torch.ones(1 + N_FOLDS, n_cells),
            "power_db": torch.from_numpy(powers.offset_db).float(),
            "power_variance": torch.from_numpy(powers.variance).float(),
            "power_share": torch.from_numpy(powers.share).float(),
        }
        for name, value in initial.items():
            self.register_buffer(name, value)

    def learn(self, levels: LearnedLevels, mean: Tensor, std: Tensor) -> None:
        """Use maps of training sessions, and the input's normalisation in dB, broadcastable to it.

        Raises:
            ModelError: If the maps have another number of receivers.
        """
        if len(levels.noise) != len(self.noise):
            raise ModelError(
                f"levels of {len(levels.noise)} receivers for a network of {len(self.noise)}; "
                f"give sessions with {len(self.noise)}"
            )
        maps = ("noise", "mean_db", "own_variance", "common_variance")
        learned = {name: torch.from_numpy(getattr(levels, name)) for name in maps} | {
            "mean": mean.expand_as(self.mean),
            "std": std.expand_as(self.std),
            "places": torch.from_numpy(levels.grid.cells),
            "cell_variance": torch.tensor(levels.grid.size).square() / 12,
            "power_db": torch.from_numpy(levels.powers.offset_db),
            "power_variance": torch.from_numpy(levels.powers.variance),
            "power_share": torch.from_numpy(levels.powers.share),
        }
        for name, value in learned.items():
            getattr(self, name).copy_(value)

    @property
    def has_learned(self) -> Tensor:
        """1 with maps, 0 without; a scalar."""
        return (self.noise > 0).any().to(self.noise.dtype)

    def forward(self, x: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Means `(batch, 2)`, plane units, and covariances about them `(batch, 3)`.

        Args:
            x: Normalised spectrograms `(batch, receivers, bands, frames)`, float32.
            target: In training, the truth `(batch, 2)` in plane units: each session is then
                located on the map that was made without it.
        """
        level_db, present = self.levels(x)
        logits = self._log_likelihood(level_db, present, target)
        mean = torch.softmax(SHARPNESS * logits, dim=1) @ self.places
        products = outer(self.places - mean.unsqueeze(1))
        covariance = (torch.softmax(logits, dim=1).unsqueeze(-1) * products).sum(dim=1)
        east_size, north_size = self.cell_variance.clamp_min(1e-10)
        # A transmitter is anywhere in its cell.
        size = torch.stack([east_size, torch.zeros_like(east_size), north_size])
        return mean, covariance + size

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signal levels in dB, and 1 where they count, else 0: `(batch, receivers)` both."""
        # A receiver counts if it is up, was heard in training, and is not impossibly loud.
        features = x * self.std + self.mean
        loudest = features.amax(dim=(2, 3))
        spread = loudest - features.amin(dim=(2, 3))
        heard = (spread > SILENT_SPREAD_DB) & (loudest <= _LOUDEST_DB)
        present = (heard & (self.noise > 0)).to(x.dtype)
        bands = torch.exp(features.clamp_max(_LOUDEST_DB) * (math.log(10) / 10)).mean(dim=3)
        power = torch.maximum(bands.sum(dim=2) - self.noise, FAINTEST * self.noise)
        return torch.log10(power.clamp_min(_LEAST_POWER)) * 10, present

    def _log_likelihood(self, level_db: Tensor, present: Tensor, target: Tensor | None) -> Tensor:
        """Log-likelihood of all cells up to a constant, `(batch, cells)`."""
        parts = self._sums(level_db * present, present, target)
        n_present = present.sum(dim=1)[:, None, None]
        # The middle axis: the Gaussians of the powers.
        first, second, own, common = (part.unsqueeze(1) for part in parts)
        offset = self.power_db[:, None]
        part = (common + self.power_variance[:, None]) / own
        shared = 1 + part * n_present
        squares = second - 2 * offset * first + n_present * offset.square()
        quadratic = (squares - part / shared * (first - n_present * offset).square()) / own
        each = quadratic + n_present * own.log() + shared.log()
        return torch.logsumexp(self.power_share.log()[:, None] - 0.5 * each, dim=1)

    def _sums(
        self, level_db: Tensor, present: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over receivers of residuals and of their squares, and both variances.

        `(batch, cells)` each, or `(1, cells)`; by matrix products, to save memory.
        """
        maps = self.mean_db if target is not None else self.mean_db[:1]
        # Less each receiver's middle, so that squares in float32 keep their digits.
        middle = maps[0].mean(dim=1)
        level, maps = (level_db - middle) * present, maps - middle[:, None]
        firsts, seconds = [], []
        for mean in maps:
            firsts.append(level.sum(dim=1, keepdim=True) - present @ mean)
            squares = level.square().sum(dim=1, keepdim=True) - 2 * level @ mean
            seconds.append(squares + present @ mean.square())
        first, second = torch.stack(firsts), torch.stack(seconds)
        if target is None:
            return first[0], second[0], self.own_variance[:1], self.common_variance[:1]
        fold = torch.from_numpy(folds_of(target.detach().float().cpu().numpy())).to(target.device)
        row = torch.arange(len(level), device=level.device)
        own, common = self.own_variance[fold + 1], self.common_variance[fold + 1]
        return first[fold + 1, row], second[fold + 1, row], own, common
