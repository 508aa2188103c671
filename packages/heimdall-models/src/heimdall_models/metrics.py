"""Metrics of positions with their ellipses: error, coverage, calibration, likelihood.

In metres on WGS84, over whole sets of positions, never an average of averages over batches.

- error: length of the geodesic from the estimate to the truth (Karney's algorithm in PROJ:
  C. F. F. Karney, "Algorithms for geodesics", J. Geodesy 87 (2013)).
- Mahalanobis distance: the geodesic as a vector at the estimate (its length and azimuth), in
  standard deviations of the ellipse. For a two-dimensional Gaussian its square is chi-square with
  two degrees of freedom: the ellipse d^2 <= -2 ln(1 - p) holds a share p of the probability.
- calibration error: the mean over the levels p = 0.05, 0.10, ... 0.95 of the distance between p
  and the share of truths inside the p-ellipse; after V. Kuleshov, N. Fenner and S. Ermon,
  "Accurate uncertainties for deep learning using calibrated regression", ICML 2018, with
  ellipses for intervals.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from pyproj import Geod

from heimdall_models.calibration import shares
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SATURATED = 0.01
"""Distance from a bound, as a share of it, within which a sigma counts as being at the bound."""
WGS84 = Geod(ellps="WGS84")
NOMINAL_LEVELS = np.arange(1, 20) / 20


def localization_metrics(
    position_deg: ArrayLike,
    sigma_m: ArrayLike,
    truth_deg: ArrayLike,
    correlation: ArrayLike = 0.0,
) -> dict[str, float]:
    """Metrics of positions with their ellipses.

    Args:
        position_deg: Estimates `(n, 2)`, or one `(2,)` for all: latitude, longitude, WGS84.
        sigma_m: Standard deviations `(n, 2)` or `(2,)`: east, north, metres.
        truth_deg: Where the transmitters are, `(n, 2)`.
        correlation: Of the errors east and north, `(n,)` or one for all.

    Returns:
        `error_m_median`, `error_m_mean`, `error_m_rmse`, `error_m_p68`, `error_m_p95` in metres;
        `accuracy_30m`, the share of errors of at most 30 m; `coverage_68`, `coverage_95`, the
        shares of truths inside the ellipses; `ece`, the ellipses' calibration error; `nll`, the
        mean negative log-density of the truth in nats, positions in km, both axes together.

    Raises:
        ModelError: If there is no position, one is not on Earth, a sigma is not positive, or a
            correlation is not between -1 and 1.
    """
    position, truth = _positions(position_deg, truth_deg)
    sigma = _broadcast("sigmas", sigma_m, truth.shape)
    wrong = ~(np.isfinite(sigma) & (sigma > 0)).all(axis=1)
    _refuse("sigmas", sigma, wrong, "not finite and positive metres")
    tilt = _broadcast("correlations", correlation, truth.shape[:1])
    _refuse("correlations", tilt, ~(np.abs(tilt) < 1), "not between -1 and 1")
    offset_m = offset_east_north_m(position, truth)
    error = np.hypot(offset_m[:, 0], offset_m[:, 1])
    east, north = (offset_m / sigma).T
    upright = 1 - np.square(tilt)
    mahalanobis_squared = np.square(east) + np.square(north - tilt * east) / upright
    log_area = np.log(sigma / 1000).sum(axis=1) + np.log(upright) / 2
    nll = mahalanobis_squared / 2 + log_area + math.log(2 * math.pi)
    coverage_68, coverage_95 = map(float, shares(mahalanobis_squared))
    covered = shares(mahalanobis_squared, NOMINAL_LEVELS)
    return {
        "error_m_median": float(np.median(error)),
        "error_m_mean": float(error.mean()),
        "error_m_rmse": float(np.sqrt(np.square(error).mean())),
        "error_m_p68": float(np.percentile(error, 68)),
        "error_m_p95": float(np.percentile(error, 95)),
        "accuracy_30m": float((error <= 30.0).mean()),
        "coverage_68": coverage_68,
        "coverage_95": coverage_95,
        "ece": float(np.abs(covered - NOMINAL_LEVELS).mean()),
        "nll": float(nll.mean()),
    }


def sigma_saturation(sigma: ArrayLike, sigma_min: float, sigma_max: float) -> float:
    """Share of predictions `(n, 2)` with a sigma within 1 % of a bound, which limits it."""
    values = np.asarray(sigma, dtype=np.float64)
    near = (values <= sigma_min * (1 + SATURATED)) | (values >= sigma_max * (1 - SATURATED))
    return float(near.any(axis=1).mean())


def error_m(position_deg: ArrayLike, truth_deg: ArrayLike) -> NDArray[np.float64]:
    """Distances in metres on the WGS84 ellipsoid, `(n,)`, from `(n, 2)` degrees to `(n, 2)`."""
    offset_m = offset_east_north_m(*_positions(position_deg, truth_deg))
    return np.hypot(offset_m[:, 0], offset_m[:, 1])


def offset_east_north_m(
    position_deg: NDArray[np.float64], truth_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Geodesics from positions to truths as vectors at the positions: east, north, metres."""
    azimuth_deg, _, length_m = WGS84.inv(
        position_deg[:, 1], position_deg[:, 0], truth_deg[:, 1], truth_deg[:, 0]
    )
    azimuth, length = np.radians(azimuth_deg), np.asarray(length_m)
    return np.stack([length * np.sin(azimuth), length * np.cos(azimuth)], axis=1)


def _positions(
    position_deg: ArrayLike, truth_deg: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions and truths, both `(n, 2)` and on Earth."""
    truth = np.asarray(truth_deg, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != 2 or len(truth) == 0:
        raise ModelError(f"truths must be (n, 2), n at least 1; got {truth.shape}")
    position = _broadcast("positions", position_deg, truth.shape)
    for what, given in (("positions", position), ("truths", truth)):
        wrong = ~np.isfinite(given).all(axis=1) | (np.abs(given[:, 0]) > 90)
        _refuse(what, given, wrong, "not latitude and longitude in degrees")
    return position, truth


def _broadcast(what: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), shape)
    except ValueError as error:
        raise ModelError(
            f"{what} {np.shape(values)} do not match {shape[0]} truths; expected {shape}"
        ) from error


def _refuse(what: str, given: NDArray[np.float64], wrong: ArrayLike, complaint: str) -> None:
    if np.any(wrong):
        row = int(np.argmax(wrong))
        raise ModelError(
            f"{np.sum(wrong)} of {len(given)} {what} are {complaint}; the first, row {row}, is "
            f"{given[row].tolist()}"
        )
