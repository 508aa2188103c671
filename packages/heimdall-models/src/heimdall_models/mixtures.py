"""Several Gaussian answers as one: the mixture's moments, and how much disagreement should count.

The mixture of equally likely Gaussians has as mean the mean of theirs, and as covariance the mean
of theirs with the covariance of their means. All of it is in the plane, about the members' centre,
so that ellipses of metres survive float32.

Members that are honest each make a mixture that is wider than it need be where they disagree, and
members that are too sure together may be too sure there still. So how much their disagreement
counts is fitted on validation sessions; where they agree, nothing can change.

Sources: B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive
uncertainty estimation using deep ensembles", NIPS 2017, section 2.4, for the moments; R. Rahaman
and A. H. Thiery, "Uncertainty quantification and deep ensembles", NeurIPS 2021, for calibrating
after merging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from heimdall_models.calibration import LEAST_SESSIONS, LEVELS
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Moments", "moments", "weight_of_disagreement"]

_CANDIDATES = np.exp(np.linspace(-2, 2, 81))


class Moments(NamedTuple):
    """Of the answers of several members."""

    position: Tensor
    """The mean of theirs, `(..., 2)`."""
    covariance: Tensor
    """The mean of theirs, `(..., 3)` as `ellipses` keeps them."""
    disagreement: Tensor
    """The covariance of their positions, `(..., 3)`."""

    def merged(self, weight: Tensor | float = 1.0) -> Tensor:
        """The covariance of their mixture, `(..., 3)`, in which disagreement has a weight."""
        return self.covariance + weight * self.disagreement


def moments(positions: Tensor, covariances: Tensor) -> Moments:
    """Of equally likely Gaussians.

    Args:
        positions: `(members, ..., 2)`.
        covariances: East-east, east-north, north-north: `(members, ..., 3)`.
    """
    centre = positions.mean(dim=0)
    # Of what is left about the centre: the squares of positions would swallow those of metres.
    east, north = (positions - centre).unbind(dim=-1)
    spread = torch.stack([east.square(), east * north, north.square()], dim=-1)
    return Moments(centre, covariances.mean(dim=0), spread.mean(dim=0))


def weight_of_disagreement(found: Moments, target: Tensor) -> float:
    """The weight of the disagreement with which both ellipses hold their shares most nearly.

    Args:
        found: Of validation sessions, `(n, ...)`.
        target: Their truths, `(n, 2)`.

    Returns:
        The weight, from e^-2 to e^2; of several equally good ones the geometric middle, which is
        1 where the members agree.

    Raises:
        ModelError: If there are fewer than 30 sessions or an answer is not finite.
    """
    finite = all(bool(part.isfinite().all()) for part in (*found, target))
    if len(target) < LEAST_SESSIONS or not finite:
        raise ModelError(
            f"{len(target)} sessions to weigh the members' disagreement on, all answers finite: "
            f"{finite}; give at least {LEAST_SESSIONS}, all finite"
        )
    missed = np.array([_missed(found, target, weight) for weight in _CANDIDATES])
    best = _CANDIDATES[missed <= missed.min() + 1e-9]
    return float(np.exp(np.log(best).mean()))


def _missed(found: Moments, target: Tensor, weight: float) -> float:
    """By how much the shares inside the ellipses differ from what they should be."""
    ellipse = sigma_and_correlation(found.merged(weight))
    square = mahalanobis_squared(target - found.position, *ellipse).numpy()
    shares = [float((square <= -2 * np.log1p(-level)).mean()) for level in LEVELS]
    return sum(abs(share - level) for share, level in zip(shares, LEVELS, strict=True))
