"""Calibration of the timing network's ellipses, on sessions that its training has not seen.

Two temperatures: one for usual sessions, fitted on validation sessions, and one for strange ones
(more doubtful, weaker, of fewer receivers), fitted on validation sessions disturbed by nuisances,
and never below one. A single temperature, fitted on undisturbed sessions, would treat the doubt of
the others as exaggerated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from heimdall_models.calibration import LEAST_SESSIONS, require_enough, temperature
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.timing.network import TimingEstimate, region_prior, strangeness, usual_of
from heimdall_models.timing.nuisances import disturbed

if TYPE_CHECKING:
    from torch import Tensor

    from heimdall_models.timing.network import TimingNet
    from heimdall_models.timing.nuisances import TimingNuisances

__all__ = ["calibrate"]

UNEXPLAINED_QUANTILE = 0.995
"""Quantile over validation sessions; more left unexplained than that is out of distribution."""
STRANGE = 0.5
"""Strangeness from which a session counts for the second temperature."""
N_DISTURBED = 4
"""Times that each session is disturbed; only some of them become strange."""
_ROUNDS = 3
"""Rounds of fitting one temperature with the other held; they hardly depend on each other."""
LEAST_TEMPERATURE = 0.5
"""Undisturbed sessions lack the faults that training expects; half of the area is kept for them."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """Estimates before calibration, and the squared Mahalanobis distances of their truths."""

    found: TimingEstimate
    square: Tensor
    """`(n,)`."""


@torch.no_grad()
def calibrate(
    net: TimingNet, arrivals: Tensor, target: Tensor, nuisances: TimingNuisances, seed: int
) -> None:
    """Fit both temperatures, the range of the usual, and the limit of the unexplained.

    Args:
        net: The trained network.
        arrivals: `(n, receivers, 5)`, undisturbed.
        target: `(n, 2)`, plane units.
        nuisances: Disturbances of the strange sessions.
        seed: Of the disturbances.

    Raises:
        ModelError: If fewer than 30 sessions have two receivers or more.
    """
    timed = arrivals[..., 0].sum(dim=1) >= 2
    arrivals, target = arrivals[timed], target[timed]
    plain = _judged(net, arrivals, target)
    require_enough(plain.square.numpy())
    generator = torch.Generator().manual_seed(seed)
    worse = [disturbed(arrivals, nuisances, generator) for _ in range(N_DISTURBED)]
    strangers = _judged(net, torch.cat(worse), target.repeat(N_DISTURBED, 1))
    net.usual.copy_(usual_of(plain.found))
    limit = torch.quantile(plain.found.unexplained, UNEXPLAINED_QUANTILE)
    net.unexplained_limit.copy_(limit.clamp_min(1.0))
    net.log_temperature.zero_()
    net.log_temperature_of_strangers.zero_()
    for _ in range(_ROUNDS):
        _fit_strangers(net, strangers)
        _fit_plain(net, plain)


def _fit_plain(net: TimingNet, judged: _Judged) -> None:
    strange = strangeness(judged.found, net.usual)
    square = judged.square / _beyond(net, judged)
    square = square / (strange * net.log_temperature_of_strangers).exp()
    factor = temperature(square.numpy(), (1 - strange).numpy())
    net.log_temperature.fill_(math.log(max(factor, LEAST_TEMPERATURE)))


def _fit_strangers(net: TimingNet, judged: _Judged) -> None:
    strange = strangeness(judged.found, net.usual)
    chosen = (strange >= STRANGE) & (judged.found.n_heard >= 2)
    if chosen.sum() < LEAST_SESSIONS:
        return
    strange = strange[chosen]
    square = (judged.square / _beyond(net, judged))[chosen]
    square = square / ((1 - strange) * net.log_temperature).exp()
    log_factor = math.log(temperature(square.numpy(), strange.numpy()))
    net.log_temperature_of_strangers.fill_(max(log_factor, 0.0))


def _beyond(net: TimingNet, judged: _Judged) -> Tensor:
    return (judged.found.unexplained / net.unexplained_limit).clamp_min(1.0)


def _judged(net: TimingNet, arrivals: Tensor, target: Tensor) -> _Judged:
    parts = [
        net.estimate(net.explain(part, region_prior(len(part), part.device)))
        for part in torch.split(arrivals, 128)
    ]
    found = TimingEstimate(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0]))
    )
    sigma, correlation = sigma_and_correlation(found.covariance)
    return _Judged(found, mahalanobis_squared(target - found.position, sigma, correlation))
