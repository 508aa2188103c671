"""Nuisances of times of arrival, drawn wider than the training data have them.

A network trained on clean times alone is too sure of all others. Each nuisance is named and can be
set; a share of the sessions stays as it was recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from heimdall_models.errors import ModelError

__all__ = ["TimingNuisances", "disturbed"]

HEARD, ARRIVAL, SIGMA, SNR, MISFIT = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingNuisances:
    """Shares and ranges of nuisances. Ranges are log-uniform; shares are of sessions by default.

    Raises:
        ModelError: If a share is not from 0 to 1, or a range is not positive and in order.
    """

    lost: float = 0.4
    """Share in which one to three receivers are lost."""
    noisy: float = 0.4
    """Share that is received with less signal."""
    noise_db: tuple[float, float] = (0.1, 30.0)
    """Loss of signal."""
    bad_clocks: float = 0.12
    """Share in which all clocks are off."""
    clock_error_us: tuple[float, float] = (0.1, 30.0)
    """Standard deviation of each clock."""
    detours: float = 0.2
    """Share in which receivers hear the transmission by a detour only."""
    blocked: tuple[float, float] = (0.1, 0.5)
    """Share of the receivers, in such a session."""
    detour_us: tuple[float, float] = (0.2, 5.0)
    """Mean excess delay of the blocked receivers of a session, exponentially distributed."""
    misread: float = 0.1
    """Share in which receivers differ by more than noise: echoes, another station."""
    misfit_db: tuple[float, float] = (1.0, 60.0)
    """Added misfit. Sigma counts it as noise; an echo instead, which does not average out over
    samples, makes the error larger than sigma by up to the misfit's own root."""

    def __post_init__(self) -> None:
        for name in ("lost", "noisy", "bad_clocks", "detours", "misread"):
            if not 0 <= getattr(self, name) <= 1:
                raise ModelError(f"{name} is {getattr(self, name)!r}; give a share from 0 to 1")
        if self.bad_clocks + self.detours > 1:
            raise ModelError(
                f"bad_clocks {self.bad_clocks} and detours {self.detours} exclude each other and "
                "add up to more than 1"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(field.default, tuple):
                continue
            if len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
                raise ModelError(f"{field.name} is {value}; give (least, most), both positive")


def disturbed(arrivals: Tensor, nuisances: TimingNuisances, generator: torch.Generator) -> Tensor:
    """Times of arrival with nuisances, `(batch, receivers, 5)`.

    Args:
        arrivals: As the arrival extractor returns them, on the CPU; left as they are.
        nuisances: Their shares and ranges.
        generator: Source of all draws.
    """
    batch, n_receivers = arrivals.shape[:2]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def normal() -> Tensor:
        return torch.randn((batch, n_receivers), generator=generator)

    def between(limits: tuple[float, float]) -> Tensor:
        low, high = map(math.log, limits)
        return torch.exp(low + (high - low) * uniform(batch, 1))

    changed = arrivals.clone()
    _weaken(changed, between(nuisances.noise_db) * (uniform(batch, 1) < nuisances.noisy), normal())
    what = uniform(batch, 1)
    clock_us = between(nuisances.clock_error_us) * (what < nuisances.bad_clocks)
    detouring = (what >= nuisances.bad_clocks) & (what < nuisances.bad_clocks + nuisances.detours)
    blocked = uniform(batch, n_receivers) < between(nuisances.blocked) * detouring
    length = -torch.log(uniform(batch, n_receivers).clamp_min(1e-7))
    changed[..., ARRIVAL] += clock_us * normal()
    changed[..., ARRIVAL] += between(nuisances.detour_us) * length * blocked
    misfit_db = between(nuisances.misfit_db) * (uniform(batch, 1) < nuisances.misread)
    _misread(changed, misfit_db * uniform(batch, n_receivers), uniform(batch, 1), normal())
    return _without_lost(changed, uniform(batch, 2), uniform(batch, n_receivers), nuisances.lost)


def _weaken(arrivals: Tensor, loss_db: Tensor, normal: Tensor) -> None:
    """Less signal: a larger sigma, and the noise that it stands for."""
    factor = 10 ** (loss_db / 20)
    arrivals[..., ARRIVAL] += arrivals[..., SIGMA] * (factor.square() - 1).sqrt() * normal
    arrivals[..., SIGMA] *= factor
    arrivals[..., SNR] -= loss_db


def _misread(arrivals: Tensor, misfit_db: Tensor, coherent: Tensor, normal: Tensor) -> None:
    """A larger misfit, and errors beyond sigma by the share of it that is not noise."""
    arrivals[..., SIGMA] *= 10 ** (misfit_db / 20)
    error = arrivals[..., SIGMA] * (10 ** (misfit_db * coherent / 20)).clamp_min(1.0)
    arrivals[..., ARRIVAL] += error * normal * (misfit_db > 0)
    arrivals[..., MISFIT] += misfit_db


def _without_lost(arrivals: Tensor, draws: Tensor, order: Tensor, share: float) -> Tensor:
    """Rows of lost receivers are zero, as those of receivers that were never there."""
    n_lost = 1 + (3 * draws[:, 1:]).floor()
    rank = order.argsort(dim=1).argsort(dim=1)
    kept = ~((rank < n_lost) & (draws[:, :1] < share))
    return arrivals * (arrivals[..., HEARD] * kept).unsqueeze(-1)
