"""Metrics of positions with their posteriors: error, coverage, calibration, likelihood.

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
- energy score: E|X - truth| - E|X - X'| / 2 of independent X and X' from the posterior, a proper
  score in metres; T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
  estimation", JASA 102 (2007), eq. 22. In the plane it is pi / 2 times the mean over directions
  of the score of the projections, which for a mixture of Gaussians has a closed form: E. P. Grimit,
  T. Gneiting, V. J. Berrocal and N. A. Johnson, Q. J. R. Meteorol. Soc. 132 (2006), eq. 5.
- highest-density region: the smallest region with its probability; R. J. Hyndman, "Computing and
  graphing highest density regions", The American Statistician 50 (1996). For one Gaussian it is
  the ellipse.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pyproj import Geod
from scipy.special import erf, logsumexp

from heimdall_models.calibration import LEVELS, ellipse_factor, shares
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

SATURATED = 0.01
"""Distance from a bound, as a share of it, within which a sigma counts as being at the bound."""
WGS84 = Geod(ellps="WGS84")
NOMINAL_LEVELS = np.arange(1, 20) / 20
_N_DIRECTIONS = 48
"""Directions of the energy score; half a per cent of it for an ellipse of 1 : 20."""
_N_POINTS = 512
"""Points of equal probability of each Gaussian."""
_SESSIONS_AT_ONCE = 64


class Posteriors(NamedTuple):
    """Mixtures of K Gaussians, one a session, as model files return them."""

    weights: NDArray[np.float64]
    """`(n, K)`; each session's are scaled to add up to 1."""
    means_deg: NDArray[np.float64]
    """`(n, K, 2)`, latitude and longitude, WGS84."""
    covariances_m2: NDArray[np.float64]
    """`(n, K, 3)`: east-east, north-north, east-north."""


class PosteriorScores(NamedTuple):
    """Scores of posteriors, `(n,)` each."""

    nll: NDArray[np.float64]
    """Negative log-density of the truth in nats, positions in km."""
    energy_m: NDArray[np.float64]
    """Energy score, metres."""
    smallest_region: NDArray[np.float64]
    """Probability of the smallest highest-density region that holds the truth; uniform if the
    posteriors are calibrated."""


def localization_metrics(
    position_deg: ArrayLike,
    sigma_m: ArrayLike,
    truth_deg: ArrayLike,
    correlation: ArrayLike = 0.0,
    posteriors: Posteriors | None = None,
) -> dict[str, float]:
    """Metrics of positions with their ellipses, and of posteriors of any shape.

    Args:
        position_deg: Estimates `(n, 2)`, or one `(2,)` for all: latitude, longitude, WGS84.
        sigma_m: Standard deviations `(n, 2)` or `(2,)`: east, north, metres.
        truth_deg: Where the transmitters are, `(n, 2)`.
        correlation: Of the errors east and north, `(n,)` or one for all.
        posteriors: Mixtures that the ellipses summarise; None where the ellipses are all there is.

    Returns:
        `error_m_median`, `error_m_mean`, `error_m_rmse`, `error_m_p68`, `error_m_p95` in metres;
        `accuracy_30m`, the share of errors of at most 30 m; `coverage_68`, `coverage_95`, the
        shares of truths inside the ellipses; `ece`, the ellipses' calibration error; `nll`, the
        mean negative log-density of the truth in nats, positions in km, both axes together. Of the
        posteriors, which without `posteriors` are the ellipses' Gaussians: `nll_mixture`;
        `energy_score` in metres; `coverage_hdr_68`, `coverage_hdr_95`, the shares of truths inside
        the highest-density regions.

    Raises:
        ModelError: If there is no position, one is not on Earth, a sigma is not positive, a
            correlation is not between -1 and 1, or a posterior is none.
    """
    position, truth = _positions(position_deg, truth_deg)
    sigma = _broadcast("sigmas", sigma_m, truth.shape)
    wrong = ~(np.isfinite(sigma) & (sigma > 0)).all(axis=1)
    _refuse("sigmas", sigma, wrong, "not finite and positive metres")
    tilt = _broadcast("correlations", correlation, truth.shape[:1])
    _refuse("correlations", tilt, ~(np.abs(tilt) < 1), "not between -1 and 1")
    offset_m = offset_east_north_m(position, truth)
    error = np.hypot(offset_m[:, 0], offset_m[:, 1])
    squared = mahalanobis_squared(offset_m, sigma, tilt)
    log_area = np.log(sigma / 1000).sum(axis=1) + np.log1p(-np.square(tilt)) / 2
    nll = squared / 2 + log_area + math.log(2 * math.pi)
    coverage_68, coverage_95 = map(float, shares(squared))
    covered = shares(squared, NOMINAL_LEVELS)
    scores = posterior_scores(posteriors or of_ellipses(position, sigma, tilt), truth)
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
        "nll_mixture": float(scores.nll.mean()),
        "energy_score": float(scores.energy_m.mean()),
        "coverage_hdr_68": float((scores.smallest_region <= 0.68).mean()),
        "coverage_hdr_95": float((scores.smallest_region <= 0.95).mean()),
    }


