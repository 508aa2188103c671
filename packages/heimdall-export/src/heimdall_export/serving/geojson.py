"""Estimates as GeoJSON: a point and its error ellipse, for any map.

Sources: H. Butler et al., RFC 7946 (2016), with its rule that what crosses the antimeridian is
cut there. An ellipse of probability p has the axes `sigma * sqrt(-2 ln(1 - p))` (the radius of a
two-dimensional normal distribution is Rayleigh's), along the eigenvectors of the covariance: the
rotation that makes two by two diagonal is C. G. J. Jacobi's (J. reine angew. Math. 30, 1846).
Metres become degrees by the WGS84 radii of curvature in the meridian and the prime vertical at the
estimate: J. P. Snyder, "Map Projections", USGS 1395 (1987), p. 24 f.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from heimdall_export.serving.predictor import Estimate

__all__ = ["feature_collection"]

WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694_379_990_141_33e-3
N_VERTICES = 72

Ring = list[list[float]]


def feature_collection(estimates: Iterable[Estimate], probability: float = 0.95) -> dict[str, Any]:
    """A point and an ellipse for each estimate, as a GeoJSON FeatureCollection.

    Args:
        estimates: Positions with their sigmas and correlations.
        probability: That the transmitter is inside the ellipse.

    Raises:
        ExportError: The probability is not between 0 and 1, a correlation not between -1 and 1,
            a sigma negative, a figure NaN or infinite, or an ellipse holds a pole.
    """
    if not 0 < probability < 1:
        raise ExportError(f"the probability is {probability!r}; it must be between 0 and 1")
    features = []
    for number, estimate in enumerate(estimates):
        _require_figures(estimate)
        properties = {"estimate": number, **_said(estimate)}
        point = {
            "type": "Point",
            "coordinates": [estimate.longitude_deg, estimate.latitude_deg],
        }
        features.append(_feature(point, properties))
        features.append(
            _feature(_ellipse(estimate, probability), {**properties, "probability": probability})
        )
    return {"type": "FeatureCollection", "features": features}


def _require_figures(estimate: Estimate) -> None:
    sigmas_m = (estimate.sigma_east_m, estimate.sigma_north_m)
    figures = (estimate.latitude_deg, estimate.longitude_deg, *sigmas_m, estimate.unexplained or 0)
    if not all(map(math.isfinite, figures)) or min(sigmas_m) < 0:
        raise ExportError(f"{estimate} cannot be drawn: it needs numbers, and no sigma below 0")


def _said(estimate: Estimate) -> dict[str, float]:
    """What a map may show of an estimate beside its place."""
    said = {
        "sigma_east_m": estimate.sigma_east_m,
        "sigma_north_m": estimate.sigma_north_m,
        "correlation": estimate.correlation,
    }
    if estimate.unexplained is not None:
        said["unexplained"] = estimate.unexplained
    return said


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
    ring = [
        [
            estimate.longitude_deg + sigmas * east / east_m,
            estimate.latitude_deg + sigmas * north / north_m,
        ]
        for east, north in _outline(estimate)
    ]
    parts = [part for part in map(_closed, _cut(ring)) if part]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _outline(estimate: Estimate) -> Iterator[tuple[float, float]]:
    """Metres east and north of the centre, all around at one standard deviation."""
    major_m, minor_m, tilt = _axes(estimate)
    for vertex in range(N_VERTICES):
        angle = 2 * math.pi * vertex / N_VERTICES
        along, across = major_m * math.cos(angle), minor_m * math.sin(angle)
        yield (
            along * math.cos(tilt) - across * math.sin(tilt),
            along * math.sin(tilt) + across * math.cos(tilt),
        )


def _axes(estimate: Estimate) -> tuple[float, float, float]:
    """Standard deviations along the longer and the shorter axis, and the tilt of the longer one.

    They are the roots of the covariance's eigenvalues; the tilt is from east towards north, in
    radians.
    """
    east, north, correlation = estimate.sigma_east_m, estimate.sigma_north_m, estimate.correlation
    if not abs(correlation) <= 1:
        raise ExportError(f"the correlation is {correlation!r}; it must be between -1 and 1")
    half_difference, covariance = (east**2 - north**2) / 2, correlation * east * north
    major_m = math.sqrt((east**2 + north**2) / 2 + math.hypot(half_difference, covariance))
    # By the determinant: a difference would leave nothing of a thin ellipse but rounding.
    minor_m = east * north * math.sqrt((1 - correlation) * (1 + correlation)) / (major_m or 1.0)
    return major_m, minor_m, math.atan2(covariance, half_difference) / 2


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
