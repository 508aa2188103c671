"""Nuisances of times of arrival, drawn from wider ranges than those of the training data.

A network trained on clean times alone is too sure of all others. Each nuisance can be set; a share
of the sessions stays as it was recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from heimdall_models.errors import ModelError

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
    """Share with less signal."""
    noise_db: tuple[float, float] = (0.1, 30.0)
    """Loss of signal."""
    bad_clocks: float = 0.12
    """Share in which all clocks are off."""
    clock_error_us: tuple[float, float] = (0.1, 30.0)
    """Standard deviation of each clock."""
    detours: float = 0.2
    """Share in which some receivers hear the transmission by a detour only."""
    blocked: tuple[float, float] = (0.1, 0.5)
    """Share of the receivers of such a session that do."""
    detour_us: tuple[float, float] = (0.2, 5.0)
    """Mean excess delay of the blocked receivers of a session, exponentially distributed."""
    misread: float = 0.1
    """Share in which receivers differ by more than noise: echoes, another station."""
    misfit_db: tuple[float, float] = (1.0, 60.0)
    """Added misfit. Sigma counts it as noise, but an echo, which does not average out over samples,
    makes the error larger than sigma."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                if not 0 <= value <= 1:
                    raise ModelError(f"{field.name} is {value!r}; give a share from 0 to 1")
            elif len(value) != 2 or not 0 < value[0] <= value[1] < math.inf:
                raise ModelError(f"{field.name} is {value}; give (least, most), both positive")
        if self.bad_clocks + self.detours > 1:
            raise ModelError(
                f"bad_clocks {self.bad_clocks} and detours {self.detours} exclude each other and "
                "add up to more than 1"
            )


def disturbed(arrivals: Tensor, nuisances: TimingNuisances, generator: torch.Generator) -> Tensor:
    """Times of arrival with nuisances, `(batch, receivers, 5)`.

    Args:
        arrivals: As the arrival extractor returns them, on the CPU; not changed.
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
    # Less signal: a larger sigma, and the noise that it stands for.
    loss_db = between(nuisances.noise_db) * (uniform(batch, 1) < nuisances.noisy)
    factor = 10 ** (loss_db / 20)
    changed[..., ARRIVAL] += changed[..., SIGMA] * (factor.square() - 1).sqrt() * normal()
    changed[..., SIGMA] *= factor
    changed[..., SNR] -= loss_db
    # Either all clocks are off, or some receivers hear a detour.
    what = uniform(batch, 1)
    clock_us = between(nuisances.clock_error_us) * (what < nuisances.bad_clocks)
    detouring = (what >= nuisances.bad_clocks) & (what < nuisances.bad_clocks + nuisances.detours)
    blocked = uniform(batch, n_receivers) < between(nuisances.blocked) * detouring
    length = -torch.log(uniform(batch, n_receivers).clamp_min(1e-7))
    changed[..., ARRIVAL] += clock_us * normal()
    changed[..., ARRIVAL] += between(nuisances.detour_us) * length * blocked
    # A larger misfit, and errors beyond sigma by the share of it that is not noise.
    misfit_db = between(nuisances.misfit_db) * (uniform(batch, 1) < nuisances.misread)
    misfit_db = misfit_db * uniform(batch, n_receivers)
    coherent = uniform(batch, 1)
    changed[..., SIGMA] *= 10 ** (misfit_db / 20)
    error = changed[..., SIGMA] * (10 ** (misfit_db * coherent / 20)).clamp_min(1.0)
    changed[..., ARRIVAL] += error * normal() * (misfit_db > 0)
    changed[..., MISFIT] += misfit_db
    # Rows of one to three lost receivers are zero, as if the receivers had never been there.
    loses, n_lost = uniform(batch, 2).T.unsqueeze(2)
    rank = uniform(batch, n_receivers).argsort(dim=1).argsort(dim=1)
    kept = ~((rank < 1 + (3 * n_lost).floor()) & (loses < nuisances.lost))
    still_heard: Tensor = changed[..., HEARD] * kept
    return changed * still_heard.unsqueeze(-1)
