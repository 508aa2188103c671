"""Ellipses made honest on sessions that training has not seen, nor the test will.

Sources: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
networks", ICML 2017, for one temperature fitted on a validation set; D. Levi, L. Gispan,
N. Giladi and E. Fetaya, "Evaluating and calibrating uncertainty prediction in regression
tasks", Sensors 22 (2022), for the same of standard deviations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["LEAST_SESSIONS", "temperature"]

LEVELS = (0.68, 0.95)
LEAST_SESSIONS = 30
"""Of fewer, a share of 68 % is known to 9 points at best."""
_CANDIDATES = np.exp(np.linspace(-2, 2, 801))


def temperature(mahalanobis_squared: ArrayLike) -> float:
    """The factor on all covariances with which both ellipses hold their shares most nearly.

    Args:
        mahalanobis_squared: Of the truths of validation sessions, `(n,)`.

    Returns:
        The factor; of several equally good ones the geometric middle.

    Raises:
        ModelError: If there are fewer than 30 sessions or a distance is not finite.
    """
    squares = np.sort(np.asarray(mahalanobis_squared, dtype=np.float64).ravel())
    if squares.size < LEAST_SESSIONS or not np.isfinite(squares).all():
        raise ModelError(
            f"{squares.size} sessions to calibrate on, all distances finite: "
            f"{bool(np.isfinite(squares).all())}; give at least {LEAST_SESSIONS}, all finite"
        )
    missed = np.zeros(_CANDIDATES.size)
    for level in LEVELS:
        inside = np.searchsorted(squares, -2 * np.log1p(-level) * _CANDIDATES, side="right")
        missed += np.abs(inside / squares.size - level)
    best = _CANDIDATES[missed <= missed.min() + 1e-9]
    return float(np.exp(np.log(best).mean()))
