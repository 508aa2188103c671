"""Sources that stand at one place are one site, whatever they are called.

Two sources closer than a stated distance share a site, and so do all that are joined by a
chain of such pairs: the connected components of the graph of near pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["site_numbers"]

WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694_379_990_141_33e-3


def site_numbers(
    positions_deg: Sequence[tuple[float, float]], distance_m: float
) -> npt.NDArray[np.intp]:
    """A number for each position, equal where positions share a site.

    Args:
        positions_deg: Latitude and longitude of each source, in degrees on WGS84.
        distance_m: Sources this close or closer are at one site.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    points, place = np.unique(_ecef_m(positions_deg), axis=0, return_inverse=True)
    near = KDTree(points).query_pairs(distance_m, output_type="ndarray")
    ones = np.ones(len(near), np.int8)
    graph = coo_array((ones, (near[:, 0], near[:, 1])), shape=(len(points), len(points)))
    _, number = connected_components(graph, directed=False)
    return np.asarray(number[place.reshape(-1)], np.intp)


def _ecef_m(positions_deg: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Earth-centred coordinates on the ellipsoid, shape `(n, 3)`.

    Over a site's extent a straight line is as long as the geodesic.
    """
    latitude, longitude = np.radians(np.asarray(positions_deg, np.float64)).T
    radius = WGS84_A_M / np.sqrt(1 - WGS84_E2 * np.sin(latitude) ** 2)
    across = radius * np.cos(latitude)
    return np.stack(
        [
            across * np.cos(longitude),
            across * np.sin(longitude),
            radius * (1 - WGS84_E2) * np.sin(latitude),
        ],
        axis=1,
    )
