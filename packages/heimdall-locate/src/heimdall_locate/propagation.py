"""Travel times from a transmitter to receivers, by band.

Above 30 MHz waves go straight, slowed by the air. Below 3 MHz they follow the ground, which slows
them further over land, and a sky wave may be mixed in. Between, they are reflected by the
ionosphere at a height that is not known, so the delay exceeds that of the great circle.

Sources: Recommendation ITU-R P.453 for the refractivity of air, about 315 N-units at sea level;
ITU-R P.368 and J. R. Johler, W. J. Kellar and L. C. Walters, "Phase of the low radiofrequency
ground wave", NBS Circular 573 (1956), for the secondary phase of ground waves: 2 to 4 us in
1,000 km over average land; K. Davies, "Ionospheric Radio" (1990), for virtual heights and hops.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from numpy.typing import NDArray

from heimdall_locate.errors import LocateError
from heimdall_locate.errors_in_time import ErrorModel
from heimdall_locate.sites import Site, cartesian_m, geodesic_m

Float64 = NDArray[np.float64]

AIR: Final = 3.0e-4
"""Relative slowness of air along a path that stays low: 315 N-units, less those of height."""
EARTH_RADIUS_M: Final = 6_371_000.0
LOWEST_LINE_OF_SIGHT_HZ: Final = 30e6
LOWEST_SKY_WAVE_HZ: Final = 3e6
GROUND_SLOWNESS: Final = ((4e-4, 0.25), (9e-4, 0.5), (1.6e-3, 0.25))
"""Relative slowness of ground waves with its odds: air alone (sea water), average and dry land."""
VIRTUAL_HEIGHTS_M: Final = (
    (110e3, 0.15),
    (200e3, 0.1),
    (250e3, 0.2),
    (300e3, 0.25),
    (350e3, 0.2),
    (420e3, 0.1),
)
"""Virtual heights of reflection with their odds: the E layer, and the F layer by day and night."""
SECOND_HOP: Final = 0.1
"""Share of sky-wave arrivals that come by one hop more than the distance needs."""
NEAR_BY: Final = 0.3
"""Share of arrivals within `GROUND_WAVE_M` that are of the ground wave, on short waves."""
GROUND_WAVE_M: Final = 150e3
LONGEST_HOP_M: Final = 4.0e6
"""Longest hop by the F layer, at grazing incidence."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """A way of propagation, with its errors and how far it is heard."""

    name: str
    summary: str
    """For users to read."""
    errors: ErrorModel
    heard_m: float
    """Distance beyond which receivers seldom hear a transmitter."""
    falloff: float
    """Power of the distance over `heard_m` by which hearing becomes less likely."""


LINE_OF_SIGHT: Final = Propagation(
    "line-of-sight",
    "line of sight, slowed by air (0.03 %)",
    ErrorModel(path_s=2e-8),
    heard_m=250e3,
    falloff=6.0,
)
"""Paths add 20 ns: the refraction of air varies by 5e-5, which over 120 km is 6 m."""
GROUND_WAVE: Final = Propagation(
    "ground-wave",
    "ground wave, slowed by land (0.04 to 0.16 %), with sky wave mixed in",
    ErrorModel(path_s=4e-6, trust=0.5, detour=0.1, detours_s=(1e-5,), wrong_s=3e-4),
    heard_m=2_500e3,
    falloff=4.0,
)
"""Ground of unequal conductivity adds about 1 us in 300 km, and receivers' filters and a weak sky
wave a few more. Reflected 70 to 90 km up, the sky wave comes 30 to 100 us after the ground wave;
mixed in with a tenth to a half of its amplitude, it makes the arrival late by that share. Aerials
and filters tilt a band of a few kHz much more than they delay it, so a measured coherent error
counts half."""
SKY_WAVE: Final = Propagation(
    "sky-wave",
    "sky wave, virtual height of 110 to 420 km unknown",
    ErrorModel(path_s=6e-5, trust=0.5, detour=0.1, detours_s=(2e-4,), wrong_s=2e-3),
    heard_m=6_000e3,
    falloff=3.0,
)
"""Heights differ by 20 to 30 km between paths of one session, which at an elevation of 20 to 40
degrees is 60 us."""
PROPAGATIONS: Final = {one.name: one for one in (LINE_OF_SIGHT, GROUND_WAVE, SKY_WAVE)}


def propagation_at(frequency_hz: float | None) -> Propagation:
    """The usual way of propagation at a frequency; line of sight if it is unknown.

    Raises:
        LocateError: The frequency is not positive.
    """
    if frequency_hz is None:
        return LINE_OF_SIGHT
    if not 0 < frequency_hz < math.inf:
        raise LocateError(f"frequency_hz is {frequency_hz}; give a positive one")
    if frequency_hz >= LOWEST_LINE_OF_SIGHT_HZ:
        return LINE_OF_SIGHT
    return SKY_WAVE if frequency_hz >= LOWEST_SKY_WAVE_HZ else GROUND_WAVE


@dataclass(frozen=True, slots=True)
class Paths:
    """Expected delays under one hypothesis about the session."""

    log_odds: float
    delay_s: Float64
    """`(ways, points, receivers)`: ways by which an arrival may have come."""
    log_share: Float64
    """Log of the odds of each way, `(ways, points, receivers)`."""


def ranges_m(
    sites: Sequence[Site],
    latitude_deg: Float64,
    longitude_deg: Float64,
    altitude_m: float | Float64,
    propagation: Propagation,
) -> Float64:
    """Distances of points to receivers in metres, `(points, receivers)`.

    Straight through the air for line of sight, else along the ellipsoid.
    """
    site_deg = [
        np.array([getattr(site, name) for site in sites])
        for name in ("latitude_deg", "longitude_deg", "altitude_m")
    ]
    if propagation.name == LINE_OF_SIGHT.name:
        points_m = cartesian_m(latitude_deg, longitude_deg, altitude_m)
        away_m = points_m[:, None, :] - cartesian_m(*site_deg)
        return np.asarray(np.linalg.norm(away_m, axis=-1), dtype=np.float64)
    return geodesic_m(latitude_deg[:, None], longitude_deg[:, None], site_deg[0], site_deg[1])


def paths_of(range_m: Float64, propagation: Propagation) -> list[Paths]:
    """Delays under each hypothesis, from distances of `ranges_m`."""
    one_way = np.zeros((1, *range_m.shape))
    if propagation.name == LINE_OF_SIGHT.name:
        return [Paths(0.0, range_m[None] * ((1 + AIR) / SPEED_OF_LIGHT_M_S), one_way)]
    if propagation.name == GROUND_WAVE.name:
        return [
            Paths(math.log(odds), range_m[None] * ((1 + slowness) / SPEED_OF_LIGHT_M_S), one_way)
            for slowness, odds in GROUND_SLOWNESS
        ]
    near = range_m < GROUND_WAVE_M
    first = 0 if near.any() else 1
    ground = np.where(near, math.log(NEAR_BY), -50.0)
    sky = np.where(near, math.log1p(-NEAR_BY), 0.0)
    log_share = np.stack([ground, sky + math.log1p(-SECOND_HOP), sky + math.log(SECOND_HOP)])[
        first:
    ]
    ground_s = range_m * ((1 + GROUND_SLOWNESS[1][0]) / SPEED_OF_LIGHT_M_S)
    return [
        Paths(
            math.log(odds),
            np.stack([ground_s, *(sky_wave_s(range_m, height_m, n) for n in (0, 1))])[first:],
            log_share,
        )
        for height_m, odds in VIRTUAL_HEIGHTS_M
    ]


def distinct(paths: list[Paths], difference_s: float) -> list[Paths]:
    """The hypotheses, or the middle one alone where none differs from it by more than that."""
    middle = paths[len(paths) // 2]
    if all(np.abs(one.delay_s - middle.delay_s).max() <= difference_s for one in paths):
        return [replace(middle, log_odds=0.0)]
    return paths


def sky_wave_s(range_m: Float64, height_m: float, more_hops: int = 0) -> Float64:
    """Delay of a wave reflected at a virtual height, by the fewest possible hops and some more."""
    # The longest hop meets the ground at a tangent.
    longest_m = min(
        LONGEST_HOP_M, 2 * EARTH_RADIUS_M * math.acos(EARTH_RADIUS_M / (EARTH_RADIUS_M + height_m))
    )
    hops = np.maximum(np.ceil(range_m / longest_m), 1.0) + more_hops
    half_angle = range_m / (2 * hops * EARTH_RADIUS_M)
    top_m = EARTH_RADIUS_M + height_m
    slant_m = np.sqrt(
        EARTH_RADIUS_M**2 + top_m**2 - 2 * EARTH_RADIUS_M * top_m * np.cos(half_angle)
    )
    delay_s: Float64 = 2 * hops * slant_m / SPEED_OF_LIGHT_M_S
    return delay_s


def log_heard(range_m: Float64, altitude_m: float | None, propagation: Propagation) -> Float64:
    """Log of the odds that all receivers hear a transmitter at these distances, `(points,)`."""
    reach_m = propagation.heard_m
    if propagation.name == LINE_OF_SIGHT.name and altitude_m is not None and altitude_m > 0:
        # The horizon with four thirds of the Earth's radius.
        reach_m += math.sqrt(2 * EARTH_RADIUS_M * 4 / 3 * altitude_m)
    odds: Float64 = -np.log1p((range_m / reach_m) ** propagation.falloff).sum(axis=1)
    return odds
