"""Distances between places, which know that 180 and -180 degrees are one meridian.

Source: R. W. Sinnott, "Virtues of the haversine", Sky and Telescope 68 (1984), p. 159.
"""

from __future__ import annotations

import math

_EARTH_RADIUS_M = 6_371_009


def is_near_deg(one_deg: float, other_deg: float, within_deg: float) -> bool:
    """Return True for two latitudes, or two longitudes, at most so far apart."""
    apart_deg = abs(one_deg - other_deg)
    return min(apart_deg, abs(apart_deg - 360)) <= within_deg


def great_circle_m(one_deg: tuple[float, float], other_deg: tuple[float, float]) -> float:
    """Return metres along a sphere between two latitudes and longitudes; good to half a percent."""
    (lat1, lon1), (lat2, lon2) = (map(math.radians, place) for place in (one_deg, other_deg))
    half = math.sin((lat2 - lat1) / 2) ** 2
    half += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))
