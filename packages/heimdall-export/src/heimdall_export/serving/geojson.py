"""Estimates as GeoJSON: a point and its error ellipse, for any map.

Sources: H. Butler et al., RFC 7946 (2016), with its rule that a shape across the antimeridian is
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

    Ring = list[list[float]]

_WGS84_A_M = 6_378_137.0
_WGS84_E2 = 6.694_379_990_141_33e-3
_N_VERTICES = 72


def feature_collection(estimates: Iterable[Estimate], probability: float = 0.95) -> dict[str, Any]:
    """A point and an ellipse for each estimate, as a GeoJSON FeatureCollection.

    Args:
        estimates: Positions with their sigmas and correlations.
        probability: Probability that the transmitter is inside the ellipse.

    Raises:
        ExportError: The probability is not between 0 and 1, a correlation not between -1 and 1,
            a sigma negative, a figure NaN or infinite, or an ellipse holds a pole.
    """
    if not 0 < probability < 1:
        raise ExportError(f"the probability is {probability!r}; it must be between 0 and 1")
    features = []
    for number, estimate in enumerate(estimates):
        sigmas_m = (estimate.sigma_east_m, estimate.sigma_north_m)
        position = [estimate.longitude_deg, estimate.latitude_deg]
        figures = (*position, *sigmas_m, estimate.unexplained or 0)
        if not all(map(math.isfinite, figures)) or min(sigmas_m) < 0:
            raise ExportError(f"cannot draw {estimate}: a figure is not finite or a sigma negative")
        if not abs(estimate.correlation) <= 1:
            raise ExportError(
                f"the correlation is {estimate.correlation!r}; it must be between -1 and 1"
            )
        names = ("sigma_east_m", "sigma_north_m", "correlation", "unexplained")
        known = {name: getattr(estimate, name) for name in names}
        properties = {"estimate": number} | {n: v for n, v in known.items() if v is not None}
        for geometry, further in (
            ({"type": "Point", "coordinates": position}, {}),
            (_ellipse(estimate, probability), {"probability": probability}),
        ):
            features.append(
                {"type": "Feature", "geometry": geometry, "properties": properties | further}
            )
    return {"type": "FeatureCollection", "features": features}


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Length of a degree north and of a degree east, at a latitude on the ellipsoid."""
    sine = math.sin(math.radians(latitude_deg))
    across_m = _WGS84_A_M / math.sqrt(1 - _WGS84_E2 * sine**2)
    along_m = across_m * (1 - _WGS84_E2) / (1 - _WGS84_E2 * sine**2)
    return math.radians(along_m), math.radians(across_m * math.cos(math.radians(latitude_deg)))


def _ellipse(estimate: Estimate, probability: float) -> dict[str, Any]:
    """The ellipse as a polygon, or as two where it crosses the antimeridian."""
    latitude_deg, longitude_deg = estimate.latitude_deg, estimate.longitude_deg
    sigmas = math.sqrt(-2 * math.log1p(-probability))
    north_m, east_m = metres_per_degree(latitude_deg)
    north_deg = sigmas * estimate.sigma_north_m / north_m
    if abs(latitude_deg) + north_deg >= 90 or sigmas * estimate.sigma_east_m / east_m >= 180:
        raise ExportError(
            f"the ellipse around {latitude_deg:.2f}, {longitude_deg:.2f} holds a pole; a map in "
            "degrees cannot show it"
        )
    ring = [
        [longitude_deg + sigmas * east / east_m, latitude_deg + sigmas * north / north_m]
        for east, north in _outline(estimate)
    ]
    parts = [part + part[:1] for part in _cut(ring) if part]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts}
    return {"type": "MultiPolygon", "coordinates": [[part] for part in parts]}


def _outline(estimate: Estimate) -> Iterator[tuple[float, float]]:
    """Metres east and north of the centre, all around at one standard deviation.

    The axes are the roots of the covariance's eigenvalues; the tilt of the longer one is from
    east towards north, in radians.
    """
    east, north, correlation = estimate.sigma_east_m, estimate.sigma_north_m, estimate.correlation
    half_difference, covariance = (east**2 - north**2) / 2, correlation * east * north
    major_m = math.sqrt((east**2 + north**2) / 2 + math.hypot(half_difference, covariance))
    # From the determinant: a difference of eigenvalues of a thin ellipse is only rounding error.
    minor_m = east * north * math.sqrt((1 - correlation) * (1 + correlation)) / (major_m or 1.0)
    tilt = math.atan2(covariance, half_difference) / 2
    for vertex in range(_N_VERTICES):
        angle = 2 * math.pi * vertex / _N_VERTICES
        along, across = major_m * math.cos(angle), minor_m * math.sin(angle)
        yield (
            along * math.cos(tilt) - across * math.sin(tilt),
            along * math.sin(tilt) + across * math.cos(tilt),
        )


def _cut(ring: Ring) -> Iterator[Ring]:
    """The parts of a ring in each turn of longitude, moved into -180 to 180."""
    first, last = (math.floor((end(x for x, _ in ring) + 180) / 360) for end in (min, max))
    for turn in range(first, last + 1):
        part = _clip(_clip(ring, 360 * turn - 180, 1), 360 * turn + 180, -1)
        yield [[x - 360 * turn, y] for x, y in part]


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
