"""Ellipses of the timing network made honest, on sessions that its training has not seen.

Two temperatures: one for sessions like those of validation, fitted on them, and one for sessions
that are stranger (more doubtful, weaker, of fewer receivers), fitted on what nuisances make of
validation sessions, and never below one. Fitted on undisturbed sessions alone, one temperature
for all would take the doubt of others for exaggerated.
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
"""Of validation sessions; what is left unexplained beyond that is out of distribution."""
STRANGE = 0.5
"""Strangeness from which a session counts for the second temperature."""
N_DISTURBED = 4
"""Times that each session is disturbed: only some of them become strange."""
_ROUNDS = 3
"""Of fitting one temperature with the other held; they hardly touch each other."""
LEAST_TEMPERATURE = 0.5
"""Undisturbed sessions do not see what training feared; ellipses keep half of the area for it."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """Estimates before calibration with the squared distances of their truths, in deviations."""

    found: TimingEstimate
    square: Tensor
    """`(n,)`."""


@torch.no_grad()
def calibrate(
    net: TimingNet, arrivals: Tensor, target: Tensor, nuisances: TimingNuisances, seed: int
) -> None:
    """Fit temperatures, what is usual, and the limit of the unexplained.

    Args:
        net: Whose; trained.
        arrivals: `(n, receivers, 5)`, undisturbed.
        target: `(n, 2)`, plane units.
        nuisances: What may go wrong.
        seed: Of what does.

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
    """Of too few that are strange nothing is learned."""
    strange = strangeness(judged.found, net.usual)
    mine = (strange >= STRANGE) & (judged.found.n_heard >= 2)
    if mine.sum() < LEAST_SESSIONS:
        return
    strange = strange[mine]
    square = (judged.square / _beyond(net, judged))[mine]
    square = square / ((1 - strange) * net.log_temperature).exp()
    net.log_temperature_of_strangers.fill_(
        max(math.log(temperature(square.numpy(), strange.numpy())), 0.0)
    )


def _beyond(net: TimingNet, judged: _Judged) -> Tensor:
    return (judged.found.unexplained / net.unexplained_limit).clamp_min(1.0)


def _judged(net: TimingNet, arrivals: Tensor, target: Tensor, chunk: int = 128) -> _Judged:
    parts = [
        net.estimate(net.explain(part, region_prior(len(part), part.device)))
        for part in torch.split(arrivals, chunk)
    ]
    found = TimingEstimate(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(parts[0]))
    )
    sigma, correlation = sigma_and_correlation(found.covariance)
    return _Judged(found, mahalanobis_squared(target - found.position, sigma, correlation))
