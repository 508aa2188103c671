"""Make the world of the map, `heimdall_locate/map/world.json`, from Natural Earth's GeoJSON.

    python make_world.py FOLDER ../src/heimdall_locate/map/world.json

FOLDER holds the files of Natural Earth (https://www.naturalearthdata.com, public domain) that
the constants below name, as GeoJSON. The shapes are simplified (D. H. Douglas and T. K. Peucker,
"Algorithms for the reduction of the number of points required to represent a digitized line or its
caricature", Cartographica 10, 1973) and quantised. A line is the differences of its longitudes and
latitudes in steps of `STEP_DEG`, each zigzag coded in digits of five bits, least first, where a
sixth bit says that more follow; digits are letters of base64's URL alphabet.
"""

import json
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.float64]
"""Longitudes and latitudes in degrees, `(n, 2)`."""

STEP_DEG = 0.01
"""About a kilometre, which is a millimetre on a map of one to a million."""
TOLERANCE_KM = 0.9
KM_PER_DEG = 111.2
SMALLEST_LAKE_KM = 20.0
"""Extent of the smallest lake, to spare bytes."""
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LAND = "ne_10m_land.json"
LAKES = "ne_10m_lakes.json"
BORDERS = "ne_10m_admin_0_boundary_lines_land.json"
PLACES = "ne_10m_populated_places_simple.json"
N_PLACES = 2500
"""The most important ones; a name takes about 15 bytes."""


def rings_of(geometry: dict) -> Iterator[tuple[Line, bool]]:
    """Every ring of a geometry, and true for those that are holes."""
    parts = geometry["coordinates"]
    for rings in parts if geometry["type"] == "MultiPolygon" else [parts]:
        for number, ring in enumerate(rings):
            yield np.asarray(ring, dtype=np.float64)[:, :2], number > 0


def lines_of(geometry: dict) -> Iterator[Line]:
    """Every line of a geometry."""
    parts = geometry["coordinates"]
    for line in parts if geometry["type"] == "MultiLineString" else [parts]:
        yield np.asarray(line, dtype=np.float64)[:, :2]


def joined(lines: list[Line]) -> list[Line]:
    """The lines, with those made one that meet where no third one ends."""
    ends: dict[tuple[float, ...], list[int]] = {}
    for number, line in enumerate(lines):
        for end in (line[0], line[-1]):
            ends.setdefault(tuple(end), []).append(number)
    whole = dict(enumerate(lines))
    # Number of the line that a line has become a part of.
    now = list(range(len(lines)))
    for point, meeting in ends.items():
        if len(meeting) != 2:
            continue
        one, other = (now[number] for number in meeting)
        if one == other:
            continue
        head, tail = whole[one], whole.pop(other)
        if tuple(head[-1]) != point:
            head = head[::-1]
        if tuple(tail[0]) != point:
            tail = tail[::-1]
        whole[one] = np.concatenate([head, tail[1:]])
        now = [one if number == other else number for number in now]
    return list(whole.values())


def simplified(line: Line) -> Line:
    """The line without the points that lie within the tolerance of a line without them.

    Points on the seam at 180 degrees stay, so that it can be told from a coast.
    """
    scaled = line * KM_PER_DEG
    scaled[:, 0] *= np.cos(np.radians(line[:, 1]))
    on_seam = (np.abs(line[:, 0]) > 180 - STEP_DEG / 2) | (line[:, 1] < -89.9)
    kept = on_seam.copy()
    kept[[0, -1]] = True
    if np.allclose(line[0], line[-1]):
        # A ring needs a second end: the point farthest from the first.
        kept[np.argmax(np.hypot(*(scaled - scaled[0]).T))] = True
    ends = np.flatnonzero(kept)
    stack = list(pairwise(ends))
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        base, between = scaled[last] - scaled[first], scaled[first + 1 : last] - scaled[first]
        share = np.clip(between @ base / max(float(base @ base), 1e-12), 0, 1)
        away = np.hypot(*(between - share[:, None] * base).T)
        if away.max() > TOLERANCE_KM:
            middle = first + 1 + int(np.argmax(away))
            kept[middle] = True
            stack += [(first, middle), (middle, last)]
    return line[kept]


def encoded(line: Line) -> str:
    """The quantised line as text; empty if nothing is left of it."""
    steps = np.rint(line / STEP_DEG).astype(int)
    moved = np.diff(steps, axis=0, prepend=[[0, 0]])
    moved = moved[np.r_[True, (moved[1:] != 0).any(axis=1)]]
    if len(moved) < 2:
        return ""
    text = []
    for value in moved.ravel().tolist():
        left = 2 * value if value >= 0 else -2 * value - 1
        while left >= 32:
            text.append(DIGITS[32 + left % 32])
            left //= 32
        text.append(DIGITS[left])
    return "".join(text)


def extent_km(line: Line) -> float:
    """Diagonal of the line's box."""
    east, north = np.ptp(line, axis=0) * KM_PER_DEG
    return math.hypot(east * math.cos(math.radians(float(line[:, 1].mean()))), north)


def geometries(path: Path) -> list[dict]:
    """Of all features but the mark at 0 degrees north and east."""
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return [
        feature["geometry"]
        for feature in features
        if feature["geometry"] and feature["properties"]["featurecla"] != "Null island"
    ]


def main(folder: Path, target: Path) -> None:
    """Write the file."""
    land = [ring for one in geometries(folder / LAND) for ring in rings_of(one)]
    lakes = [ring for one in geometries(folder / LAKES) for ring in rings_of(one)]
    layers = {
        "land": [ring for ring, hole in land if not hole],
        "lakes": [ring for ring, hole in land if hole]
        + [ring for ring, hole in lakes if not hole and extent_km(ring) >= SMALLEST_LAKE_KM],
        "islands": [ring for ring, hole in lakes if hole and extent_km(ring) >= SMALLEST_LAKE_KM],
        "borders": joined([line for one in geometries(folder / BORDERS) for line in lines_of(one)]),
    }
    world: dict = {"step_deg": STEP_DEG}
    for layer, lines in layers.items():
        found = [text for line in lines if (text := encoded(simplified(line)))]
        world[layer] = sorted(found, key=len, reverse=True)
        print(layer, len(lines), len(found), sum(map(len, found)))
    places = json.loads((folder / PLACES).read_text(encoding="utf-8"))["features"]
    ranked = sorted(
        (feature["properties"] for feature in places),
        key=lambda place: (place["min_zoom"], -place["pop_max"], place["name"]),
    )
    world["places"] = [
        [
            place["name"],
            round(place["latitude"], 2),
            round(place["longitude"], 2),
            round(place["min_zoom"], 1),
        ]
        for place in ranked[:N_PLACES]
    ]
    text = json.dumps(world, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")
    print(target, len(text.encode()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
