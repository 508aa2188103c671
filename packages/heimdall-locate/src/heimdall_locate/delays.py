"""Statistics of receivers' delays: a robust hierarchical model, and what contradicts it.

An arrival is the session's time of emission, plus the travel time, plus the receiver's delay,
plus an error with the receiver's spread. Times of emission are unknown, so only differences of
delays are determined; the delays' prior keeps them around zero.

Errors and delays have Student's t distribution, so that an outlier moves little. The fit
maximises the posterior of the spreads by expectation and maximisation, with times of emission and
delays as what is not observed; over the scale of the delays it averages.

Sources: K. L. Lange, R. J. A. Little and J. M. G. Taylor, "Robust statistical modeling using the
t distribution", JASA 84 (1989), for weights and information; L. Kish, "Survey Sampling" (1965),
for what repeated sessions of one place are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from numpy.typing import NDArray

from heimdall_locate.propagation import paths_of, propagation_at, ranges_m
from heimdall_locate.sites import Site, moved_deg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Float64 = NDArray[np.float64]

DEGREES: Final = 4.0
"""Degrees of freedom of errors and of delays. One arrival in a hundred is then beyond 3.7 scales
on one side: echoes and wrong peaks, and receivers of a make of their own, occur about so often."""
TYPICAL_SPREAD_S: Final = 3e-6
"""Prior median of the spread of a network: GNSS-stamped KiwiSDRs are 2 to 6 us off on ground
waves, and multipath in towns is of the same order."""
SPREAD_FACTOR: Final = 10.0
"""It may be ten times larger or smaller (one standard deviation): aircraft receivers in line of
sight agree within 0.1 us, and sky waves differ by 30 us and more."""
DELAY_SCALES_S: Final = tuple(np.geomspace(1e-7, 1e-5, 7).tolist())
"""Scales of the delays of a network, equally likely: from 20 m of antenna cable, which take 0.1 us,
to the filters of different makes, which differ by ten microseconds. Larger ones are learned too,
but sessions that tell nothing must not leave a network with an uncertainty of more."""
RECEIVER_FACTOR: Final = 2.5
"""The spread of a receiver differs from that of its network by this factor (one standard
deviation): places are quiet or noisy, open or among houses."""
SAME_PLACE: Final = 0.5
"""Correlation of two sessions' errors if the transmitter is at one place: their paths are the
same. However many sessions there are of one place, they count as two."""
PLACE_DEG: Final = 0.01
"""Transmitters closer than this, a kilometre, are at one place."""
LEAST_PLACES: Final = 6
"""Places of transmitters that a check of a receiver's position takes. Delay, spread and two of
offset are unknown; two more are left to contradict them."""
MISPLACED_NATS: Final = 10.0
"""Gain of log-likelihood from which a position is not believed. By chance it is exceeded at one
correct receiver in 20,000."""
MISPLACED_SPREAD: Final = 0.5
"""The offset must also explain so much that no more than this share of the spread is left: a
slower ground wave over land on one side does not."""
HALF_WIDTH: Final = 1.14
"""Half-width of the middle 68 % of a t distribution with four degrees of freedom."""
_INFORMATION: Final = (DEGREES + 1) / (DEGREES + 3)
"""Information on the place of a t distribution, over that on a Gaussian's of the same scale."""
_CURVATURE: Final = 2 * DEGREES / (DEGREES + 3)
"""Information on the logarithm of a t distribution's scale."""
_ITERATIONS: Final = 200
_CONVERGED: Final = 1e-3
_STEP_S: Final = 3e-8
"""Offset that derivatives are taken with: 10 m."""


@dataclass(frozen=True, slots=True)
class Transmitter:
    """A known transmitter. An invalid figure raises a `LocateError`."""

    latitude_deg: float
    """Degrees north, WGS84."""
    longitude_deg: float
    """Degrees east, WGS84."""
    altitude_m: float = 0.0
    """Above the WGS84 ellipsoid."""
    frequency_hz: float | None = None
    """Line of sight is assumed if it is unknown."""

    def __post_init__(self) -> None:
        propagation_at(self.frequency_hz)
        Site("transmitter", self.latitude_deg, self.longitude_deg, self.altitude_m)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionFault:
    """A receiver is not where it is said to be: the offset that explains its residuals."""

    east_m: float
    """How far east of its stated position the receiver seems to be."""
    north_m: float
    """The same to the north."""
    sigma_m: float
    """Standard deviation of the offset, the larger of all directions."""
    spread_s: float
    """Spread that would be left at the place with this offset."""

    @property
    def distance_m(self) -> float:
        """Length of the offset."""
        return math.hypot(self.east_m, self.north_m)

    @property
    def bearing_deg(self) -> float:
        """Direction of the offset, clockwise from north."""
        return math.degrees(math.atan2(self.east_m, self.north_m)) % 360.0


