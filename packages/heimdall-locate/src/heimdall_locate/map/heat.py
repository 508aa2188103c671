"""The posterior as small pictures that the page's heat map samples.

A pixel says how little of the probability is denser: 1 at the densest place, 0 outside. That makes
one scale of colours serve a region of a hundred metres and one of a thousand kilometres. Around
each candidate lie pictures within pictures, since the tails of a posterior may reach a hundred
times farther than its core. They lie in the azimuthal equidistant plane of the candidate, along
the axes of its ellipse, on the sphere that the page draws.

Source: J. P. Snyder, "Map Projections: A Working Manual", USGS 1395 (1987), pp. 191-202.
"""

import base64
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from heimdall_locate.position import Candidate, Position, nearest_candidate

Float64 = NDArray[np.float64]

N_PIXELS: Final = 128
"""A side of a picture."""
WHOLE: Final = 0.995
"""Probability of the region that the widest picture must show."""
CORE: Final = 0.5
"""Probability of the region that the narrowest picture shows, with as much around it again."""
_STEP: Final = 5.0
"""Size of a picture, in that of the next narrower one, at most."""
_LEAST_PROBABILITY: Final = 0.005
"""Of a candidate with pictures."""
_THINNER: Final = 0.1
"""What a pixel must miss of a cell in it to be raised: the posterior is thinner than a pixel."""
_AROUND: Final = 0.7
"""Distance from the middle of a picture up to which cells count, in sides of the picture."""
_EARTH_M: Final = 6_371_000.0


def heat_pictures(position: Position) -> list[list[dict[str, Any]]]:
    """Pictures for the page, those of one candidate together, the widest first.

    Each has a centre, the bearing of its first axis, its extents in radians, and pixels: bytes in
    base64, along the first axis fastest. They are square roots, 255 for 1, since the edge of the
    region needs the finest steps.
    """
    cells = position.cells
    order = np.argsort(-cells.log_density, kind="stable")
    shown = np.empty(len(order))
    shown[order] = 1 - np.cumsum(cells.probability[order]) + cells.probability[order] / 2
    owner = nearest_candidate(position.candidates, cells)
    found = []
    for number, one in enumerate(position.candidates):
        if number > 0 and one.probability < _LEAST_PROBABILITY:
            continue
        mine = owner == number
        bearing = math.radians(one.ellipse(1.0).bearing_deg)
        plane = _to_plane(one, bearing, cells.latitude_deg[mine], cells.longitude_deg[mine])
        found.append(
            [
                {
                    "at": [one.latitude_deg, one.longitude_deg],
                    "bearing": bearing,
                    "extents": extents.tolist(),
                    "n": N_PIXELS,
                    "pixels": base64.b64encode(pixels.tobytes()).decode("ascii"),
                }
                for extents, pixels in _nested(plane, shown[mine], cells.width_m[mine] / _EARTH_M)
            ]
        )
    return found


def _nested(
    plane: Float64, shown: Float64, width: Float64
) -> Iterator[tuple[Float64, NDArray[np.uint8]]]:
    """Extents, `(2, 2)`, and pixels of a candidate's pictures, the widest first.

    Args:
        plane: Places of its cells, `(n, 2)` radians.
        shown: Value of each cell.
        width: Side of each cell, radians.
    """
    if not len(shown):
        return
    whole, core = (
        _extents(plane[inside], width[inside])
        for inside in (shown >= min(1 - held, shown.max()) for held in (WHOLE, CORE))
    )
    size = np.ptp(core, axis=1)
    core = core + np.stack([-size / 2, size / 2], axis=1)
    core = np.clip(core, whole[:, :1], whole[:, 1:])
    ratio = np.ptp(whole, axis=1) / np.ptp(core, axis=1)
    n_steps = math.ceil(math.log(ratio.max()) / math.log(_STEP))
    for step in range(n_steps + 1):
        # From the whole to the core, each size the same share of the one before.
        share = ratio ** (-step / max(n_steps, 1))
        moved = np.divide(share - 1 / ratio, 1 - 1 / ratio, out=np.ones(2), where=ratio > 1)
        extents = core + (whole - core) * moved[:, None]
        yield extents, _pixels(extents, plane, shown)


