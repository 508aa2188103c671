"""What the network of times says of a session, and how far that is from the usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TimingEstimate", "strangeness", "usual_of"]

FULLY = 0.25
"""Doubt beyond the usual with which a session is as strange as can be."""
QUANTILE = 0.95
"""Of validation sessions, within which things are usual."""


@dataclass(frozen=True, slots=True)
class TimingEstimate:
    """Positions and ellipses in plane units, and whether geometry explains the times."""

    position: Tensor
    """`(batch, 2)`."""
    covariance: Tensor
    """East-east, east-north, north-north: `(batch, 3)`."""
    unexplained: Tensor
    """Mean square of what no explanation removes, in expected deviations; about 1: `(batch,)`."""
    doubt: Tensor
    """How likely it is that something is wrong with clocks or paths, from 0 to 1: `(batch,)`."""
    n_heard: Tensor
    """Receivers that heard the transmission, `(batch,)`."""


def usual_of(found: TimingEstimate) -> Tensor:
    """The ends of the usual, `(3,)`: most doubt, largest log sigma, fewest receivers."""
    return torch.stack(
        [
            torch.quantile(found.doubt, QUANTILE),
            torch.quantile(_log_sigma(found), QUANTILE),
            torch.quantile(found.n_heard, 1 - QUANTILE),
        ]
    )


def strangeness(found: TimingEstimate, usual: Tensor) -> Tensor:
    """0 for sessions like those of `usual_of`, up to 1 for others, `(batch,)`.

    Others: with a quarter more doubt, an ellipse e times larger, or one receiver fewer.
    """
    doubt, log_sigma, n_heard = usual.unbind()
    ways = [
        (found.doubt - doubt) / FULLY,
        _log_sigma(found) - log_sigma,
        n_heard - found.n_heard,
    ]
    return torch.stack(ways).amax(dim=0).clamp(0.0, 1.0)


def _log_sigma(found: TimingEstimate) -> Tensor:
    """Of the root of the covariance's trace, `(batch,)`."""
    ee, _, nn = found.covariance.unbind(dim=-1)
    return (ee + nn).log() / 2
