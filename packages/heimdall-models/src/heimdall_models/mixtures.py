"""Mixtures of Gaussians in the plane: fitted to a posterior over cells, moved, and summarised.

The fit starts from peaks far from each other and takes a fixed number of steps of expectation and
maximisation. The expectation treats the cells of a block alike; the maximisation has each block's
exact moments, so that after each step the mixture has the mean and the covariance of the cells.
Both are matrix products, which run in any graph and for any batch.

Sources: A. P. Dempster, N. M. Laird and D. B. Rubin, "Maximum likelihood from incomplete data via
the EM algorithm", J. Royal Statistical Society B 39 (1977); T. F. Gonzalez, "Clustering to minimize
the maximum intercluster distance", Theoretical Computer Science 38 (1985), for the start, here
weighted by probability.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from heimdall_models.ellipses import outer

N_STEPS = 10
"""Steps of expectation and maximisation."""
BLOCK = 4
"""Cells along a side of a block: 16 times faster than single cells, and as near the posterior."""
LEAST_WEIGHT = 1e-4
"""A component never dies, so that its covariance stays defined."""


class Mixture(NamedTuple):
    """Gaussians with weights that add up to one; plane units."""

    weights: Tensor
    """`(batch, components)`."""
    means: Tensor
    """`(batch, components, 2)`."""
    covariances: Tensor
    """`(batch, components, 3)`, as `ellipses` keeps them."""

    def moved(self, centre: Tensor, position: Tensor, factor: Tensor) -> Mixture:
        """The same stretched about `centre` by `factor`, with the centre put on `position`.

        All are `(batch, 2)`; the factors are of the axes east and north.
        """
        east, north = factor.unbind(dim=-1)
        stretch = torch.stack([east.square(), east * north, north.square()], dim=-1)
        means = position.unsqueeze(1) + (self.means - centre.unsqueeze(1)) * factor.unsqueeze(1)
        return Mixture(self.weights, means, self.covariances * stretch.unsqueeze(1))

    def covariance_about(self, position: Tensor) -> Tensor:
        """Mean square of the whole mixture about a position `(batch, 2)`: `(batch, 3)`."""
        each = self.covariances + outer(self.means - position.unsqueeze(1))
        return (self.weights.unsqueeze(-1) * each).sum(dim=1)

    def mean(self) -> Tensor:
        """Mean of the whole mixture, `(batch, 2)`."""
        return (self.weights.unsqueeze(-1) * self.means).sum(dim=1)

    def log_density(self, position: Tensor) -> Tensor:
        """Log-density at positions `(batch, 2)`, nats per square plane unit: `(batch,)`."""
        ee, en, nn = self.covariances.unbind(dim=-1)
        determinant = ee * nn - en.square()
        east, north = (position.unsqueeze(1) - self.means).unbind(dim=-1)
        square = nn * east.square() - 2 * en * east * north + ee * north.square()
        logs = self.weights.log() - (determinant.log() + square / determinant) / 2
        return logs.logsumexp(dim=1) - math.log(2 * math.pi)


def fitted(
    probability: Tensor,
    places: Tensor,
    within: Tensor,
    counts: tuple[int, int],
    n_components: int,
) -> Mixture:
    """The mixture that is nearest to a posterior over cells, to a local optimum.

    Args:
        probability: Of each cell, `(batch, cells)`; adds up to one.
        places: The cells' middles, `(cells, 2)`, plane units.
        within: Variances east and north of places in a cell about its middle, `(2,)`.
        counts: Cells east and north, multiples of `BLOCK`; north varies fastest.
        n_components: Number of Gaussians.
    """
    # In deviations of the cells, in which float32 keeps the digits of squares in any region.
    middle = places.mean(dim=0)
    unit = places.std(dim=0, correction=0).clamp_min(1e-6)
    at = (places - middle) / unit
    cells = _in_blocks(_monomials(at).T, counts)
    sums = (_in_blocks(probability, counts) @ cells.transpose(1, 2)).transpose(0, 1)
    blocks = cells.mean(dim=2)[:, 1:3]
    monomials = _monomials(blocks).T
    scale = torch.stack([unit[0].square(), unit[0] * unit[1], unit[1].square()])
    own = torch.stack([within[0], torch.zeros_like(within[0]), within[1]]) / scale
    whole = sums.sum(dim=1)
    spread = _positive(whole[:, 3:] - outer(whole[:, 1:3])) / n_components + own
    means = _far_peaks(sums[..., 0], blocks, n_components)
    covariances = spread.unsqueeze(1).expand(-1, n_components, -1)
    weights = torch.full_like(means[..., 0], 1 / n_components)
    for _ in range(N_STEPS):
        ee, en, nn = covariances.unbind(dim=-1)
        determinant = ee * nn - en.square()
        # The logarithm of each density as a polynomial: its precision, and that times the mean.
        p_ee, p_en, p_nn = nn / determinant, -en / determinant, ee / determinant
        east, north = means.unbind(dim=-1)
        to_east, to_north = p_ee * east + p_en * north, p_en * east + p_nn * north
        level = weights.log() - (determinant.log() + to_east * east + to_north * north) / 2
        terms = [level, to_east, to_north, -p_ee / 2, -p_en, -p_nn / 2]
        belongs = (torch.stack(terms, dim=-1) @ monomials).softmax(dim=1)
        total = belongs @ sums
        share = total[..., :1]
        each = total / share.clamp_min(1e-12)
        means = each[..., 1:3]
        covariances = _positive(each[..., 3:] - outer(means)) + own
        # A component never dies, so that its density stays defined.
        weights = share.squeeze(-1).clamp_min(LEAST_WEIGHT)
        weights = weights / weights.sum(dim=1, keepdim=True)
    return Mixture(weights, means * unit + middle, covariances * scale)


def _monomials(at: Tensor) -> Tensor:
    """1, east, north, and the products of both, `(..., 6)`, of places `(..., 2)`."""
    return torch.cat([torch.ones_like(at[..., :1]), at, outer(at)], dim=-1)


def _in_blocks(cells: Tensor, counts: tuple[int, int]) -> Tensor:
    """Values of cells `(n, cells)` by block: `(blocks, n, cells of a block)`."""
    rows, columns = (count // BLOCK for count in counts)
    apart = cells.reshape(-1, rows, BLOCK, columns, BLOCK)
    return apart.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1, BLOCK**2)


def _positive(covariance: Tensor) -> Tensor:
    """The covariances `(..., 3)`, without what rounding makes negative."""
    ee, nn = covariance[..., 0].clamp_min(0.0), covariance[..., 2].clamp_min(0.0)
    most = (ee * nn).sqrt()
    en = torch.maximum(torch.minimum(covariance[..., 1], most), -most)
    return torch.stack([ee, en, nn], dim=-1)


def _far_peaks(probability: Tensor, places: Tensor, n_peaks: int) -> Tensor:
    """The likeliest place, then each time that of most probability times squared distance.

    `(batch, n_peaks, 2)`, from places `(places, 2)` of probabilities `(batch, places)`; distances
    are to the nearest peak so far.
    """
    # Of equal places the first, whatever a runtime's rounding.
    lean = torch.linspace(1.0, 0.999, len(places), device=places.device)
    worth = probability * lean
    peaks = [places[worth.argmax(dim=1)]]
    far = worth.new_full((1, 1), math.inf)
    for _ in range(1, n_peaks):
        east, north = (places - peaks[-1].unsqueeze(1)).unbind(dim=-1)
        far = torch.minimum(far, east.square() + north.square())
        peaks.append(places[(worth * far).argmax(dim=1)])
    return torch.stack(peaks, dim=1)
