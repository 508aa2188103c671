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
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LEAST_SESSIONS", "require_enough", "temperature"]

LEVELS = (0.68, 0.95)
LEAST_SESSIONS = 30
"""Of fewer, a share of 68 % is known to 9 points at best."""
_CANDIDATES = np.exp(np.linspace(-2, 2, 801))


def temperature(mahalanobis_squared: ArrayLike, leverage: ArrayLike = 1.0) -> float:
    """The factor on all covariances with which both ellipses hold their shares most nearly.

    Args:
        mahalanobis_squared: Of the truths of validation sessions, `(n,)`.
        leverage: To what power the factor is taken on each session's covariance, `(n,)` or one
            for all; from 0 to 1.

    Returns:
        The factor, from e^-2 to e^2; of several equally good ones the geometric middle, but the
        largest where even that holds too few of the truths.

    Raises:
        ModelError: If there are fewer than 30 sessions or a distance is not finite.
    """
    squares = np.asarray(mahalanobis_squared, dtype=np.float64).ravel()
    require_enough(squares)
    power = np.broadcast_to(np.asarray(leverage, dtype=np.float64), squares.shape)
    scaled = squares / _CANDIDATES[:, None] ** power
    shares = np.stack([(scaled <= -2 * np.log1p(-level)).mean(axis=1) for level in LEVELS], axis=1)
    missed = np.abs(shares - LEVELS).sum(axis=1)
    best = _CANDIDATES[missed <= missed.min() + 1e-9]
    # Truths that no factor reaches make all of them equally bad, and the middle says: no change.
    if best[-1] == _CANDIDATES[-1] and (shares[-1] < LEVELS).all():
        return float(best[-1])
    return float(np.exp(np.log(best).mean()))


def require_enough(mahalanobis_squared: NDArray[np.float64]) -> None:
    """Refuse to calibrate on these.

    Raises:
        ModelError: If there are fewer than 30 sessions or a distance is not finite.
    """
    squares = mahalanobis_squared
    if squares.size < LEAST_SESSIONS or not np.isfinite(squares).all():
        raise ModelError(
            f"{squares.size} sessions to calibrate on, all distances finite: "
            f"{bool(np.isfinite(squares).all())}; give at least {LEAST_SESSIONS}, all finite"
        )
