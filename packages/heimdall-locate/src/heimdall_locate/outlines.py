"""Outlines of ellipses on the globe, and shapes cut for maps in degrees.

Sources: H. Butler et al., RFC 7946 (2016), with its rule that a shape across the antimeridian is
cut there; I. E. Sutherland and G. W. Hodgman, "Reentrant polygon clipping", CACM 17 (1974).
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from heimdall_locate.position import Ellipse
from heimdall_locate.sites import moved_deg

Float64 = NDArray[np.float64]
Ring = list[list[float]]
"""Longitudes and latitudes in degrees."""

_N_VERTICES: Final = 72
_FARTHEST_M: Final = 19_900_000.0
"""A point farther off would be on the other side of the antipode."""


def ellipse_outline(latitude_deg: float, longitude_deg: float, ellipse: Ellipse) -> Float64:
    """Vertices all around an ellipse: `(72, 2)` latitudes and longitudes in degrees.

    An axis longer than half the Earth's girth ends there.
    """
    angle = 2 * np.pi * np.arange(_N_VERTICES) / _N_VERTICES
    along_m = min(ellipse.semi_major_m, _FARTHEST_M) * np.cos(angle)
    across_m = min(ellipse.semi_minor_m, _FARTHEST_M) * np.sin(angle)
    bearing = math.radians(ellipse.bearing_deg)
    east_m = along_m * math.sin(bearing) - across_m * math.cos(bearing)
    north_m = along_m * math.cos(bearing) + across_m * math.sin(bearing)
    return np.stack(moved_deg(latitude_deg, longitude_deg, east_m, north_m), axis=-1)


def polygon(outline: Float64) -> list[Ring]:
    """A closed outline, `(n, 2)` in degrees, as rings for a map whose edges are the antimeridian.

    Each ring ends with its first point and runs counterclockwise. There are several where the
    outline crosses the antimeridian. A shape around a pole is closed along the antimeridian and
    the pole itself.
    """
    latitude_deg, longitude_deg = outline.T
    turns = (np.diff(longitude_deg, append=longitude_deg[0]) + 180) % 360 - 180
    unrolled = longitude_deg[0] + np.concatenate([[0.0], np.cumsum(turns)])
    ring = [[float(x), float(y)] for x, y in zip(unrolled, latitude_deg, strict=False)]
    if abs(turns.sum()) > 180:
        # The outline goes once around the axis, and comes back to its first point a turn away.
        pole_deg = math.copysign(90.0, float(latitude_deg.mean()))
        first, last = float(unrolled[0]), float(unrolled[-1])
        ring += [[last, float(latitude_deg[0])], [last, pole_deg], [first, pole_deg]]
    west, east = min(x for x, _ in ring), max(x for x, _ in ring)
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.floor((east + 180) / 360) + 1):
        low, high = 360 * turn - 180, 360 * turn + 180
        part = ring if low <= west and east <= high else _clip(_clip(ring, low, 1), high, -1)
        if not part:
            continue
        x, y = (np.subtract(axis, axis[0]) for axis in zip(*part, strict=True))
        area = float(x[:-1] @ y[1:] - x[1:] @ y[:-1])
        if area != 0:
            moved = [[x - 360 * turn, y] for x, y in (part if area > 0 else part[::-1])]
            parts.append(moved + moved[:1])
    return parts


def _clip(ring: Ring, meridian_deg: float, side: int) -> Ring:
    """The part of a ring east (1) or west (-1) of a meridian."""
    kept: Ring = []
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        inside, next_inside = side * (x0 - meridian_deg) >= 0, side * (x1 - meridian_deg) >= 0
        if inside:
            kept.append([x0, y0])
        if inside != next_inside:
            kept.append([meridian_deg, y0 + (y1 - y0) * (meridian_deg - x0) / (x1 - x0)])
    return kept
