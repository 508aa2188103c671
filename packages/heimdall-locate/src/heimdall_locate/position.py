"""A position and everything known about its uncertainty.

A posterior is a function of the place, its density, and cells that cover it with their
probabilities. From times of arrival the cells are those of an adaptive grid; from a mixture of
Gaussians they are points of equal probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heimdall_locate.errors import LocateError
from heimdall_locate.sites import moved_deg, offset_m

Float64 = NDArray[np.float64]
LogDensity = Callable[[Float64, Float64], Float64]
"""Nats per square metre at latitudes and longitudes in degrees, which have one shape."""
Covariance = tuple[tuple[float, float], tuple[float, float]]

_HALF_WAY_ROUND_M: Final = 20_003_931.0
"""Half a meridian of WGS84."""
DOMINANT: Final = 0.95
"""Probability of the first candidate from which ellipses are of the whole posterior: with less,
an ellipse around one candidate cannot hold 95 % of it."""
_N_POINTS: Final = 1024
"""Cells of each Gaussian."""
_FARTHEST_CELL: Final = 2 * math.log(2 * _N_POINTS)
"""Squared Mahalanobis distance."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """Axes in metres; bearing of the major axis in degrees, clockwise from north, 0 to 180."""

    semi_major_m: float
    semi_minor_m: float
    bearing_deg: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the places where the transmitter may be."""

    probability: float
    latitude_deg: float
    longitude_deg: float
    covariance_m2: Covariance
    """Of the error around this candidate, east and north, square metres."""

    def ellipse(self, squared_sigmas: float) -> Ellipse:
        """The ellipse at a squared Mahalanobis distance."""
        values, vectors = np.linalg.eigh(np.asarray(self.covariance_m2))
        minor_m, major_m = np.sqrt(np.maximum(values, 0.0) * squared_sigmas)
        east, north = vectors[:, 1]
        bearing_deg = math.degrees(math.atan2(east, north)) % 180.0
        return Ellipse(float(major_m), float(minor_m), bearing_deg)

    def wider(self, variance_m2: float) -> Candidate:
        """The same candidate with this variance added in every direction."""
        (east, across), (other, north) = self.covariance_m2
        return replace(
            self, covariance_m2=((east + variance_m2, across), (other, north + variance_m2))
        )

    def squared_sigmas(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64:
        """Squared Mahalanobis distance of points from this candidate."""
        offset = offset_m(self.latitude_deg, self.longitude_deg, (latitude_deg, longitude_deg))
        solved = np.linalg.solve(np.asarray(self.covariance_m2), offset[..., None])[..., 0]
        return np.asarray((offset * solved).sum(axis=-1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ReceiverResult:
    """A receiver's part in the answer; figures are None if unknown."""

    name: str
    used: bool
    reason: str = ""
    """Reason why it was not used, or how it differs from the others."""
    residual_us: float | None = None
    sigma_us: float | None = None
    snr_db: float | None = None


@dataclass(frozen=True, slots=True)
class Cells:
    """Parts of the posterior: arrays of one length."""

    latitude_deg: Float64
    longitude_deg: Float64
    probability: Float64
    log_density: Float64
    """Nats per square metre, at the centre."""
    width_m: Float64
    """Length of a side, of a square of the same area."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the transmitter is, and how sure that is."""

    candidates: tuple[Candidate, ...]
    """The most probable first."""
    density: LogDensity = field(repr=False, compare=False)
    make_cells: Callable[[], Cells] = field(repr=False, compare=False)
    """Called once, when the cells are needed."""
    is_gaussian: bool = field(default=False, repr=False, compare=False)
    """The density is the first candidate's alone, a Gaussian."""
    receivers: tuple[ReceiverResult, ...] = ()
    frequency_hz: float | None = None
    propagation: str = ""
    """The way of propagation that was assumed."""
    termination: str = ""
    """How the search ended, for users to read."""
    unexplained: float | None = None
    """From a model of arrival times: the part of them that geometry does not explain, over the
    model's limit. Above 1, they are unlike everything that it was trained on."""

    @cached_property
    def cells(self) -> Cells:
        """The posterior in parts that cover it."""
        return self.make_cells()

    @property
    def latitude_deg(self) -> float:
        """Latitude of the first candidate, WGS84."""
        return self.candidates[0].latitude_deg

    @property
    def longitude_deg(self) -> float:
        """Longitude of the first candidate, WGS84."""
        return self.candidates[0].longitude_deg

    @property
    def covariance_m2(self) -> Covariance:
        """Of the whole posterior's error around the first candidate, east and north."""
        first, *others = self.candidates
        whole = first.probability * np.asarray(first.covariance_m2)
        for one in others:
            place = (one.latitude_deg, one.longitude_deg)
            offset = offset_m(first.latitude_deg, first.longitude_deg, place)
            spread = np.asarray(one.covariance_m2) + np.outer(offset, offset)
            whole = whole + one.probability * spread
        (east, across), (_, north) = (whole / sum(o.probability for o in self.candidates)).tolist()
        return (east, across), (across, north)

    @property
    def sigma_east_m(self) -> float:
        """Standard deviation east of the whole posterior, around the first candidate."""
        return math.sqrt(self.covariance_m2[0][0])

    @property
    def sigma_north_m(self) -> float:
        """Standard deviation north of the whole posterior, around the first candidate."""
        return math.sqrt(self.covariance_m2[1][1])

    @property
    def correlation(self) -> float:
        """Correlation of the errors east and north, of the whole posterior."""
        (east, across), (_, north) = self.covariance_m2
        return across / math.sqrt(east * north)

    @cached_property
    def ellipse_68(self) -> Ellipse:
        """The ellipse that holds 68 %."""
        return self.ellipse(0.68)

    @cached_property
    def ellipse_95(self) -> Ellipse:
        """The ellipse that holds 95 %."""
        return self.ellipse(0.95)

    def ellipse(self, probability: float) -> Ellipse:
        """The ellipse around the first candidate that holds a probability.

        It is of the whole posterior if the first candidate dominates, else of that candidate.

        Raises:
            LocateError: The probability is not between 0 and 1.
        """
        if not 0 < probability < 1:
            raise LocateError(f"probability is {probability}; give one between 0 and 1")
        first = self.candidates[0]
        # No place is farther away than the antipode.
        farthest = (_HALF_WAY_ROUND_M / first.ellipse(1.0).semi_major_m) ** 2
        if self.is_gaussian and farthest > _FARTHEST_CELL:
            return first.ellipse(-2 * math.log1p(-probability))
        cells = self.cells
        away = first.squared_sigmas(cells.latitude_deg, cells.longitude_deg)
        mass = cells.probability
        if first.probability < DOMINANT:
            mass = mass * (nearest_candidate(self.candidates, cells) == 0)
        order = np.argsort(away)
        held = np.cumsum(mass[order]) - mass[order] / 2
        square = float(np.interp(probability * held[-1], held, away[order]))
        return first.ellipse(min(square, farthest))

    def log_density(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64:
        """Log of the posterior's density in nats per square metre; arguments broadcast."""
        latitude, longitude = np.broadcast_arrays(
            np.asarray(latitude_deg, np.float64), np.asarray(longitude_deg, np.float64)
        )
        found = self.density(np.atleast_1d(latitude).ravel(), np.atleast_1d(longitude).ravel())
        return np.asarray(found.reshape(latitude.shape), dtype=np.float64)

    def smallest_region(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Float64:
        """Probability of the smallest highest-density region that holds a point.

        It is uniform over truths if the posterior is calibrated. Arguments broadcast.
        """
        order = np.argsort(-self.cells.log_density)
        held = np.concatenate([[0.0], np.cumsum(self.cells.probability[order])])
        above = np.searchsorted(
            -self.cells.log_density[order], -self.log_density(latitude_deg, longitude_deg)
        )
        return np.asarray(np.minimum(held[above], 1.0), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The contents of position.json."""
        ellipses = {
            f"ellipse_{percent}": {
                "semi_major_m": ellipse.semi_major_m,
                "semi_minor_m": ellipse.semi_minor_m,
                "bearing_deg": ellipse.bearing_deg,
            }
            for percent, ellipse in ((68, self.ellipse_68), (95, self.ellipse_95))
        }
        return {
            "latitude_deg": self.latitude_deg,
            "longitude_deg": self.longitude_deg,
            **ellipses,
            "candidates": [
                {
                    "probability": one.probability,
                    "latitude_deg": one.latitude_deg,
                    "longitude_deg": one.longitude_deg,
                    "covariance_m2": [list(row) for row in one.covariance_m2],
                }
                for one in self.candidates
            ],
            "receivers": [
                {
                    "name": one.name,
                    "used": one.used,
                    "reason": one.reason,
                    "residual_us": one.residual_us,
                    "sigma_us": one.sigma_us,
                    "snr_db": one.snr_db,
                }
                for one in self.receivers
            ],
            "frequency_hz": self.frequency_hz,
            "propagation": self.propagation,
            "termination": self.termination,
        }


def nearest_candidate(candidates: Sequence[Candidate], cells: Cells) -> NDArray[np.intp]:
    """Number of the candidate that each cell belongs to, by Mahalanobis distance."""
    away = [one.squared_sigmas(cells.latitude_deg, cells.longitude_deg) for one in candidates]
    return np.asarray(np.argmin(away, axis=0), dtype=np.intp)


def from_gaussians(candidates: Sequence[Candidate]) -> Position:
    """Position whose posterior is a mixture of Gaussians; probabilities are scaled to add up to 1.

    `dataclasses.replace` gives it further fields, such as `termination`.

    Raises:
        LocateError: There is no candidate, or a figure is not finite, a probability negative or
            a covariance not positive definite.
    """
    # In plain numbers: a service makes one for each request.
    for one in candidates:
        (east, across), (other, north) = one.covariance_m2
        figures = (one.probability, one.latitude_deg, one.longitude_deg, east, across, other, north)
        if not all(map(math.isfinite, figures)):
            raise LocateError(f"a figure of {one} is not finite")
        if one.probability < 0:
            raise LocateError(f"the probability of {one} is negative")
        if east <= 0 or east * north <= across * other:
            raise LocateError(f"the covariance of {one} is not positive definite")
    total = sum(one.probability for one in candidates)
    if total <= 0:
        raise LocateError(f"the probabilities of {len(candidates)} candidates add up to {total}")
    ordered = tuple(
        replace(one, probability=one.probability / total)
        for one in sorted(candidates, key=lambda one: -one.probability)
    )

    def density(latitude_deg: Float64, longitude_deg: Float64) -> Float64:
        logs = [
            math.log(max(one.probability, 1e-300))
            - math.log(2 * math.pi)
            - np.linalg.slogdet(np.asarray(one.covariance_m2))[1] / 2
            - one.squared_sigmas(latitude_deg, longitude_deg) / 2
            for one in ordered
        ]
        return np.asarray(np.logaddexp.reduce(logs, axis=0), dtype=np.float64)

    def cells() -> Cells:
        points = [
            moved_deg(
                one.latitude_deg,
                one.longitude_deg,
                *(_UNIT @ np.linalg.cholesky(np.asarray(one.covariance_m2)).T).T,
            )
            for one in ordered
        ]
        latitude_deg, longitude_deg = (np.concatenate(axis) for axis in zip(*points, strict=True))
        probability = np.repeat([one.probability / len(_UNIT) for one in ordered], len(_UNIT))
        log_density = density(latitude_deg, longitude_deg)
        width_m = np.sqrt(probability * np.exp(-log_density))
        return Cells(latitude_deg, longitude_deg, probability, log_density, width_m)

    return Position(
        candidates=ordered, density=density, make_cells=cells, is_gaussian=len(ordered) == 1
    )


def _spiral() -> Float64:
    """Points of equal probability under a standard normal distribution: `(n, 2)`.

    Each is a golden angle from the last, and all are at different distances, so that an ellipse
    of any size holds its share of them.
    """
    number = np.arange(_N_POINTS)
    radius = np.sqrt(-2 * np.log1p(-(number + 0.5) / _N_POINTS))
    turn = math.pi * (3 - math.sqrt(5)) * number
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1)


_UNIT: Final = _spiral()
