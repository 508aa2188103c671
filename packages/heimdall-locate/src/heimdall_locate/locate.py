"""Position from times of arrival, with everything that may be wrong with them.

The whole Earth is searched on a grid of latitude and longitude. Each cell's likelihood expects
errors as large as the cell, so that a narrow peak shows in a wide cell; cells with probability
are divided until they are small beside the errors. The time of emission, the ways of
propagation and the sessions' scales are integrated out, receiver by receiver
(`errors_in_time`, `propagation`). The cells are the posterior; its peaks are the candidates.

Source of the search: A. H. Land and A. G. Doig, "An automatic method of solving discrete
programming problems", Econometrica 28 (1960), whose bounds are here a smoothed likelihood.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from numpy.typing import ArrayLike, NDArray

from heimdall_locate.errors import LocateError
from heimdall_locate.errors_in_time import GNSS_CLOCK_S, SESSION_SCALES, lookup
from heimdall_locate.flight import Flight
from heimdall_locate.position import (
    DOMINANT,
    Candidate,
    Cells,
    LogDensity,
    Position,
    ReceiverResult,
    from_gaussians,
)
from heimdall_locate.propagation import (
    PROPAGATIONS,
    Paths,
    Propagation,
    distinct,
    log_heard,
    paths_of,
    propagation_at,
    ranges_m,
)
from heimdall_locate.sites import Site, cartesian_m, moved_deg, offset_m

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

Float64 = NDArray[np.float64]

_COARSEST_DEG: Final = 4.0
_BLUR: Final = 0.6
"""Deviation of the delay within a cell, in light's travel times along its side."""
_FINE: Final = 0.3
"""Side of the smallest cells, in the light's way during the smallest deviation."""
_MOST_CELLS: Final = 1000
"""Most cells that are divided at once; the least probable stay wide."""
_MOST_LEFT: Final = 0.6
"""Probability of the cells beyond `_MOST_CELLS` from which none is divided any more."""
_LEAST_SCALE: Final = 0.1
"""Least factor by which a candidate's covariance is fitted."""
_SLIM: Final = 0.3
"""Breadth of a cell, east to west, over its length, below which it is divided in two, not four."""
_NODES: Final = np.array([-4.0, -1.6, -0.65, 0.0, 0.65, 1.6, 4.0])
"""Times of emission around each receiver's own, in its deviations."""
_LIKELY_WAY: Final = 0.3
"""Odds over the likeliest way's from which a way suggests times of emission. An arrival by any
other is found by those that the rest suggest, unless all came by such a way."""
_SAME: Final = 1.15
"""Ratio of deviations up to which two scales are one."""
_RULED_OUT: Final = 0.02
"""Probability below which a session's scale does not decide how fine cells must be."""
_FORGOTTEN: Final = 1e-5
"""Probability below which a scale that is larger than cells is left out."""
_TOO_FAR: Final = 50.0
"""Nats by which hearing the transmitter may be less likely than where it is likeliest."""
_VAGUE_M: Final = 500_000.0
"""One deviation from which the posterior is not shaped like an ellipse."""
_AIRBORNE_M: Final = 1_000.0
"""Height above the receivers from which a transmitter is taken to fly."""
_HIGHEST_M: Final = 100_000.0
_FAR_OFF: Final = 5.0
"""Deviations beyond which a receiver is said not to agree."""
_AGREEING: Final = 3.0
"""Deviations within which receivers agree with the likeliest one."""
_CORE: Final = 0.97
"""Probability of the region in which candidates are apart."""
_PEAK: Final = 0.2
"""Share of a candidate, where it is densest, whose mean is its position."""
_TOUCHING: Final = 2.2
"""Distance between the centres of touching cells, at most, in sides of the larger one."""
_LEAST_CANDIDATE: Final = 0.005
"""Probability of the least candidate that is told."""
_BULK: Final = 0.9
"""Share of a candidate, where it is densest, that gives its covariance: without tails, which reach
far, but with the ends of a bent region."""
_HELD: Final = 0.68
"""Probability of the ellipse that a candidate's covariance is to fit."""
_TINY: Final = 1e-7
"""Probability below which any other cell stays as it is. A place that a lying receiver denies
looks improbable until cells are smaller than the lie."""
_SMALL: Final = 3e-4
"""Probability below which a cell that is nearly fine enough stays as it is."""
_NEARLY_FINE: Final = 16.0
"""Multiple of the smallest side up to which cells are nearly fine enough."""
_INDISTINCT: Final = 0.2
"""Largest difference of delays, in a cell's blur, under hypotheses that count as one."""
_CHUNK: Final = 400_000
"""Errors that are looked up at once."""
_M_PER_DEG: Final = 111_195.0


