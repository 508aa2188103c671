"""Position from times of arrival with an unknown common zero: weighted least squares.

Each step solves the problem as if ranges were linear in the position: the method of Gauss and
Newton, its two-by-two algebra written out so that it runs in any graph. Eliminating the time of
emission leaves times and directions less their weighted means over receivers.

Sources: W. H. Foy, "Position-location solutions by Taylor-series estimation", IEEE Trans. AES
12 (1976); D. J. Torrieri, "Statistical theory of passive location systems", IEEE Trans. AES 20
(1984), for the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from heimdall_models.timing.receivers import ReceiverRanges

MOST_STEP = 0.25
"""Plane units; ranges are not linear beyond it."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A Gaussian of the position, by its precision; plane units."""

    mean: Tensor
    """`(..., 2)`."""
    precision: Tensor
    """East-east, east-north, north-north: `(..., 3)`."""

    def unsqueeze(self, dim: int) -> Gaussian:
        """The same with one more axis."""
        return Gaussian(self.mean.unsqueeze(dim), self.precision.unsqueeze(dim))

    def double(self) -> Gaussian:
        """In float64."""
        return Gaussian(self.mean.double(), self.precision.double())

    def distance(self, position: Tensor) -> Tensor:
        """Squared, in standard deviations: `(...)`."""
        east, north = (position - self.mean).unbind(dim=-1)
        ee, en, nn = self.precision.unbind(dim=-1)
        return ee * east.square() + 2 * en * east * north + nn * north.square()


class Solution(NamedTuple):
    """Solution of least squares, in plane units."""

    position: Tensor
    """`(..., 2)`."""
    covariance: Tensor
    """East-east, east-north, north-north: `(..., 3)`."""
    log_determinant: Tensor
    """Log-determinant of the information, `(...)`."""
    shift: Tensor
    """Length of the last step, `(...)`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Times of arrival that a position has to explain; plane units."""

    ranges: ReceiverRanges
    times: Tensor
    """From any zero, `(..., receivers)`."""
    weights: Tensor
    """Inverse variances, 0 where nothing was heard, `(..., receivers)`."""
    prior: Gaussian
    """Prior of the position; without it one receiver has no solution."""

    def step(self, position: Tensor) -> Solution:
        """One Gauss-Newton step from positions `(..., 2)`."""
        weights, prior = self.weights, self.prior
        distance, direction = self.ranges(position)
        late = centred(self.times - distance, weights)
        east, north = (centred(direction[..., axis], weights) for axis in (0, 1))
        away_east, away_north = (prior.mean - position).unbind(dim=-1)
        prior_ee, prior_en, prior_nn = prior.precision.unbind(dim=-1)
        # Two receivers make an ellipse so thin that float32 loses it in a difference of products.
        wide, e, n = weights.double(), east.double(), north.double()
        products = torch.stack([e * e, e * n, n * n], dim=-1)
        information = (wide.unsqueeze(-1) * products).sum(dim=-2) + prior.precision.double()
        ee, en, nn = information.unbind(dim=-1)
        # Rounding must not turn a stretched ellipse into a hyperbola.
        determinant = torch.maximum(ee * nn - en.square(), 1e-6 * ee * nn)
        information, determinant = information.to(weights.dtype), determinant.to(weights.dtype)
        ee, en, nn = information.unbind(dim=-1)
        of_east = (weights * east * late).sum(dim=-1)
        of_east = of_east + prior_ee * away_east + prior_en * away_north
        of_north = (weights * north * late).sum(dim=-1)
        of_north = of_north + prior_en * away_east + prior_nn * away_north
        move = torch.stack([nn * of_east - en * of_north, ee * of_north - en * of_east], dim=-1)
        move = move / determinant.unsqueeze(-1)
        length = move.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).sqrt()
        return Solution(
            position=position + move * (MOST_STEP / length).clamp(max=1.0),
            covariance=torch.stack([nn, -en, ee], dim=-1) / determinant.unsqueeze(-1),
            log_determinant=determinant.log(),
            shift=length.squeeze(-1),
        )

    def solve(self, position: Tensor, n_steps: int) -> Solution:
        """So many steps from positions `(..., 2)`."""
        solution = self.step(position)
        for _ in range(n_steps - 1):
            solution = self.step(solution.position)
        return solution

    def solve_from_grid(self, grid: Tensor) -> Tensor:
        """Four steps from the best point of a grid `(points, 2)` for each of a batch."""
        times, weights = self.times.unsqueeze(1), self.weights.unsqueeze(1)
        cost = Problem(self.ranges, times, weights, self.prior).misfit(grid)
        cost = cost + self.prior.unsqueeze(1).distance(grid)
        return self.solve(grid[cost.argmin(dim=1)], 4).position

    def misfit(self, position: Tensor) -> Tensor:
        """Weighted sum of the squares that a position leaves unexplained, `(...)`."""
        late = centred(self.times - self.ranges(position)[0], self.weights)
        return (self.weights * late.square()).sum(dim=-1)


def centred(values: Tensor, weights: Tensor) -> Tensor:
    """Values less their weighted mean over the last axis, which removes the unknown zero."""
    total = weights.sum(dim=-1, keepdim=True)
    mean = (weights * values).sum(dim=-1, keepdim=True) / total.clamp_min(1e-12)
    return values - mean
