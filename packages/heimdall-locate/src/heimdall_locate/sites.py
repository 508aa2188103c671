"""Receivers' places, and distances on the WGS84 ellipsoid.

Sources: W. D. Lambert, "The distance between two widely separated points on the surface of the
Earth", J. Washington Academy of Sciences 32 (1942), for the geodesic: within 10 m to 10,000 km;
T. Vincenty, "Direct and inverse solutions of geodesics on the ellipsoid", Survey Review 23
(1975), for the point at a distance and bearing.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from heimdall_features.names import composed
from numpy.typing import ArrayLike, NDArray

from heimdall_locate.errors import LocateError

Float64 = NDArray[np.float64]

WGS84_A_M: Final = 6_378_137.0
WGS84_F: Final = 1 / 298.257_223_563
WGS84_B_M: Final = WGS84_A_M * (1 - WGS84_F)
_E2: Final = WGS84_F * (2 - WGS84_F)
_ALTITUDES_M: Final = (-1_000.0, 100_000.0)


@dataclass(frozen=True, slots=True)
class Site:
    """A receiver's antenna. An invalid figure raises a `LocateError`."""

    name: str
    """Name of the receiver."""
    latitude_deg: float
    """Degrees north, WGS84."""
    longitude_deg: float
    """Degrees east, WGS84."""
    altitude_m: float = 0.0
    """Above the WGS84 ellipsoid."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", composed(self.name))
        lowest_m, highest_m = _ALTITUDES_M
        for field, low, high in (
            ("latitude_deg", -90.0, 90.0),
            ("longitude_deg", -180.0, 180.0),
            ("altitude_m", lowest_m, highest_m),
        ):
            value = getattr(self, field)
            if not (math.isfinite(value) and low <= value <= high):
                raise LocateError(
                    f"receiver {self.name!r}: {field} is {value}; give {low:g} to {high:g}"
                )


def cartesian_m(
    latitude_deg: ArrayLike, longitude_deg: ArrayLike, altitude_m: ArrayLike
) -> Float64:
    """Earth-centred coordinates in metres, `(..., 3)`, of geodetic ones, which broadcast."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    altitude_m = np.asarray(altitude_m, dtype=np.float64)
    normal_m = WGS84_A_M / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    across_m = (normal_m + altitude_m) * np.cos(latitude)
    return np.stack(
        np.broadcast_arrays(
            across_m * np.cos(longitude),
            across_m * np.sin(longitude),
            (normal_m * (1 - _E2) + altitude_m) * np.sin(latitude),
        ),
        axis=-1,
    )


def geodesic_m(
    latitude_deg: ArrayLike,
    longitude_deg: ArrayLike,
    other_latitude_deg: ArrayLike,
    other_longitude_deg: ArrayLike,
) -> Float64:
    """Length of the geodesic between points in metres; arguments broadcast."""
    one, other = (
        np.arctan((1 - WGS84_F) * np.tan(np.radians(latitude)))
        for latitude in (latitude_deg, other_latitude_deg)
    )
    half_turn = np.radians(np.subtract(other_longitude_deg, longitude_deg)) / 2
    # Haversines, which are exact for short distances.
    haversine = (
        np.sin((other - one) / 2) ** 2 + np.cos(one) * np.cos(other) * np.sin(half_turn) ** 2
    )
    haversine = np.clip(haversine, 0.0, 1.0)
    angle = 2 * np.arctan2(np.sqrt(haversine), np.sqrt(1 - haversine))
    mean, difference = (one + other) / 2, (other - one) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (angle - np.sin(angle)) * (np.sin(mean) * np.cos(difference)) ** 2 / (1 - haversine)
        y = (angle + np.sin(angle)) * (np.cos(mean) * np.sin(difference)) ** 2 / haversine
    x = np.where(haversine < 1, x, 0.0)
    y = np.where(haversine > 0, y, 0.0)
    return np.asarray(WGS84_A_M * (angle - WGS84_F / 2 * (x + y)), dtype=np.float64)


def offset_m(
    latitude_deg: float, longitude_deg: float, points_deg: tuple[ArrayLike, ArrayLike]
) -> Float64:
    """East and north of a place to points, `(..., 2)` metres: geodesic length at its bearing.

    Args:
        latitude_deg: Of the place.
        longitude_deg: Of the place.
        points_deg: Latitudes and longitudes of the points, which broadcast.
    """
    latitude, longitude = math.radians(latitude_deg), math.radians(longitude_deg)
    away = cartesian_m(*points_deg, 0.0) - cartesian_m(latitude_deg, longitude_deg, 0.0)
    east = away @ [-math.sin(longitude), math.cos(longitude), 0.0]
    north = away @ [
        -math.sin(latitude) * math.cos(longitude),
        -math.sin(latitude) * math.sin(longitude),
        math.cos(latitude),
    ]
    length_m = geodesic_m(latitude_deg, longitude_deg, *points_deg)
    across_m = np.hypot(east, north)
    scale = np.divide(length_m, across_m, out=np.ones_like(across_m), where=across_m > 0)
    return np.asarray(np.stack([east * scale, north * scale], axis=-1), dtype=np.float64)


def moved_deg(
    latitude_deg: ArrayLike, longitude_deg: ArrayLike, east_m: ArrayLike, north_m: ArrayLike
) -> tuple[Float64, Float64]:
    """Latitudes and longitudes of the points at an offset from a place, as in `offset_m`."""
    distance_m, bearing = np.hypot(east_m, north_m), np.arctan2(east_m, north_m)
    reduced = np.arctan((1 - WGS84_F) * np.tan(np.radians(latitude_deg)))
    along, across = np.cos(bearing), np.sin(bearing)
    start = np.arctan2(np.tan(reduced), along)
    sine = np.cos(reduced) * across
    square = (1 - sine**2) * (WGS84_A_M**2 - WGS84_B_M**2) / WGS84_B_M**2
    a = 1 + square / 16384 * (4096 + square * (-768 + square * (320 - 175 * square)))
    b = square / 1024 * (256 + square * (-128 + square * (74 - 47 * square)))
    straight = distance_m / (WGS84_B_M * a)
    angle = straight
    for _ in range(8):
        middle = np.cos(2 * start + angle)
        change = middle + b / 4 * (
            np.cos(angle) * (2 * middle**2 - 1)
            - b / 6 * middle * (4 * np.sin(angle) ** 2 - 3) * (4 * middle**2 - 3)
        )
        angle = straight + b * np.sin(angle) * change
    middle = np.cos(2 * start + angle)
    up = np.sin(reduced) * np.cos(angle) + np.cos(reduced) * np.sin(angle) * along
    flat = np.hypot(sine, np.sin(reduced) * np.sin(angle) - np.cos(reduced) * np.cos(angle) * along)
    latitude = np.arctan2(up, (1 - WGS84_F) * flat)
    turn = np.arctan2(
        np.sin(angle) * across,
        np.cos(reduced) * np.cos(angle) - np.sin(reduced) * np.sin(angle) * along,
    )
    c = WGS84_F / 16 * (1 - sine**2) * (4 + WGS84_F * (4 - 3 * (1 - sine**2)))
    turn = turn - (1 - c) * WGS84_F * sine * (
        angle + c * np.sin(angle) * (middle + c * np.cos(angle) * (2 * middle**2 - 1))
    )
    longitude = np.asarray(longitude_deg, dtype=np.float64) + np.degrees(turn)
    return np.degrees(latitude), (longitude + 180.0) % 360.0 - 180.0