def locate(
    arrivals_s: ArrayLike,
    sites: Sequence[Site],
    sigma_s: ArrayLike | None = None,
    altitude_m: float | None = None,
    frequency_hz: float | None = None,
    *,
    coherent_s: ArrayLike = 0.0,
    clock_sigma_s: ArrayLike = GNSS_CLOCK_S,
    delays_s: ArrayLike = 0.0,
    delay_spreads_s: ArrayLike = 0.0,
    snr_db: ArrayLike | None = None,
    propagation: str | None = None,
    prior: Position | None = None,
) -> Position:
    """Return the position of a transmitter.

    Args:
        arrivals_s: Times at which each receiver heard it, `(receivers,)`, on their common clock
            with any zero; NaN where it was not heard.
        sites: The receivers, in that order.
        sigma_s: Standard deviation of each arrival from noise; None for 0.
        altitude_m: Transmitter above the ellipsoid; None for a transmitter on the ground, as high
            as the receivers.
        frequency_hz: Carrier, which decides on the way of propagation.
        coherent_s: Standard deviation of each arrival from echoes, filters and whatever else does
            not average out, as it was measured. It is held against what the band lets expect.
        clock_sigma_s: Standard deviation of the receivers' clocks, one for all or one each.
        delays_s: Constant delay of each receiver, as a calibration knows it; it is subtracted.
        delay_spreads_s: Standard deviation of these.
        snr_db: Signal to noise at each receiver, which the answer repeats.
        propagation: Name of the way of propagation (`propagation.PROPAGATIONS`).
        prior: Answer of a method that uses no times, such as a level model; its density counts.

    Raises:
        LocateError: A figure is invalid, or fewer than three receivers heard the transmitter and
            there is no prior.
    """
    named = {
        "arrivals_s": arrivals_s,
        "sigma_s": 0.0 if sigma_s is None else sigma_s,
        "coherent_s": coherent_s,
        "clock_sigma_s": clock_sigma_s,
        "delays_s": delays_s,
        "delay_spreads_s": delay_spreads_s,
        "snr_db": math.nan if snr_db is None else snr_db,
    }
    figures = {name: _per_receiver(name, value, sites) for name, value in named.items()}
    heard = np.isfinite(figures["arrivals_s"])
    deviations = ("sigma_s", "coherent_s", "clock_sigma_s", "delay_spreads_s")
    for name in deviations:
        if not (figures[name][heard] >= 0).all():
            raise LocateError(f"{name} is {figures[name].tolist()}; give deviations of 0 or more")
    for name in deviations:
        heard &= np.isfinite(figures[name])
    if not np.isfinite(figures["delays_s"][heard]).all():
        raise LocateError(f"delays_s is {figures['delays_s'].tolist()}; give finite ones")
    if altitude_m is not None and not abs(altitude_m) < _HIGHEST_M:
        raise LocateError(f"altitude_m is {altitude_m}; give metres above the ellipsoid")
    if heard.sum() < (3 if prior is None else 1):
        names = [site.name for site, one in zip(sites, heard, strict=True) if one]
        raise LocateError(
            f"{len(names)} of {len(sites)} receivers have a time of arrival"
            f"{': ' if names else ''}{', '.join(names)}; a position takes at least three"
        )
    if propagation is not None and propagation not in PROPAGATIONS:
        raise LocateError(
            f"propagation is {propagation!r}; choose one of {', '.join(PROPAGATIONS)}"
        )
    way = PROPAGATIONS[propagation] if propagation else propagation_at(frequency_hz)
    model = _Model(
        (figures["arrivals_s"] - figures["delays_s"])[heard],
        [site for site, one in zip(sites, heard, strict=True) if one],
        np.hypot(figures["sigma_s"], figures["clock_sigma_s"])[heard],
        np.hypot(figures["delay_spreads_s"], way.errors.paths_s(figures["coherent_s"]))[heard],
        altitude_m,
        way,
        prior,
    )
    cells, log_evidence = model.search()
    density: LogDensity = _Density(model, cells, log_evidence)
    candidates = _candidates(cells)
    residual_s, deviation_s = np.full((2, len(sites)), math.nan)
    residual_s[heard], deviation_s[heard] = model.residuals(candidates[0])
    receivers = tuple(
        ReceiverResult(
            site.name,
            used,
            _remark(used, residual, sigma),
            *(None if math.isnan(x) else float(x) for x in (1e6 * residual, 1e6 * sigma, snr)),
        )
        for site, used, residual, sigma, snr in zip(
            sites, heard.tolist(), residual_s, deviation_s, figures["snr_db"], strict=True
        )
    )
    if altitude_m is not None and altitude_m - model.usual_altitude_m > _AIRBORNE_M:
        density = Flight(cells)
        candidates, cells = density.candidates(candidates), density.cells()
    return Position(
        candidates=candidates,
        density=density,
        make_cells=lambda: cells,
        receivers=receivers,
        frequency_hz=frequency_hz,
        propagation=way.summary,
        termination=_termination(candidates, receivers),
    )


