"""Positions on the WGS84 ellipsoid, in metres.

Sources: NIMA TR8350.2 (2000) for the ellipsoid; EPSG Guidance Note 7-2 for geographic to
geocentric coordinates and the topocentric axes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SEMI_MAJOR_M = 6_378_137.0
_FLATTENING = 1 / 298.257223563
_ECCENTRICITY_SQUARED = _FLATTENING * (2 - _FLATTENING)


def earth_centred_m(position_deg: ArrayLike, height_m: ArrayLike) -> NDArray[np.float64]:
    """Return geocentric X, Y and Z in metres of points at a height above the ellipsoid.

    Shapes: `(..., 2)` latitude and longitude, and `(...)` heights, give `(..., 3)`.
    """
    latitude, longitude = np.moveaxis(np.radians(position_deg), -1, 0)
    height = np.asarray(height_m, dtype=np.float64)
    prime_vertical = _SEMI_MAJOR_M / np.sqrt(1 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2)
    across = (prime_vertical + height) * np.cos(latitude)
    up = ((1 - _ECCENTRICITY_SQUARED) * prime_vertical + height) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], axis=-1)


def slant_range_m(
    from_deg: ArrayLike, from_height_m: ArrayLike, to_deg: ArrayLike, to_height_m: ArrayLike
) -> NDArray[np.float64]:
    """Return the length of the straight line between two antennas, in metres.

    The line along the earth is longer by `d^3 / (24 R^2)`: 8 m in 200 km, 1 km in 1,000 km.
    Shapes: positions `(..., 2)` and heights `(...)`, which broadcast, give `(...)`.
    """
    apart = earth_centred_m(from_deg, from_height_m) - earth_centred_m(to_deg, to_height_m)
    distance: NDArray[np.float64] = np.linalg.norm(apart, axis=-1)
    return distance


def surface_distance_m(from_deg: ArrayLike, to_deg: ArrayLike) -> NDArray[np.float64]:
    """Return the length of the geodesic, the shortest line along the ellipsoid, in metres.

    Shapes: positions `(..., 2)`, which broadcast, give `(...)`.
    """
    # Imported here: straight lines, the usual ones, do not need it.
    from pyproj import Geod

    here, there = np.broadcast_arrays(from_deg, to_deg)
    ends = (here[..., 1], here[..., 0], there[..., 1], there[..., 0])
    return np.asarray(Geod(ellps="WGS84").inv(*ends)[2], dtype=np.float64)


def east_north_axes(origin_deg: ArrayLike) -> NDArray[np.float64]:
    """Return the unit vectors east and north at a point, in geocentric axes, `(2, 3)`."""
    latitude, longitude = np.radians(origin_deg)
    east = [-np.sin(longitude), np.cos(longitude), 0.0]
    north = [
        -np.sin(latitude) * np.cos(longitude),
        -np.sin(latitude) * np.sin(longitude),
        np.cos(latitude),
    ]
    return np.array([east, north])


def east_north_m(position_deg: ArrayLike, origin_deg: ArrayLike) -> NDArray[np.float64]:
    """Return metres east and north of the origin, in the tangent plane of the ellipsoid there.

    Shapes: `(..., 2)` positions and a `(2,)` origin give `(..., 2)`.
    """
    height = np.zeros(np.shape(position_deg)[:-1])
    from_origin = earth_centred_m(position_deg, height) - earth_centred_m(origin_deg, 0.0)
    return from_origin @ east_north_axes(origin_deg).T
