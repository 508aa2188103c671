"""What the timing network learns from: the likelihood of its explanations, and honest ellipses.

Sources: R. Koenker and G. Bassett, "Regression quantiles", Econometrica 46 (1978), for the loss
whose minimum is a quantile; D. A. Nix and A. S. Weigend, IEEE ICNN 1994, for the Gaussian's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation

if TYPE_CHECKING:
    from heimdall_models.timing_net import Explained, TimingEstimate, TimingNet

__all__ = ["timing_loss"]

LEVELS = (0.68, 0.95)
"""Whose ellipses should hold just that share of the truths."""
FAR = 50.0
"""Squares beyond it grow like their logarithm: one outlier must not outweigh a batch."""
GAUSSIAN_WEIGHT = 0.1
COVERAGE_WEIGHT = 6.0


def timing_loss(network: TimingNet, explained: Explained, target: Tensor) -> Tensor:
    """The loss of a batch, a scalar in nats.

    The explanations learn from the likelihood of the whole mixture; the ellipse learns to be
    as large as its levels say, without moving the explanations.

    Args:
        network: Whose estimates.
        explained: What `network.explain` returned.
        target: Where the transmitters are, `(batch, 2)` plane units.
    """
    estimate = network.estimate(explained.detached())
    square, log_area = _square_and_area(estimate, target)
    gaussian = (log_area + _softened(square) / 2).mean()
    return mixture_nll(explained, target) + GAUSSIAN_WEIGHT * gaussian + _coverage_loss(square)


def mixture_nll(explained: Explained, target: Tensor) -> Tensor:
    """Mean negative log-likelihood of the target under all explanations, weighted."""
    solution = explained.solution
    sigma, correlation = sigma_and_correlation(solution.covariance)
    error = target.unsqueeze(1) - solution.position
    square = _softened(mahalanobis_squared(error, sigma, correlation))
    log_density = solution.log_determinant / 2 - square / 2
    return -(explained.logits.log_softmax(dim=1) + log_density).logsumexp(dim=1).mean()


def _square_and_area(estimate: TimingEstimate, target: Tensor) -> tuple[Tensor, Tensor]:
    sigma, correlation = sigma_and_correlation(estimate.covariance)
    square = mahalanobis_squared(target - estimate.position, sigma, correlation)
    log_area = sigma.log().sum(dim=1) + torch.log1p(-correlation.square()) / 2
    return square, log_area


def _coverage_loss(square: Tensor) -> Tensor:
    """Least where what the ellipses of all levels hold too much or too little adds up to nothing.

    The quantile loss in log scale, all levels alike: where errors have heavier tails than a
    Gaussian, the inner ellipse holds as much too much as the outer one too little.
    """
    levels = torch.tensor(LEVELS, device=square.device)
    edge = -2 * torch.log1p(-levels)
    outside = square.clamp_min(1e-6).log().unsqueeze(1) - edge.log()
    loss = torch.where(outside > 0, levels * outside, (levels - 1) * outside)
    return COVERAGE_WEIGHT * loss.mean()


def _softened(square: Tensor) -> Tensor:
    return torch.where(square > FAR, FAR * (1 + torch.log(square.clamp_min(FAR) / FAR)), square)
