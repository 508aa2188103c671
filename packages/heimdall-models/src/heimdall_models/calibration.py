"""Calibration: the factor with which ellipses hold their shares of the truths most nearly.

Fitted on sessions that are in neither training nor test.

Sources: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
networks", ICML 2017, for one temperature fitted on a validation set; D. Levi, L. Gispan,
N. Giladi and E. Fetaya, "Evaluating and calibrating uncertainty prediction in regression
tasks", Sensors 22 (2022), for the same of standard deviations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

LEVELS = (0.68, 0.95)
LEAST_SESSIONS = 30
"""With fewer, a share of 68 % is known to 9 points at best."""
PRIOR_SESSIONS = 30
"""Sessions that count as much as the prior of an ellipse's factor, which is 1."""


def shares(
    mahalanobis_squared: NDArray[np.floating], levels: Iterable[float] = LEVELS
) -> NDArray[np.float64]:
    """Shares of truths `(..., n)` inside the ellipses of these levels, `(..., levels)`."""
    inside = [(mahalanobis_squared <= -2 * math.log1p(-level)).mean(axis=-1) for level in levels]
    return np.stack(inside, axis=-1)


def best_factors(factors: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factors `(k,)` whose `shares`, `(k, 2)`, are nearest to the levels."""
    missed = np.abs(found - LEVELS).sum(axis=1)
    return np.asarray(factors[missed <= missed.min() + 1e-9])


def ellipse_factor(squared_sigmas: NDArray[np.floating]) -> float:
    """Factor on covariances with which ellipses hold their shares most nearly, from e^-2 to e^2.

    From squared distances in sigmas `(n,)`, in two dimensions; see `shrunk_factor`.
    """
    factors = np.exp(np.linspace(-2, 2, 161))
    return shrunk_factor(factors, shares(squared_sigmas / factors[:, None]), len(squared_sigmas))


def shrunk_factor(
    factors: NDArray[np.float64], found: NDArray[np.float64], n_sessions: int
) -> float:
    """The factor whose `shares`, `(factors, 2)`, are nearest to the levels.

    Of several equally good ones the geometric middle, raised to the power n / (n + 30): few
    sessions leave ellipses as they are.
    """
    best = best_factors(factors, found)
    return float(np.exp(np.log(best).mean() * n_sessions / (n_sessions + PRIOR_SESSIONS)))


def require_enough(values: NDArray[np.floating]) -> None:
    """Raise `ModelError` for fewer than 30 sessions `(n, ...)`, or a value that is not finite."""
    finite = bool(np.isfinite(values).all())
    if len(values) < LEAST_SESSIONS or not finite:
        raise ModelError(
            f"{len(values)} sessions to calibrate on, all values finite: {finite}; give at least "
            f"{LEAST_SESSIONS}, all finite"
        )
