"""Training of the timing network in Lightning, its loss, and the calibration of its ellipses.

Every step disturbs the sessions in another way. The loss is the likelihood of the explanations, and
a penalty for ellipses that do not hold their shares of the truths.

Ellipses are calibrated on sessions that training has not seen, with four temperatures: one for
usual sessions and one for each way of being strange (more doubtful, weaker, of fewer receivers).
Nobody knows which faults a session will have, so the temperatures serve several regimes, and the
worst served one counts as much as the mean of all: validation sessions as they are, and the same
with each nuisance alone, drawn anew.

Sources: R. Koenker and G. Bassett, "Regression quantiles", Econometrica 46 (1978), for the loss
whose minimum is a quantile; D. A. Nix and A. S. Weigend, IEEE ICNN 1994, for the Gaussian's;
S. Sagawa, P. W. Koh, T. B. Hashimoto and P. Liang, "Distributionally robust neural networks for
group shifts", ICLR 2020, for the worst group as the objective.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from torch import Tensor

from heimdall_models.calibration import LEAST_SESSIONS, LEVELS, require_enough, shares
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.errors import ModelError
from heimdall_models.optimizer import warmup_cosine
from heimdall_models.timing.network import (
    Explained,
    TimingEstimate,
    TimingNet,
    region_prior,
    usual_of,
)
from heimdall_models.timing.nuisances import TimingNuisances, disturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.utilities.types import OptimizerLRScheduler

    from heimdall_models.region import Region
    from heimdall_models.timing.receivers import ReceiverSite

Batch = dict[str, Tensor]
FAR = 50.0
"""Larger squares grow like their logarithm: one outlier must not outweigh a batch."""
GAUSSIAN_WEIGHT = 0.1
COVERAGE_WEIGHT = 6.0
UNEXPLAINED_QUANTILE = 0.995
"""Quantile over validation sessions beyond which the unexplained is out of distribution."""
N_DISTURBED = 2
"""Times that each session is disturbed by each nuisance."""
SHARES = ("lost", "noisy", "bad_clocks", "detours", "misread")
"""Nuisances that a session has or has not."""
USUAL_WEIGHT = 2.0
"""Points that undisturbed sessions miss count double: most sessions are of their kind."""
TEMPERATURES = (0.5, 8.0)
"""Least and largest. Sessions without faults would shrink the ellipses too far; their area is at
most halved."""
N_TEMPERATURES = 30
"""Of each kind, 10 % apart: the share of 95 % then moves by half a point."""
_ROUNDS = 3
"""Rounds of fitting one temperature with the others held; they hardly depend on each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingConfig:
    """Configuration of the timing network's training.

    Raises:
        ModelError: If a rate is not positive, or the warm-up not a share of the steps.
    """

    learning_rate: float = 4e-3
    """Peak rate of the networks that shape noise and ellipses."""
    odds_rate: float = 3.0
    """Learning rate of the errors and odds of explanations over that peak."""
    warmup_fraction: float = 0.05
    """Share of all steps in which the rate rises."""
    nuisances: TimingNuisances = field(default_factory=TimingNuisances)
    """Changes of the arrival times in training."""
    seed: int = 42
    """Seed of the nuisances."""
    receiver_delays_s: tuple[float, ...] = ()
    """Constant delay of each receiver in channel order, by which its times are late; empty for
    none."""
    receiver_delay_spreads_s: tuple[float, ...] = ()
    """Standard deviation of what is left of each after it is subtracted; likewise."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "odds_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ModelError(f"{name} is {getattr(self, name)!r}; give a positive number")
        if not 0 <= self.warmup_fraction < 1:
            raise ModelError(
                f"warmup_fraction is {self.warmup_fraction!r}; give a share from 0 to below 1"
            )
        for name, least in (("receiver_delays_s", -math.inf), ("receiver_delay_spreads_s", 0.0)):
            if not all(least <= each and math.isfinite(each) for each in getattr(self, name)):
                raise ModelError(
                    f"{name} is {getattr(self, name)}; give finite seconds, spreads of 0 or more"
                )


class TimingModule(lightning.LightningModule):
    """A timing network in training.

    Batches are dictionaries with `arrivals`, float32 `(batch, receivers, 5)`, and `target`,
    float32 `(batch, 2)` in plane units. Logs `train/timing_loss` and `val/timing_nll` in nats.
    """

    def __init__(self, config: TimingConfig, region: Region, sites: Sequence[ReceiverSite]) -> None:
        super().__init__()
        self.config = config
        self.region = region
        delays = config.receiver_delays_s, config.receiver_delay_spreads_s
        self.net = TimingNet(region, sites, *delays)
        self._generator, self._of_validation = torch.Generator(), torch.Generator()

    def on_train_epoch_start(self) -> None:
        """Seed the nuisances, so that a run that goes on after an epoch draws the same."""
        words = np.random.SeedSequence((self.config.seed, self.current_epoch))
        self._generator.manual_seed(int(words.generate_state(1)[0]))

    def on_validation_epoch_start(self) -> None:
        """The same nuisances in every validation, so that epochs compare."""
        self._of_validation.manual_seed(self.config.seed)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002 - Lightning's
        """Disturb training batches, on the CPU and reproducibly."""
        if not self.trainer.training:
            return batch
        arrivals = disturbed(batch["arrivals"], self.config.nuisances, self._generator)
        return {**batch, "arrivals": arrivals}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The loss of one batch."""
        loss = timing_loss(self.net, self._explained(batch["arrivals"]), batch["target"])
        self.log("train/timing_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The likelihood of sessions as they are and disturbed, both alike."""
        arrivals = batch["arrivals"]
        worse = disturbed(arrivals.cpu(), self.config.nuisances, self._of_validation)
        both = torch.cat([arrivals, worse.to(arrivals)])
        loss = mixture_nll(self._explained(both), batch["target"].repeat(2, 1))
        self.log("val/timing_nll", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without decay, because zero is not a neutral value of these parameters."""
        rate = self.config.learning_rate
        shaping = [*self.net.noise.parameters(), *self.net.shape.parameters()]
        meant = [*self.net.explanations.parameters(), self.net.coherent]
        groups = [
            {"params": shaping, "lr": rate},
            {"params": meant, "lr": rate * self.config.odds_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = warmup_cosine(optimizer, n_steps, self.config.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def calibrate(self, arrivals: Tensor, target: Tensor) -> None:
        """Fit temperatures, limits of the usual and of the unexplained on validation sessions.

        Args:
            arrivals: `(n, receivers, 5)`, undisturbed.
            target: `(n, 2)`, plane units.

        Raises:
            ModelError: If fewer than 30 sessions have two receivers or more, or the targets are
                not as many positions.
        """
        if target.shape != (len(arrivals), 2):
            raise ModelError(
                f"targets must be ({len(arrivals)}, 2), one a session; got {tuple(target.shape)}"
            )
        net, config = self.net, self.config
        timed = arrivals[..., 0].sum(dim=1) >= 2
        arrivals, target = arrivals[timed], target[timed]
        plain = self._estimates(arrivals)
        require_enough(torch.cat([plain.position, plain.covariance], dim=1).numpy())
        net.usual.copy_(usual_of(plain))
        limit = torch.quantile(plain.unexplained, UNEXPLAINED_QUANTILE)
        net.unexplained_limit.copy_(limit.clamp_min(1.0))
        regimes = [(USUAL_WEIGHT, plain, target)]
        generator = torch.Generator().manual_seed(config.seed)
        for name in (each for each in SHARES if getattr(config.nuisances, each) > 0):
            only: dict[str, Any] = {each: float(each == name) for each in SHARES}
            alone = replace(config.nuisances, **only)
            worse = [disturbed(arrivals, alone, generator) for _ in range(N_DISTURBED)]
            found, truth = self._estimates(torch.cat(worse)), target.repeat(N_DISTURBED, 1)
            heard = found.n_heard >= 2
            if heard.sum() >= LEAST_SESSIONS:
                some = TimingEstimate(*(part[heard] for part in found))
                regimes.append((1.0, some, truth[heard]))
        least, largest = map(math.log, TEMPERATURES)
        logs = torch.linspace(least, largest, N_TEMPERATURES)
        net.log_temperature.zero_()
        net.log_temperature_of_strangers.zero_()
        places = [net.log_temperature, *net.log_temperature_of_strangers]
        for place in places * _ROUNDS:
            missed = torch.empty(len(logs))
            for at, log_temperature in enumerate(logs):
                place.copy_(log_temperature)
                each = [weight * self._missed(found, truth) for weight, found, truth in regimes]
                missed[at] = max(each) + sum(each) / len(each)
            # The middle of equally good ones.
            place.copy_(logs[missed <= missed.min() + 1e-6].mean())

    def _estimates(self, arrivals: Tensor) -> TimingEstimate:
        """Estimates before calibration."""
        parts = [self.net.estimate(self._explained(part)) for part in torch.split(arrivals, 128)]
        return TimingEstimate(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _missed(self, found: TimingEstimate, target: Tensor) -> float:
        """Largest difference between the levels and the shares that calibrated ellipses hold."""
        said = self.net.calibrated(found, region_prior(len(target)))
        ellipse = sigma_and_correlation(said.covariance)
        square = mahalanobis_squared(target - said.position, *ellipse)
        return float(np.abs(shares(square.numpy()) - LEVELS).max())

    def _explained(self, arrivals: Tensor) -> Explained:
        return self.net.explain(arrivals, region_prior(len(arrivals), arrivals.device))


def timing_loss(network: TimingNet, explained: Explained, target: Tensor) -> Tensor:
    """Loss of a batch with transmitters at `target`, `(batch, 2)` plane units; a scalar in nats.

    The explanations learn from the likelihood of the whole mixture; the ellipse learns to hold
    its shares, without changing the explanations.
    """
    estimate = network.estimate(explained.detached())
    sigma, correlation = sigma_and_correlation(estimate.covariance)
    square = mahalanobis_squared(target - estimate.position, sigma, correlation)
    log_area = sigma.log().sum(dim=1) + torch.log1p(-correlation.square()) / 2
    gaussian = (log_area + _softened(square) / 2).mean()
    return mixture_nll(explained, target) + GAUSSIAN_WEIGHT * gaussian + _coverage_loss(square)


def mixture_nll(explained: Explained, target: Tensor) -> Tensor:
    """Mean negative log-likelihood of the target under all explanations, weighted."""
    solution = explained.solution
    sigma, correlation = sigma_and_correlation(solution.covariance)
    error = target.unsqueeze(1) - solution.position
    square = _softened(mahalanobis_squared(error, sigma, correlation))
    log_density = solution.log_determinant / 2 - square / 2
    return -(explained.logits.log_softmax(dim=1) + log_density).logsumexp(dim=1).mean()


def _coverage_loss(square: Tensor) -> Tensor:
    """Quantile loss in log scale, the same for both levels.

    If errors have heavier tails than a Gaussian, the inner ellipse holds too much by as much as the
    outer one holds too little.
    """
    levels = torch.tensor(LEVELS, device=square.device)
    edge = -2 * torch.log1p(-levels)
    outside = square.clamp_min(1e-6).log().unsqueeze(1) - edge.log()
    loss = torch.where(outside > 0, levels * outside, (levels - 1) * outside)
    return COVERAGE_WEIGHT * loss.mean()


def _softened(square: Tensor) -> Tensor:
    return torch.where(square > FAR, FAR * (1 + torch.log(square.clamp_min(FAR) / FAR)), square)
