"""Calibration: comparison of an ellipse's claimed probability with the share of truths inside.

If a network's sigmas are right, the squared error in sigmas, summed over east and north, follows a
chi-squared law with two degrees of freedom. So the ellipse of probability p is where that sum is at
most `-2 ln(1 - p)`, and the one-sigma ellipse (sum at most 1) holds 39 % of the truths, not 68 %.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models.metrics import SATURATED, mahalanobis_squared, offset_east_north_m

from heimdall_evaluation.intervals import Interval, share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_evaluation.results import BaselineResult, Evaluation

LEVELS = (0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.68, 0.80, 0.90, 0.95)
"""Claimed probabilities on the calibration figure."""
ONE_SIGMA_SHARE = 1 - math.exp(-1 / 2)
"""Probability of the one-sigma ellipse in two dimensions."""


def radius_sigmas(probability: float) -> float:
    """Half axis, in sigmas, of the ellipse of a probability."""
    return math.sqrt(-2 * math.log1p(-probability))


def squared_sigmas(evaluation: Evaluation) -> NDArray[np.float64]:
    """(n,): squared distance of truth from estimate in sigmas, as in the logged metrics."""
    offset_m = offset_east_north_m(evaluation.position_deg, evaluation.truth_deg)
    return mahalanobis_squared(offset_m, evaluation.sigma_m, evaluation.tilt)


def inside(evaluation: Evaluation, claimed: float) -> NDArray[np.bool_]:
    """(n,): true for truths inside the ellipse of a claimed probability."""
    return squared_sigmas(evaluation) <= radius_sigmas(claimed) ** 2


def coverage(evaluation: Evaluation, claimed: float) -> Interval:
    """Share of truths inside the ellipses of a claimed probability; n must be at least 1."""
    return share(inside(evaluation, claimed), evaluation.source_names)


def shares_inside(
    baseline: BaselineResult, truth_deg: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Shares of truths in a baseline's 68 and 95 % ellipses, of the sessions that it answers.

    None if it has no positions, no sigmas or no answers.
    """
    if baseline.position_deg is None or baseline.sigma_m is None:
        return None
    answered = np.isfinite(baseline.error_m) & np.isfinite(baseline.sigma_m).all(axis=1)
    if not answered.any():
        return None
    offset_m = offset_east_north_m(baseline.position_deg[answered], truth_deg[answered])
    squares = mahalanobis_squared(offset_m, baseline.sigma_m[answered], baseline.tilt[answered])
    low, high = (float((squares <= radius_sigmas(level) ** 2).mean()) for level in (0.68, 0.95))
    return low, high


def levels_of_truths(evaluation: Evaluation) -> NDArray[np.float64]:
    """(n,): probability, 0 to 1, of the ellipse on whose border each truth lies.

    The probability integral transform of the squared distance in sigmas: uniform if the sigmas are
    right (A. P. Dawid, JRSS A 147 (1984)).
    """
    return np.asarray(-np.expm1(-squared_sigmas(evaluation) / 2), dtype=np.float64)


def at_bounds(sigma_m: NDArray[np.float64], bounds_m: tuple[float, float]) -> tuple[int, int]:
    """Numbers of sessions with a sigma (n, 2) within 1 % of the least and of the largest bound.

    The bounds are of levels. Sigmas beyond do not count: times of arrival and an ensemble's
    disagreement have other bounds.
    """
    least, largest = (
        int((np.abs(sigma_m / bound - 1) <= SATURATED).any(axis=1).sum()) for bound in bounds_m
    )
    return least, largest


def predicted_error_m(sigma_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): root mean square error that sigmas (n, 2) promise."""
    return np.asarray(np.hypot(sigma_m[:, 0], sigma_m[:, 1]), dtype=np.float64)