def _extents(plane: Float64, width: Float64) -> Float64:
    """Least and greatest coordinate of cells, with the widest one's half around: `(2, 2)`."""
    margin = max(width.max() / 2, 1 / _EARTH_M)
    return np.stack([plane.min(axis=0) - margin, plane.max(axis=0) + margin], axis=1)


def _pixels(extents: Float64, plane: Float64, shown: Float64) -> NDArray[np.uint8]:
    """One picture, `(N_PIXELS, N_PIXELS)`."""
    scaled = (plane - extents[:, 0]) / np.ptp(extents, axis=1)
    around = np.flatnonzero((np.abs(scaled - 0.5) < _AROUND).all(axis=1))
    # One cell a pixel is enough: the one with the greatest value.
    around = around[np.argsort(-shown[around], kind="stable")]
    pixel = np.floor(scaled[around] * N_PIXELS).astype(np.intp) @ [1, 4 * N_PIXELS]
    around = around[np.unique(pixel, return_index=True)[1]]
    line = np.linspace(0, 1, N_PIXELS)
    values = _between(scaled[around], shown[around], np.stack(np.meshgrid(line, line), axis=-1))
    inside = (np.abs(scaled - 0.5) <= 0.5).all(axis=1)
    column, row = np.rint(scaled[inside] * (N_PIXELS - 1)).astype(np.intp).T
    thin = shown[inside] - values[row, column] > _THINNER
    np.maximum.at(values, (row[thin], column[thin]), shown[inside][thin])
    roots = np.sqrt(np.clip(values, 0, 1))
    return np.asarray(np.rint(255 * roots), dtype=np.uint8)


def _to_plane(
    centre: Candidate, bearing: float, latitude_deg: Float64, longitude_deg: Float64
) -> Float64:
    """Radians along a bearing from the centre, and to the right of it: `(n, 2)`."""
    latitude, turn = np.radians(latitude_deg), np.radians(longitude_deg - centre.longitude_deg)
    at = math.radians(centre.latitude_deg)
    # From differences of latitudes, which do not round where points are near.
    half = 2 * np.cos(latitude) * np.sin(turn / 2) ** 2
    east = np.cos(latitude) * np.sin(turn)
    north = np.sin(latitude - at) + math.sin(at) * half
    across = np.hypot(east, north)
    angle = np.arctan2(across, np.cos(latitude - at) - math.cos(at) * half)
    scale = np.divide(angle, across, out=np.ones_like(across), where=across > 0)
    along = north * math.cos(bearing) + east * math.sin(bearing)
    right = east * math.cos(bearing) - north * math.sin(bearing)
    return np.stack([along * scale, right * scale], axis=-1)


def _between(points: Float64, values: Float64, places: Float64) -> Float64:
    """Values at places, linear on the triangles between points; 0 where there are none."""
    from scipy.spatial import Delaunay, QhullError  # not for those who draw no map

    try:
        # Joggled, as the search of a place stalls at triangles without an area.
        triangles = Delaunay(points, qhull_options="Qbb QJ")
    except (QhullError, ValueError):
        return np.zeros(places.shape[:-1])  # too few points, or all on one line
    found = triangles.find_simplex(places)
    transform = triangles.transform[found]
    two = np.einsum("...ij,...j->...i", transform[..., :2, :], places - transform[..., 2, :])
    weights = np.concatenate([two, 1 - two.sum(axis=-1, keepdims=True)], axis=-1)
    held = (weights * values[triangles.simplices[found]]).sum(axis=-1)
    return np.where(found >= 0, held, 0.0)