def travel_s(sites: Sequence[Site], transmitters: Sequence[Transmitter]) -> Float64:
    """Expected travel times, `(transmitters, receivers)` seconds.

    Of several hypotheses about a way of propagation, the middle one is taken: what differs from it
    is a receiver's spread.
    """
    travel = np.empty((len(transmitters), len(sites)))
    ways = [propagation_at(one.frequency_hz) for one in transmitters]
    for way in {id(way): way for way in ways}.values():
        rows = [number for number, each in enumerate(ways) if each is way]
        chosen = [transmitters[number] for number in rows]
        latitude, longitude, altitude = np.array(
            [(one.latitude_deg, one.longitude_deg, one.altitude_m) for one in chosen]
        ).T
        paths = paths_of(ranges_m(sites, latitude, longitude, altitude, way), way)
        middle = paths[len(paths) // 2]
        likeliest = middle.log_share.argmax(axis=0)[None]
        travel[rows] = np.take_along_axis(middle.delay_s, likeliest, axis=0)[0]
    return travel


class Sessions(NamedTuple):
    """Arrivals without travel times, `(sessions, receivers)`; zero where nothing was heard."""

    sites: Sequence[Site]
    transmitters: Sequence[Transmitter]
    late_s: Float64
    """Arrival minus travel time."""
    variance_s2: Float64
    """From noise."""
    heard: NDArray[np.bool_]
    place: NDArray[np.intp]
    """Number of the place of each session's transmitter, `(sessions,)`."""

    @classmethod
    def of(
        cls,
        arrivals_s: Float64,
        sigma_s: Float64,
        sites: Sequence[Site],
        transmitters: Sequence[Transmitter],
    ) -> Sessions:
        """The sessions of checked arguments of `calibrate`."""
        late_s = arrivals_s - travel_s(sites, transmitters)
        heard = np.isfinite(late_s)
        # Differences to a session's middle keep their digits where times are of the day.
        late_s = np.where(heard, late_s - np.nanmedian(late_s, axis=1)[:, None], 0.0)
        at = np.array([(one.latitude_deg, one.longitude_deg) for one in transmitters])
        _, place = np.unique(np.round(at / PLACE_DEG), axis=0, return_inverse=True)
        variance_s2 = np.where(heard, sigma_s, 0.0) ** 2
        return cls(sites, transmitters, late_s, variance_s2, heard, place.ravel())

    def without(self, channel: int) -> Sessions:
        """The sessions as if a receiver had heard nothing."""
        heard = self.heard.copy()
        heard[:, channel] = False
        return self._replace(heard=heard)

    @property
    def repeats(self) -> Float64:
        """Number of sessions of each session's place."""
        return np.bincount(self.place)[self.place].astype(np.float64)


class Fit(NamedTuple):
    """Delays and scales under one scale of delays."""

    delay_s: Float64
    covariance: Float64
    scale_s: Float64
    """Scale of each receiver's errors."""
    typical_scale_s: float
    precision: Float64
    """Of each arrival, `(sessions, receivers)`: its weight over its variance."""
    log_evidence: float
    """Log of the posterior of the scales, up to a constant."""


def fitted(sessions: Sessions) -> Fit:
    """Delays under all scales of delays, weighted by the evidence; the rest under the likeliest."""
    fits: list[Fit] = []
    for scale_s in DELAY_SCALES_S:
        fits.append(_fitted_at(sessions, scale_s, fits[-1:]))
    evidence = np.array([fit.log_evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    delays = np.array([fit.delay_s for fit in fits])
    delay = weights @ delays
    between = (weights[:, None] * (delays - delay)).T @ (delays - delay)
    within = np.einsum("f,fij->ij", weights, [fit.covariance for fit in fits])
    return fits[int(weights.argmax())]._replace(delay_s=delay, covariance=within + between)


def _fitted_at(sessions: Sessions, delay_scale_s: float, start: Sequence[Fit]) -> Fit:
    """Most probable scales of errors, and delays under them.

    Precisions of arrivals follow from scales and residuals; delays from precisions; scales from
    residuals and their uncertainty.
    """
    late, heard, noise = sessions.late_s, sessions.heard, sessions.variance_s2
    n_receivers = late.shape[1]
    log_scale = np.full(n_receivers, math.log(TYPICAL_SPREAD_S))
    log_typical = math.log(TYPICAL_SPREAD_S)
    weight, delay_weight = heard.astype(np.float64), np.ones(n_receivers)
    for fit in start:
        log_scale, log_typical = np.log(fit.scale_s), math.log(fit.typical_scale_s)
        weight = fit.precision * (noise + fit.scale_s**2)
    wide, own = math.log(SPREAD_FACTOR) ** -2, math.log(RECEIVER_FACTOR) ** -2
    for _ in range(_ITERATIONS):
        scale2 = np.exp(2 * log_scale)
        variance = noise + scale2
        precision = weight / variance
        own_share = heard * scale2 / variance
        n_heard = np.maximum(heard.sum(axis=1), 1)
        counts = 1 / (1 + SAME_PLACE * own_share.sum(axis=1) / n_heard * (sessions.repeats - 1))
        counts = counts[:, None]
        total = np.maximum(precision.sum(axis=1, keepdims=True), 1e-30)
        share = precision / total
        reduced = np.diag((counts * precision).sum(axis=0)) - (counts * precision).T @ share
        prior = np.diag(delay_weight / delay_scale_s**2)
        emission = (share * late).sum(axis=1, keepdims=True)
        moments = np.linalg.inv(reduced + prior)
        delay = moments @ (counts * precision * (late - emission)).sum(axis=0)
        residual = late - (share * (late - delay)).sum(axis=1, keepdims=True) - delay
        # Variance of the estimated emission and delay together.
        uncertainty = (
            1 / total
            + np.diag(moments)
            - 2 * share @ moments
            + ((share @ moments) * share).sum(axis=1, keepdims=True)
        )
        square = (residual**2 + uncertainty) / variance
        weight = heard * (DEGREES + 1) / (DEGREES + square)
        delay_square = (delay**2 + np.diag(moments)) / delay_scale_s**2
        delay_weight = (DEGREES + 1) / (DEGREES + delay_square)
        # A Newton step of the logarithms of the scales, whose prior precision is `own`.
        away = log_scale - log_typical
        slope = (counts * own_share * (weight * square - 1)).sum(axis=0) - own * away
        bend = _CURVATURE * (counts * own_share**2).sum(axis=0) + own
        step = np.clip(slope / bend, -1.0, 1.0)
        log_scale = log_scale + step
        known = heard.any(axis=0)
        log_typical = float(
            (own * log_scale[known].sum() + wide * math.log(TYPICAL_SPREAD_S))
            / (own * known.sum() + wide)
        )
        if np.abs(step).max() < _CONVERGED:
            break
    # Given the weights, a t distribution seems to tell more than it does.
    covariance = np.linalg.inv(_INFORMATION * reduced + prior)
    likelihood = counts * heard * _log_t(residual**2 / variance, variance)
    emission_volume = counts * np.log(_INFORMATION * total) / 2
    log_evidence = (
        likelihood.sum()
        - emission_volume.sum()
        + _log_t(delay**2 / delay_scale_s**2, np.full(n_receivers, delay_scale_s**2)).sum()
        + np.linalg.slogdet(covariance)[1] / 2
        - own * (away**2).sum() / 2
        - wide * (log_typical - math.log(TYPICAL_SPREAD_S)) ** 2 / 2
    )
    return Fit(
        delay, covariance, np.exp(log_scale), math.exp(log_typical), precision, float(log_evidence)
    )


def _log_t(square: Float64, variance: Float64) -> Float64:
    """Log density of Student's t, up to a constant, of a squared residual over its variance."""
    return -np.log(variance) / 2 - (DEGREES + 1) / 2 * np.log1p(square / DEGREES)


def independent_sigmas(covariance: Float64) -> Float64:
    """Standard deviations of independent errors whose differences vary as these do.

    The uncertainty that all delays share is none of a position: it is left out, as what their
    mean, weighted by what is left, does not vary with. No receiver is the reference alone: none
    counts as known ten times better than half of them.
    """
    variance = np.diag(covariance)
    for _ in range(50):
        share = (1 / variance) / (1 / variance).sum()
        shared = covariance @ share
        left = np.maximum(np.diag(covariance) - 2 * shared + share @ shared, 0.0) / (1 - share)
        variance = np.maximum(left, max(np.median(left) / 100, 1e-24))
    return np.asarray(np.sqrt(variance))


def position_faults(sessions: Sessions, fit: Fit) -> dict[int, PositionFault]:
    """Faults by channel: the worst first, and the others judged anew without it."""
    faults: dict[int, PositionFault] = {}
    while True:
        heard = np.flatnonzero(sessions.heard.any(axis=0)).tolist()
        found = {n: _offset(sessions, fit, n) for n in heard} if len(heard) > 2 else {}
        contradicted = {n: one for n, one in found.items() if one is not None}
        if not contradicted:
            return faults
        worst = max(contradicted, key=lambda n: contradicted[n][0])
        faults[worst] = contradicted[worst][1]
        sessions = sessions.without(worst)
        fit = fitted(sessions)


def _offset(sessions: Sessions, fit: Fit, channel: int) -> tuple[float, PositionFault] | None:
    """Gain of log-likelihood and offset of a receiver whose position cannot be true, or None.

    Its lateness against the other receivers of each session is explained by a delay alone, and by
    a delay and an offset.
    """
    others = fit.precision.copy()
    others[:, channel] = 0.0
    total = others.sum(axis=1)
    used = sessions.heard[:, channel] & (total > 0)
    if len(np.unique(sessions.place[used])) < LEAST_PLACES:
        return None
    emission = (others * (sessions.late_s - fit.delay_s)).sum(axis=1)[used] / total[used]
    late_s = sessions.late_s[used, channel] - emission
    noise_s2 = sessions.variance_s2[used, channel] + 1 / total[used]
    counts = 1 / (1 + SAME_PLACE * (sessions.repeats[used] - 1))
    site = sessions.sites[channel]
    transmitters = [sessions.transmitters[number] for number in np.flatnonzero(used).tolist()]

    def delayed_s(parameters: Float64) -> Float64:
        return np.full_like(late_s, parameters[0])

    def moved_s(parameters: Float64) -> Float64:
        latitude, longitude = moved_deg(
            site.latitude_deg, site.longitude_deg, *(SPEED_OF_LIGHT_M_S * parameters[1:])
        )
        there = replace(site, latitude_deg=float(latitude), longitude_deg=float(longitude))
        delay_s: Float64 = parameters[0] + travel_s([there], transmitters)[:, 0] - stated_s
        return delay_s

    stated_s = travel_s([site], transmitters)[:, 0]
    plain, moved = (
        _explained(late_s, noise_s2, counts, expected, n_parameters, fit.typical_scale_s)
        for expected, n_parameters in ((delayed_s, 1), (moved_s, 3))
    )
    gain = moved.log_likelihood - plain.log_likelihood
    if gain < MISPLACED_NATS or moved.scale_s > MISPLACED_SPREAD * plain.scale_s:
        return None
    east_m, north_m = (SPEED_OF_LIGHT_M_S * moved.parameters[1:]).tolist()
    variance_s2 = float(np.linalg.eigvalsh(moved.covariance[1:, 1:])[-1])
    return gain, PositionFault(
        east_m=east_m,
        north_m=north_m,
        sigma_m=SPEED_OF_LIGHT_M_S * math.sqrt(max(variance_s2, 0.0)),
        spread_s=HALF_WIDTH * moved.scale_s,
    )


class _Explanation(NamedTuple):
    log_likelihood: float
    parameters: Float64
    """Delay, and offset east and north in light's travel time: seconds."""
    covariance: Float64
    scale_s: float


def _explained(
    late_s: Float64,
    noise_s2: Float64,
    counts: Float64,
    expected: Callable[[Float64], Float64],
    n_parameters: int,
    typical_scale_s: float,
) -> _Explanation:
    """The likeliest parameters and scale."""
    parameters = np.zeros(n_parameters)
    parameters[0] = np.median(late_s)
    log_scale = math.log(float(np.std(late_s)) + typical_scale_s)
    own = math.log(RECEIVER_FACTOR) ** -2
    for _ in range(_ITERATIONS):
        found = expected(parameters)
        steps = _STEP_S * np.eye(n_parameters)
        slopes = np.array([expected(parameters + step) - found for step in steps]).T / _STEP_S
        residual, scale2 = late_s - found, math.exp(2 * log_scale)
        variance = noise_s2 + scale2
        square = residual**2 / variance
        precision = counts * (DEGREES + 1) / (DEGREES + square) / variance
        normal = slopes.T @ (precision[:, None] * slopes)
        change = np.linalg.lstsq(normal, slopes.T @ (precision * residual), rcond=1e-9)[0]
        parameters = parameters + change
        share, away = scale2 / variance, log_scale - math.log(typical_scale_s)
        slope = (share * (precision * residual**2 - counts)).sum() - own * away
        bend = _CURVATURE * (counts * share**2).sum() + own
        turn = float(np.clip(slope / bend, -1.0, 1.0))
        log_scale += turn
        if max(abs(turn), np.abs(change).max() / math.sqrt(scale2)) < 10 * _CONVERGED:
            break
    likelihood = (counts * _log_t(square, variance)).sum() - own * away**2 / 2
    covariance = np.asarray(np.linalg.pinv(_INFORMATION * normal, rcond=1e-9), dtype=np.float64)
    return _Explanation(float(likelihood), parameters, covariance, math.sqrt(scale2))