def _per_receiver(name: str, value: ArrayLike, sites: Sequence[Site]) -> Float64:
    """A figure of each receiver, `(receivers,)`."""
    try:
        return np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), (len(sites),)))
    except (TypeError, ValueError) as error:
        raise LocateError(
            f"{name} is {value!r:.200}; give one number for each of the {len(sites)} receivers"
        ) from error


def _remark(used: bool, residual_s: float, sigma_s: float) -> str:  # noqa: FBT001
    if not used:
        return "no arrival time"
    if abs(residual_s) <= _FAR_OFF * sigma_s:
        return ""
    return f"{abs(residual_s) / sigma_s:.0f} sigmas {'late' if residual_s > 0 else 'early'}"


def _termination(candidates: Sequence[Candidate], receivers: Sequence[ReceiverResult]) -> str:
    """One sentence about the kind of answer."""
    used = [one for one in receivers if one.used]
    first = candidates[0].probability
    if first >= DOMINANT:
        found = f"one place explains the times of {len(used)} receivers"
    else:
        found = (
            f"{len(candidates)} places explain the times of {len(used)} receivers, the first with "
            f"{100 * first:.0f} %; ellipses are of the first alone"
        )
    if odd := [one.name for one in used if one.reason]:
        found += f"; not that of {', '.join(odd)}"
    if candidates[0].ellipse(1.0).semi_major_m > _VAGUE_M:
        found += "; they hardly limit it: trust the region, not the ellipse"
    if len(used) == 3:
        found += "; with three receivers, nothing is left over to notice one that is wrong"
    return found


