"""Ellipses of the timing network made honest, on sessions that its training has not seen.

Two temperatures: one for sessions with which nothing seems wrong, fitted on them as they are, and
one for doubtful sessions, fitted on what nuisances make of them. Judged undisturbed, every doubt
would count as exaggerated: three receivers have nothing left over to tell a good clock by, and one
temperature for all would make them as sure as if it were told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heimdall_models.calibration import LEAST_SESSIONS, temperature
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.timing_net import leverage_of_doubt, region_prior
from heimdall_models.timing_nuisances import disturbed

if TYPE_CHECKING:
    from torch import Tensor

    from heimdall_models.timing_net import TimingNet
    from heimdall_models.timing_nuisances import TimingNuisances

__all__ = ["calibrate"]

UNEXPLAINED_QUANTILE = 0.995
"""Of validation sessions; what is left unexplained beyond that is out of distribution."""
DOUBTFUL = 0.25
"""Doubt from which a session is of the second kind."""
N_DISTURBED = 4
"""Times that each session is disturbed: only some of them become doubtful."""
_ROUNDS = 3
"""Of fitting one temperature with the other held; they hardly touch each other."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """Estimates before calibration, `(n,)` each."""

    square: Tensor
    """Squared distances of the truths, in deviations."""
    unexplained: Tensor
    doubt: Tensor


@torch.no_grad()
def calibrate(
    net: TimingNet, arrivals: Tensor, target: Tensor, nuisances: TimingNuisances, seed: int
) -> None:
    """Fit temperatures and the limit of the unexplained.

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
    # Also for its error, of too few sessions.
    net.log_temperature.fill_(math.log(temperature(plain.square.numpy())))
    net.log_temperature_of_doubt.copy_(net.log_temperature)
    limit = torch.quantile(plain.unexplained, UNEXPLAINED_QUANTILE)
    net.unexplained_limit.copy_(limit.clamp_min(1.0))
    generator = torch.Generator().manual_seed(seed)
    worse = [disturbed(arrivals, nuisances, generator) for _ in range(N_DISTURBED)]
    doubtful = _judged(net, torch.cat(worse), target.repeat(N_DISTURBED, 1))
    for _ in range(_ROUNDS):
        _fit(net.log_temperature_of_doubt, net.log_temperature, net, doubtful, of_doubt=True)
        _fit(net.log_temperature, net.log_temperature_of_doubt, net, plain, of_doubt=False)


def _fit(mine: Tensor, other: Tensor, net: TimingNet, judged: _Judged, *, of_doubt: bool) -> None:
    """One temperature, with the other held; of too few doubtful sessions it is the other.

    Undisturbed sessions count all for that of plain ones: together they must be honest.
    """
    own = judged.doubt >= DOUBTFUL if of_doubt else torch.ones_like(judged.doubt, dtype=torch.bool)
    if own.sum() < LEAST_SESSIONS:
        mine.copy_(other)
        return
    beyond = (judged.unexplained[own] / net.unexplained_limit).clamp_min(1.0)
    leverage = leverage_of_doubt(judged.doubt[own])
    leverage = leverage if of_doubt else 1 - leverage
    square = judged.square[own] / beyond / ((1 - leverage) * other).exp()
    mine.fill_(math.log(temperature(square.numpy(), leverage.numpy())))


def _judged(net: TimingNet, arrivals: Tensor, target: Tensor, chunk: int = 128) -> _Judged:
    squares, unexplained, doubts = [], [], []
    for part, truth in zip(torch.split(arrivals, chunk), torch.split(target, chunk), strict=True):
        found = net.estimate(net.explain(part, region_prior(len(part), part.device)))
        sigma, correlation = sigma_and_correlation(found.covariance)
        squares.append(mahalanobis_squared(truth - found.position, sigma, correlation))
        unexplained.append(found.unexplained)
        doubts.append(found.doubt)
    return _Judged(*(torch.cat(parts) for parts in (squares, unexplained, doubts)))