def mahalanobis_squared(
    offset_m: NDArray[np.float64], sigma_m: NDArray[np.float64], tilt: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared Mahalanobis distances, `(n,)`, of errors east and north `(n, 2)`.

    From sigmas `(n, 2)` in the same unit, and correlations `(n,)`.
    """
    east, north = (offset_m / sigma_m).T
    return np.asarray(np.square(east) + np.square(north - tilt * east) / (1 - np.square(tilt)))


def of_ellipses(
    position_deg: NDArray[np.float64], sigma_m: NDArray[np.float64], tilt: NDArray[np.float64]
) -> Posteriors:
    """The Gaussians of ellipses: positions and sigmas `(n, 2)`, correlations `(n,)`."""
    covariance = np.stack([*np.square(sigma_m).T, tilt * sigma_m.prod(axis=1)], axis=-1)
    return Posteriors(np.ones((len(tilt), 1)), position_deg[:, None], covariance[:, None])


def served_metrics(outputs: Sequence[NDArray[Any]], truth_deg: ArrayLike) -> dict[str, float]:
    """`localization_metrics` of the outputs of a network to export, in their order."""
    position_deg, sigma_m, tilt, posteriors = _answers(outputs)
    return localization_metrics(position_deg, sigma_m, truth_deg, tilt, posteriors)


def _answers(
    outputs: Sequence[NDArray[Any]],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Posteriors | None]:
    """Positions, sigmas, correlations and mixtures, if any, of a network's outputs."""
    position_deg, sigma_m, *rest = outputs
    tilt = rest[0] if rest and rest[0].ndim == 1 else np.zeros(len(position_deg))
    posteriors = Posteriors(*rest[-3:]) if rest and rest[-1].ndim == 3 else None
    return position_deg, sigma_m, tilt, posteriors


def sigma_factor(outputs: Sequence[NDArray[Any]], truth_deg: NDArray[np.float64]) -> float:
    """Factor on sigmas with which a network's ellipses suit these truths `(n, 2)` best.

    See `calibration.ellipse_factor`.
    """
    position_deg, sigma_m, tilt, _ = _answers(outputs)
    squared = mahalanobis_squared(offset_east_north_m(position_deg, truth_deg), sigma_m, tilt)
    return math.sqrt(ellipse_factor(squared))


def region_shares(
    outputs: Sequence[NDArray[Any]], truth_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shares of truths `(n, 2)` in a network's highest-density regions of `LEVELS`, `(2,)`."""
    position_deg, sigma_m, tilt, posteriors = _answers(outputs)
    ellipses = of_ellipses(position_deg, sigma_m, tilt)
    region = posterior_scores(posteriors or ellipses, truth_deg).smallest_region
    return np.array([(region <= level).mean() for level in LEVELS])


def posterior_scores(posteriors: Posteriors, truth_deg: ArrayLike) -> PosteriorScores:
    """Scores of each session's posterior at its truth, `(n, 2)` in degrees.

    Raises:
        ModelError: If shapes differ, a place is not on Earth, a weight is negative or not finite,
            all weights of a session are zero, or a covariance is not positive definite.
    """
    truth = np.asarray(truth_deg, dtype=np.float64)
    weights = np.asarray(posteriors.weights, dtype=np.float64)
    if weights.ndim != 2 or len(weights) != len(truth):
        raise ModelError(f"weights {weights.shape} do not match {len(truth)} truths")
    means = _broadcast("means", posteriors.means_deg, (*weights.shape, 2))
    covariances = _broadcast("covariances", posteriors.covariances_m2, (*weights.shape, 3))
    ee, nn, en = np.moveaxis(covariances, -1, 0)
    with np.errstate(invalid="ignore"):
        sound = (ee > 0) & (nn > 0) & (ee * nn > en**2) & np.isfinite(covariances).all(axis=-1)
    _refuse("posteriors", covariances, ~sound.all(axis=1), "no positive definite covariances")
    total = weights.sum(axis=1)
    wrong = (weights < 0).any(axis=1) | ~(np.isfinite(total) & (total > 0))
    _refuse("weights", weights, wrong, "not positive numbers")
    # The truth is the origin of one plane for all components of a session.
    places, truths = _positions(means.reshape(-1, 2), np.repeat(truth, weights.shape[1], axis=0))
    from_truth_m = -offset_east_north_m(places, truths).reshape(means.shape)
    shares_of = weights / total[:, None]
    parts = [slice(at, at + _SESSIONS_AT_ONCE) for at in range(0, len(truth), _SESSIONS_AT_ONCE)]
    each = [_scores(shares_of[at], from_truth_m[at], covariances[at]) for at in parts]
    return PosteriorScores(*map(np.concatenate, zip(*each, strict=True)))


def _scores(
    weights: NDArray[np.float64], means_m: NDArray[np.float64], covariances: NDArray[np.float64]
) -> PosteriorScores:
    """Scores for truths at the origin; shapes as in `Posteriors`, means in metres."""
    ee, nn, en = np.moveaxis(covariances, -1, 0)
    # Cholesky factors [[first, 0], [second, third]].
    first = np.sqrt(ee)
    second, third = en / first, np.sqrt(nn - en**2 / ee)
    with np.errstate(divide="ignore"):
        logs = np.log(weights) - np.log(2 * math.pi * first * third)

    def log_density(places_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """`(n, points)` in nats per square metre, at `(n, points, 2)`."""
        east, north = np.moveaxis(places_m[:, :, None] - means_m[:, None], -1, 0)
        along = east / first[:, None]
        across = (north - second[:, None] * along) / third[:, None]
        found = logsumexp(logs[:, None] - (along**2 + across**2) / 2, axis=-1)
        return np.asarray(found, dtype=np.float64)

    at_truth = log_density(np.zeros((len(weights), 1, 2)))[:, 0]
    # Each point is a golden angle from the last, and all are at different distances.
    number = np.arange(_N_POINTS)
    radius = np.sqrt(-2 * np.log1p(-(number + 0.5) / _N_POINTS))
    turn = math.pi * (3 - math.sqrt(5)) * number
    along, across = radius * np.cos(turn), radius * np.sin(turn)
    east = means_m[..., :1] + first[..., None] * along
    north = means_m[..., 1:] + second[..., None] * along + third[..., None] * across
    points = np.stack([east, north], axis=-1)
    density = log_density(points.reshape(len(weights), -1, 2)).reshape(east.shape)
    inside = (density > at_truth[:, None, None]).mean(axis=-1)
    region = (weights * inside).sum(axis=1)
    return PosteriorScores(
        -at_truth - 2 * math.log(1000), _energy_m(weights, means_m, covariances), region
    )


def _energy_m(
    weights: NDArray[np.float64], means_m: NDArray[np.float64], covariances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Energy score for truths at the origin, `(n,)`; arguments as `_scores`."""
    angle = np.arange(_N_DIRECTIONS) * (math.pi / _N_DIRECTIONS)
    cos, sin = np.cos(angle), np.sin(angle)
    mean = means_m @ np.stack([cos, sin])
    variance = covariances @ np.stack([cos**2, sin**2, 2 * cos * sin])
    to_truth = (weights[..., None] * _mean_distance(mean, variance)).sum(axis=1)
    apart = _mean_distance(
        mean[:, :, None] - mean[:, None], variance[:, :, None] + variance[:, None]
    )
    pairs = weights[:, :, None] * weights[:, None]
    spread = (pairs[..., None] * apart).sum(axis=(1, 2))
    return np.asarray(math.pi / 2 * (to_truth - spread / 2).mean(axis=-1))


def _mean_distance(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of |x| for a Gaussian x."""
    sigma = np.sqrt(variance)
    ratio = mean / sigma
    near = math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
    return np.asarray(sigma * (near + ratio * erf(ratio / math.sqrt(2))))


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