def _candidates(cells: Cells) -> tuple[Candidate, ...]:
    """Separate places of high probability, the most probable first.

    Cells of the smallest region of 97 % that touch belong together; every other cell belongs to
    the nearest place.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    order = np.argsort(-cells.log_density)
    held = np.cumsum(cells.probability[order])
    core = order[: int(np.searchsorted(held, _CORE)) + 1]
    place_m = cartesian_m(cells.latitude_deg, cells.longitude_deg, 0.0)
    tree = cKDTree(place_m[core])
    near = tree.query_ball_point(place_m[core], _TOUCHING * cells.width_m[core])
    pairs = np.array([(n, other) for n, others in enumerate(near) for other in others])
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(core), len(core)))
    n_groups, group = connected_components(links, directed=False)
    belongs = group[tree.query(place_m)[1]]
    found = []
    for number in range(n_groups):
        mine = belongs == number
        probability = cells.probability[mine]
        share = float(probability.sum())
        if share < _LEAST_CANDIDATE:
            continue
        peak = core[group == number][0]
        offset = offset_m(
            cells.latitude_deg[peak],
            cells.longitude_deg[peak],
            (cells.latitude_deg[mine], cells.longitude_deg[mine]),
        )
        densest = np.argsort(-cells.log_density[mine])
        above = np.cumsum(probability[densest]) - probability[densest]
        peak_weight, weight = (
            np.where(
                np.isin(np.arange(len(densest)), densest[above < part * share]), probability, 0
            )
            for part in (_PEAK, _BULK)
        )
        middle = peak_weight @ offset / peak_weight.sum()
        away = offset - middle
        covariance = (weight[:, None] * away).T @ away / weight.sum()
        covariance += np.eye(2) * (weight @ cells.width_m[mine] ** 2) / weight.sum() / 12
        # Tails are heavier than a Gaussian's: scaled so that one sigma holds as much as one does.
        square = (away @ np.linalg.inv(covariance) * away).sum(axis=1)
        by_square = np.argsort(square)
        inside = np.cumsum(probability[by_square]) / share
        scale = square[by_square][np.searchsorted(inside, _HELD)] / (-2 * math.log1p(-_HELD))
        # One cell that holds the most is at its own centre, but no point.
        covariance *= max(scale, _LEAST_SCALE)
        latitude_deg, longitude_deg = moved_deg(
            cells.latitude_deg[peak], cells.longitude_deg[peak], *middle
        )
        found.append(
            Candidate(
                share,
                float(latitude_deg),
                float(longitude_deg),
                ((covariance[0, 0], covariance[0, 1]), (covariance[1, 0], covariance[1, 1])),
            )
        )
    total = sum(one.probability for one in found)
    scaled = [replace(one, probability=one.probability / total) for one in found]
    return tuple(sorted(scaled, key=lambda one: -one.probability))


def _log_sum(parts: list[Float64]) -> Float64:
    """Log of the sum of exponentials."""
    return functools.reduce(np.logaddexp, parts)


class _Regular(NamedTuple):
    sigma_s: Float64
    """Deviation of the regular error at each receiver, with the blur of a cell."""
    sharp_s: float
    """The smallest of them without blur."""
    odds: float


class _Model:
    """The likelihood of a transmitter's place, and the search for where it is high."""

    def __init__(
        self,
        arrivals_s: Float64,
        sites: Sequence[Site],
        own_s: Float64,
        fixed_s: Float64,
        altitude_m: float | None,
        propagation: Propagation,
        prior: Position | None,
    ) -> None:
        self.arrivals_s = arrivals_s
        self.sites = sites
        self.own_s = own_s
        """Deviation by noise and clocks, which the session's scale multiplies."""
        self.fixed_s = fixed_s
        """Deviation by paths and constant delays, which it does not."""
        self.given_altitude_m = altitude_m
        self.usual_altitude_m = float(np.median([site.altitude_m for site in sites]))
        self.altitude_m = self.usual_altitude_m if altitude_m is None else altitude_m
        self.propagation = propagation
        self.prior = prior
        self.scales: tuple[tuple[float, float], ...] = SESSION_SCALES

    def regular_s(self, blur_s: float = 0.0) -> list[_Regular]:
        """Regular errors by the session's scale; scales that blur makes equal are one."""
        found: list[_Regular] = []
        for scale, odds in self.scales:
            sharp_s = np.sqrt((scale * self.own_s) ** 2 + self.fixed_s**2)
            sigma_s = np.hypot(sharp_s, blur_s)
            if found and (sigma_s / found[-1].sigma_s).max() < _SAME:
                found[-1] = found[-1]._replace(odds=found[-1].odds + odds)
            else:
                found.append(_Regular(sigma_s, float(sharp_s.min()), odds))
        return found

    def log_prior(
        self, latitude_deg: Float64, longitude_deg: Float64, width_m: float
    ) -> tuple[Float64, Float64]:
        """Distances to receivers `(points, receivers)`, and the log of the prior's density.

        A given prior that is narrower than a cell is expected to be as wide as one.
        """
        range_m = ranges_m(
            self.sites, latitude_deg, longitude_deg, self.altitude_m, self.propagation
        )
        log_prior = log_heard(range_m, self.given_altitude_m, self.propagation)
        if self.prior is not None:
            places, blur_m2 = self.prior.candidates, (_BLUR * width_m) ** 2
            narrowest_m = min(one.ellipse(1.0).semi_minor_m for one in places)
            prior = self.prior
            if blur_m2 > (_FINE * narrowest_m) ** 2:
                prior = from_gaussians([one.wider(blur_m2) for one in places])
            log_prior += prior.log_density(latitude_deg, longitude_deg)
        return range_m, log_prior

    def log_posterior(
        self, latitude_deg: Float64, longitude_deg: Float64, width_m: float
    ) -> tuple[Float64, Float64]:
        """Log of the posterior density up to a constant, and its parts by the session's scale.

        Returns:
            `(points,)`, and `(scales, points)` of those scales that differ.
        """
        range_m, log_prior = self.log_prior(latitude_deg, longitude_deg, width_m)
        parts = []
        blur_s = _BLUR * width_m / SPEED_OF_LIGHT_M_S
        paths = distinct(paths_of(range_m, self.propagation), _INDISTINCT * blur_s)
        for regular in self.regular_s(blur_s):
            tables = np.stack([self.propagation.errors.log_table(one) for one in regular.sigma_s])
            under = [one.log_odds + self._times(one, regular.sigma_s, tables) for one in paths]
            parts.append(math.log(regular.odds) + log_prior + _log_sum(under))
        return _log_sum(parts), np.array(parts)

    def _times(self, paths: Paths, sigma_s: Float64, tables: Float64) -> Float64:
        """Log-likelihood of the times, the time of emission integrated out: `(points,)`."""
        emitted_s = self.arrivals_s - paths.delay_s
        n_ways, n_points, n_receivers = emitted_s.shape
        is_likely = paths.log_share > paths.log_share.max(axis=0) + math.log(_LIKELY_WAY)
        nodes = emitted_s[is_likely.any(axis=(1, 2)), ..., None] + sigma_s[:, None] * _NODES
        nodes = np.sort(np.moveaxis(nodes, 0, 1).reshape(n_points, -1), axis=1)
        log = np.empty(nodes.shape)
        step = max(1, _CHUNK // (nodes.shape[1] * n_receivers))
        for first in range(0, n_points, step):
            rows = slice(first, first + step)
            ways = [
                lookup(tables, emitted_s[way, rows, None, :] - nodes[rows, :, None], sigma_s)
                for way in range(n_ways)
            ]
            if n_ways > 1:
                ways = [
                    found + share[rows, None, :]
                    for found, share in zip(ways, paths.log_share, strict=True)
                ]
            log[rows] = _log_sum(ways).sum(axis=2)
        highest = log.max(axis=1, keepdims=True)
        height = np.exp(log - highest)
        # Times that no receiver suggests, far from all, would weigh more than they do in truth.
        step_s = np.minimum(np.diff(nodes, axis=1), self.propagation.errors.wrong_s)
        area = ((height[:, 1:] + height[:, :-1]) / 2 * step_s).sum(axis=1)
        return np.asarray(highest[:, 0] + np.log(area), dtype=np.float64)

    def search(self) -> tuple[Cells, float]:
        """The posterior as cells, and the log of its integral over the Earth."""
        size_deg = _COARSEST_DEG
        latitude_deg, longitude_deg = (
            axis.ravel()
            for axis in np.meshgrid(
                np.arange(-90 + size_deg / 2, 90, size_deg),
                np.arange(-180 + size_deg / 2, 180, size_deg),
                indexing="ij",
            )
        )
        heard = self.log_prior(latitude_deg, longitude_deg, size_deg * _M_PER_DEG)[1]
        is_near = heard > heard.max() - _TOO_FAR
        latitude_deg, longitude_deg = latitude_deg[is_near], longitude_deg[is_near]
        across_deg = np.full(len(latitude_deg), size_deg)
        leaves: list[Float64] = []
        while True:
            width_m = size_deg * _M_PER_DEG
            log_density, parts = self.log_posterior(latitude_deg, longitude_deg, width_m)
            slimness = across_deg / size_deg * np.cos(np.radians(latitude_deg))
            log_area = 2 * math.log(width_m) + np.log(slimness)
            log_mass = log_density + log_area
            widths_m = np.full(len(latitude_deg), width_m)
            level = np.stack([latitude_deg, longitude_deg, log_mass, log_density, widths_m])
            before = np.concatenate([leaf[2] for leaf in leaves]) if leaves else np.empty(0)
            log_all = np.logaddexp.reduce(np.concatenate([before, log_mass]))
            finest_s = self._refine_scales(parts + log_area, width_m)
            finest_m = _FINE * finest_s * SPEED_OF_LIGHT_M_S
            order = np.argsort(log_mass)
            share = np.exp(log_mass[order] - log_all)
            is_probable = share > (_SMALL if width_m <= _NEARLY_FINE * finest_m else _TINY)
            n_left = max(0, len(order) - _MOST_CELLS)
            # Dividing only a part of a wide region would draw probability into that part.
            is_too_wide = share[:n_left].sum() > _MOST_LEFT
            is_probable[:n_left] = False
            chosen = order[is_probable]
            if width_m <= finest_m or is_too_wide or not len(chosen):
                leaves.append(level)
                break
            leaves.append(level[:, order[~is_probable]])
            # Near the poles, meridians are close enough already.
            slim = chosen[slimness[chosen] < _SLIM]
            wide = chosen[slimness[chosen] >= _SLIM]
            halves = (slim, 0.0, -1), (slim, 0.0, 1)
            quarters = tuple((wide, east, north) for north in (-1, 1) for east in (-0.25, 0.25))
            latitude_deg, longitude_deg, across_deg = (
                np.concatenate(axis)
                for axis in zip(
                    *(
                        (
                            latitude_deg[part] + north * size_deg / 4,
                            longitude_deg[part] + east * across_deg[part],
                            across_deg[part] / (2 if east else 1),
                        )
                        for part, east, north in halves + quarters
                    ),
                    strict=True,
                )
            )
            size_deg /= 2
        found = np.concatenate(leaves, axis=1)
        log_all = float(np.logaddexp.reduce(found[2]))
        found[2] = np.exp(found[2] - log_all)
        found[3] -= log_all
        return Cells(*found), log_all

    def _refine_scales(self, log_parts: Float64, width_m: float) -> float:
        """Smallest deviation that the posterior does not rule out; forget scales that it does."""
        mass = np.logaddexp.reduce(log_parts, axis=1)
        share = np.exp(mass - np.logaddexp.reduce(mass))
        blur_s = _BLUR * width_m / SPEED_OF_LIGHT_M_S
        regular = self.regular_s(blur_s)
        if len(regular) == len(self.scales):
            self.scales = tuple(
                scale
                for scale, one, part in zip(self.scales, regular, share, strict=True)
                if part > _FORGOTTEN or one.sharp_s < 2 * blur_s
            )
        return min(
            one.sharp_s for one, part in zip(regular, share, strict=True) if part > _RULED_OUT
        )

    def residuals(self, place: Candidate) -> tuple[Float64, Float64]:
        """How late each arrival is and its deviation in seconds, for a transmitter at a place.

        The time of emission and the hypothesis are the likeliest ones.
        """
        latitude_deg, longitude_deg = (
            np.array([place.latitude_deg]),
            np.array([place.longitude_deg]),
        )
        range_m = ranges_m(
            self.sites, latitude_deg, longitude_deg, self.altitude_m, self.propagation
        )
        best: tuple[float, Float64, Float64] = (-math.inf, self.own_s, self.own_s)
        for regular in self.regular_s():
            tables = np.stack([self.propagation.errors.log_table(one) for one in regular.sigma_s])
            for path in paths_of(range_m, self.propagation):
                # The likeliest way of each receiver under each time of emission that one suggests.
                late_s = self.arrivals_s - path.delay_s[:, 0]
                for emitted_s in late_s.ravel():
                    log = lookup(tables, late_s - emitted_s, regular.sigma_s) + path.log_share[:, 0]
                    likely = float(log.max(axis=0).sum()) + path.log_odds + math.log(regular.odds)
                    if likely > best[0]:
                        chosen = np.take_along_axis(late_s, log.argmax(axis=0)[None], axis=0)[0]
                        best = (likely, chosen - emitted_s, regular.sigma_s)
        _, residual_s, sigma_s = best
        # The weighted mean of those that agree is zero.
        agree = np.abs(residual_s) < _AGREEING * sigma_s
        return residual_s - np.average(residual_s[agree], weights=sigma_s[agree] ** -2), sigma_s


class _Density:
    """Exact posterior density; where cells stayed wide, as smooth as they are."""

    def __init__(self, model: _Model, cells: Cells, log_evidence: float) -> None:
        self.model, self.cells, self.log_evidence = model, cells, log_evidence

    @functools.cached_property
    def tree(self) -> "cKDTree":
        """Tree of the cells' places, which takes a while to make."""
        from scipy.spatial import cKDTree

        return cKDTree(cartesian_m(self.cells.latitude_deg, self.cells.longitude_deg, 0.0))

    def __call__(self, latitude_deg: Float64, longitude_deg: Float64) -> Float64:
        """Nats per square metre, `(points,)`."""
        _, nearest = self.tree.query(cartesian_m(latitude_deg, longitude_deg, 0.0))
        width_m = self.cells.width_m[nearest]
        found = np.empty(len(width_m))
        for width in np.unique(width_m):
            same = width_m == width
            log_density, _ = self.model.log_posterior(
                latitude_deg[same], longitude_deg[same], float(width)
            )
            found[same] = log_density - self.log_evidence
        return found
