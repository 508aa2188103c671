"""Estimates as GeoJSON: a point and its error ellipse, for any map.

Sources: H. Butler et al., RFC 7946 (2016), with its rule that what crosses the antimeridian is
cut there. An ellipse of probability p has the axes `sigma * sqrt(-2 ln(1 - p))` (the radius of a
two-dimensional normal distribution is Rayleigh's). Metres become degrees by the WGS84 radii of
curvature in the meridian and the prime vertical at the estimate: J. P. Snyder, "Map Projections",
USGS 1395 (1987), p. 24 f.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_export.runtime import Estimate

__all__ = ["feature_collection"]

WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694_379_990_141_33e-3
N_VERTICES = 72

Ring = list[list[float]]


def feature_collection(estimates: Iterable[Estimate], probability: float = 0.95) -> dict[str, Any]:
    """A point and an ellipse for each estimate, as a GeoJSON FeatureCollection.

    Args:
        estimates: Positions with their sigmas.
        probability: That the transmitter is inside the ellipse.

    Raises:
        ExportError: The probability is not between 0 and 1, or an ellipse holds a pole.
    """
    if not 0 < probability < 1:
        raise ExportError(f"the probability is {probability!r}; it must be between 0 and 1")
    features = []
    for number, estimate in enumerate(estimates):
        properties = {
            "estimate": number,
            "sigma_east_m": estimate.sigma_east_m,
            "sigma_north_m": estimate.sigma_north_m,
        }
        point = {
            "type": "Point",
            "coordinates": [estimate.longitude_deg, estimate.latitude_deg],
        }
        features.append(_feature(point, properties))
        features.append(
            _feature(_ellipse(estimate, probability), {**properties, "probability": probability})
        )
    return {"type": "FeatureCollection", "features": features}


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _ellipse(estimate: Estimate, probability: float) -> dict[str, Any]:
    """The ellipse as a polygon, or as two where it crosses the antimeridian."""
    sigmas = math.sqrt(-2 * math.log1p(-probability))
    north_m, east_m = _metres_per_degree(estimate.latitude_deg)
    north_deg = sigmas * estimate.sigma_north_m / north_m
    east_deg = sigmas * estimate.sigma_east_m / east_m
    if abs(estimate.latitude_deg) + north_deg >= 90 or east_deg >= 180:
        raise ExportError(
            f"the ellipse around {estimate.latitude_deg:.2f}, {estimate.longitude_deg:.2f} holds "
            "a pole; a map in degrees cannot show it"
        )
    angles = (2 * math.pi * vertex / N_VERTICES for vertex in range(N_VERTICES))
    ring = [
        [
            estimate.longitude_deg + east_deg * math.cos(angle),
            estimate.latitude_deg + north_deg * math.sin(angle),
        ]
        for angle in angles
    ]
    parts = [part for part in map(_closed, _cut(ring)) if part]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """North and east, at a latitude on the ellipsoid."""
    sine = math.sin(math.radians(latitude_deg))
    across_m = WGS84_A_M / math.sqrt(1 - WGS84_E2 * sine**2)
    along_m = across_m * (1 - WGS84_E2) / (1 - WGS84_E2 * sine**2)
    return math.radians(along_m), math.radians(across_m * math.cos(math.radians(latitude_deg)))


def _cut(ring: Ring) -> list[Ring]:
    """The parts of a ring in each turn of longitude, moved into -180 to 180."""
    turns = range(
        math.floor((min(x for x, _ in ring) + 180) / 360),
        math.floor((max(x for x, _ in ring) + 180) / 360) + 1,
    )
    return [
        [
            [x - 360 * turn, y]
            for x, y in _clip(_clip(ring, 360 * turn - 180, 1), 360 * turn + 180, -1)
        ]
        for turn in turns
    ]


def _clip(ring: Ring, meridian: float, side: int) -> Ring:
    """The part east (1) or west (-1) of a meridian (Sutherland and Hodgman, CACM 17, 1974)."""
    kept: Ring = []
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        inside, next_inside = side * (x0 - meridian) >= 0, side * (x1 - meridian) >= 0
        if inside:
            kept.append([x0, y0])
        if inside != next_inside:
            kept.append([meridian, y0 + (y1 - y0) * (meridian - x0) / (x1 - x0)])
    return kept


def _closed(ring: Ring) -> Ring:
    return ring + ring[:1]
