"""Posterior of a transmitter's place by its levels alone, over the cells of a learned map.

`level_map.LevelMap` in torch, for batches and exported graphs. Before maps are learned, every cell
is equally likely.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heimdall_models.ellipses import outer
from heimdall_models.errors import ModelError
from heimdall_models.levels.level_map import PRIOR_TRUST, SEASONS, TransmitPowers, Trust
from heimdall_models.levels.maps import GRID_SHAPE, N_FOLDS, LearnedLevels, folds_of
from heimdall_models.levels.received_power import FAINTEST, SILENT_SPREAD_DB
from heimdall_models.mixtures import Mixture, fitted

_KNOWS_NOTHING = 1e12
"""dB^2: the variance of a level without a map."""
_LOUDEST_DB = 100.0
"""Decibels over full scale; a louder value is not a feature, and its power would overflow."""
_LEAST_POWER = 1e-30
_LEAST_CELL = 1e-10
"""Squared plane units: the least variance of places in a cell."""


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
    season_share: Tensor
    temperature: Tensor
    sharpness: Tensor

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
        } | _trusted(PRIOR_TRUST)
        for name, value in initial.items():
            self.register_buffer(name, value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *others: object
    ) -> None:
        # Maps that were learned before there were seasons answer as they did.
        if f"{prefix}power_share" in state_dict:
            before = _trusted(PRIOR_TRUST) | {"season_share": torch.eye(len(SEASONS))[0]}
            for name, value in before.items():
                state_dict.setdefault(f"{prefix}{name}", value)
        super()._load_from_state_dict(state_dict, prefix, *others)

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
        learned |= _trusted(levels.trust)
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
        return self.moments(self.logits(x, target))

    def logits(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Log-probability of each cell up to a constant, `(batch, cells)`; see `forward`."""
        level_db, present = self.levels(x)
        return self._log_likelihood(level_db, present, target)

    def moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` returns, of `logits`."""
        mean = torch.softmax(self.sharpness * logits, dim=1) @ self.places
        products = outer(self.places - mean.unsqueeze(1))
        covariance = (torch.softmax(logits, dim=1).unsqueeze(-1) * products).sum(dim=1)
        east_size, north_size = self.cell_variance.clamp_min(_LEAST_CELL)
        # A transmitter is anywhere in its cell.
        size = torch.stack([east_size, torch.zeros_like(east_size), north_size])
        return mean, covariance + size

    def mixture(self, logits: Tensor, n_components: int) -> Mixture:
        """So many Gaussians near the posterior of `logits`, whose covariance is theirs."""
        within = self.cell_variance.clamp_min(_LEAST_CELL)
        return fitted(logits.softmax(dim=1), self.places, within, GRID_SHAPE, n_components)

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
        """Log-posterior of all cells up to a constant, `(batch, cells)`.

        `LevelMap.log_likelihood` and `LevelMap.posterior_logits`, with as few logarithms and
        exponentials as there can be.
        """
        first, second, variance, common = self._sums(level_db * present, present, target)
        n_present = present.sum(dim=1, keepdim=True)
        average = first / n_present.clamp_min(1)
        scatter = (second - first * average).clamp_min(0)
        weights, log_odds = [], []
        for season, moved in enumerate(SEASONS):
            own = variance + moved
            # The middle axis: the Gaussians of the powers.
            at, spread, share = (each[:, None] for each in self._powers(season))
            joint = (own + n_present * common).unsqueeze(1) + n_present.unsqueeze(1) * spread
            apart = n_present.unsqueeze(1) * (average.unsqueeze(1) - at).square() / joint
            least = apart.amin(dim=1)
            each = share * joint.rsqrt() * torch.exp(0.5 * (least.unsqueeze(1) - apart))
            alone = scatter / own + (n_present - 1) * own.log() + least
            likelihood = each.sum(dim=1).log() - 0.5 * alone
            most = likelihood.amax(dim=1, keepdim=True)
            likelihood = likelihood - most
            tempered = (likelihood / self.temperature).exp()
            weight = likelihood.exp() if season else tempered
            odds = tempered.sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
            log_odds.append(most / self.temperature + (odds * self.season_share[season]).log())
            weights.append(weight)
        odds = torch.softmax(torch.cat(log_odds, dim=1), dim=1)
        parts = (odds[:, k : k + 1] * weight for k, weight in enumerate(weights))
        mixed = sum(parts, odds.new_zeros(()))
        return (mixed + _LEAST_POWER).log()

    def _powers(self, season: int) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets, variances and shares of the powers' Gaussians; see `TransmitPowers`."""
        if season == 0:
            return self.power_db, self.power_variance, self.power_share
        known = self.power_share[:-1] / self.power_share[:-1].sum()
        mean = (known * self.power_db[:-1]).sum(dim=0, keepdim=True)
        second = (known * (self.power_variance + self.power_db.square())[:-1]).sum(0, keepdim=True)
        return mean, second - mean.square(), torch.ones_like(mean)

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


def _trusted(trust: Trust) -> dict[str, Tensor]:
    """The buffers of a network that trusts its maps so far."""
    return {
        "season_share": torch.from_numpy(trust.season_share).float(),
        "temperature": torch.tensor(trust.temperature),
        "sharpness": torch.tensor(trust.sharpness),
    }
