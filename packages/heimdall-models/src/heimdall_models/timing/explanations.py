"""Explanations of times of arrival, each with its own errors.

A session's clocks may be worse than they should be, and some receivers may hear the transmission
by a detour only. Every combination of a clock error and of a few receivers on detours is one
explanation, with a learned prior probability.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

__all__ = ["Explanations"]

CLOCK_ERRORS_S = (1e-7, 4e-7, 1.6e-6, 6e-6, 2.5e-5)
"""The first is a GNSS clock in lock; each of the others is about four times worse."""
DETOURS_S = (4e-7, 1.5e-6, 6e-6)
"""Mean excess delays of paths that are blocked."""
MOST_SUBSETS = 128
MOST_BLOCKED = 4


class Explanations(nn.Module):
    """All explanations for the receivers of a model.

    Args:
        n_receivers: Rows of the arrival times.
        unit_s: Time of light for one plane unit.
    """

    blocked: Tensor
    clock: Tensor
    detour: Tensor
    by_clock: Tensor
    plain: Tensor

    def __init__(self, n_receivers: int, unit_s: float) -> None:
        super().__init__()
        subsets = _subsets(n_receivers)
        rows = [
            (clock, detour, subset)
            for clock, error_s in enumerate(CLOCK_ERRORS_S)
            for subset in subsets
            for detour, delay_s in enumerate(DETOURS_S)
            # Clocks that are worse than a detour hide it: only the explanation without one stays.
            if (delay_s > error_s if subset else detour == 0)
        ]
        blocked = torch.zeros(len(rows), n_receivers)
        for row, (_, _, subset) in enumerate(rows):
            blocked[row, list(subset)] = 1.0
        self.n_receivers = n_receivers
        self.n_clocks = len(CLOCK_ERRORS_S)
        clock = torch.tensor([clock for clock, _, _ in rows])
        buffers = {
            "blocked": blocked,
            "clock": clock,
            "by_clock": nn.functional.one_hot(clock, self.n_clocks).float(),
            "plain": ((clock == 0) & (blocked.sum(dim=1) == 0)).float(),
            "detour": torch.tensor([detour for _, detour, _ in rows]),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        self.log_clock = nn.Parameter((torch.tensor(CLOCK_ERRORS_S) / unit_s).log())
        self.log_detour = nn.Parameter((torch.tensor(DETOURS_S) / unit_s).log())
        self.clock_logit = nn.Parameter(torch.tensor([0.0, -3.0, -3.0, -3.0, -3.0]))
        self.detour_logit = nn.Parameter(torch.zeros(len(DETOURS_S)))
        self.blocked_logit = nn.Parameter(torch.tensor(-2.0))

    def __len__(self) -> int:
        return len(self.blocked)

    def errors(self) -> tuple[Tensor, Tensor]:
        """Expected delays and their variances, plane units: `(explanations, receivers)` both.

        An exponential detour of mean m has variance m^2.
        """
        detour = self.log_detour.exp()[self.detour].unsqueeze(-1) * self.blocked
        clock = self.log_clock.exp()[self.clock].unsqueeze(-1)
        return detour, detour.square() + clock.square()

    def log_prior(self, heard: Tensor) -> Tensor:
        """Log of the prior probabilities up to a constant, `(batch, explanations)`.

        A receiver that was not heard, by `heard` `(batch, receivers)`, takes no detour.
        """
        n_blocked = self.blocked.sum(dim=1)
        n_heard = heard.sum(dim=1, keepdim=True)
        free = nn.functional.logsigmoid(-self.blocked_logit)
        taken = nn.functional.logsigmoid(self.blocked_logit)
        scale = torch.where(n_blocked > 0, self.detour_logit.log_softmax(0)[self.detour], 0.0)
        prior = self.clock_logit.log_softmax(0)[self.clock] + scale + n_blocked * (taken - free)
        unheard = (1 - heard) @ self.blocked.T
        return torch.where(unheard > 0, -1e4, prior + n_heard * free)


def _subsets(n_receivers: int) -> list[tuple[int, ...]]:
    """Sets of receivers that may be blocked, from none to the largest that MOST_SUBSETS allows."""
    subsets: list[tuple[int, ...]] = []
    for size in range(min(MOST_BLOCKED, n_receivers - 1) + 1):
        if len(subsets) + math.comb(n_receivers, size) > MOST_SUBSETS and size > 1:
            break
        subsets += itertools.combinations(range(n_receivers), size)
    return subsets
