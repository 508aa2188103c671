"""The map's plane: kilometres east and north of the region's centre.

Azimuthal equidistant on the WGS84 ellipsoid: distance and bearing from the centre are true, and
every point on Earth has a place, so that any estimate can be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models.metrics import offset_east_north_m

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_models import Region
    from numpy.typing import ArrayLike, NDArray

_STEPS_DEG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LARGEST_KM = 900.0


def to_km(region: Region, position_deg: ArrayLike) -> NDArray[np.float64]:
    """(n, 2) east and north in kilometres of (n, 2) latitudes and longitudes in degrees."""
    points = np.asarray(position_deg, dtype=np.float64).reshape(-1, 2)
    centre = np.broadcast_to([region.latitude_deg, region.longitude_deg], points.shape)
    return np.asarray(offset_east_north_m(centre, points), dtype=np.float64) / 1000


def outline_km(region: Region) -> NDArray[np.float64]:
    """The closed border of the region, (n, 2)."""
    side, one = np.linspace(-1, 1, 24), np.ones(24)
    east = np.concatenate([side, one, -side, -one])
    north = np.concatenate([-one, side, one, -side])
    return to_km(region, region.to_degrees(np.stack([east, north], axis=1)))


@dataclass(frozen=True, slots=True)
class Frame:
    """Edges of the picture, in kilometres."""

    west: float
    east: float
    south: float
    north: float

    @classmethod
    def around(cls, points_km: NDArray[np.float64], shape: tuple[float, float]) -> Frame:
        """A frame with room around points (n, 2), n at least 1.

        `shape` is the least and the greatest height of the picture for a width of 1.
        """
        low = np.maximum(points_km.min(axis=0), -_LARGEST_KM)
        high = np.minimum(points_km.max(axis=0), _LARGEST_KM)
        width, height = np.maximum((high - low) * 1.14, 2.0)
        width, height = max(width, height / shape[1]), max(height, width * shape[0])
        (x, y), half = (low + high) / 2, (width / 2, height / 2)
        return cls(x - half[0], x + half[0], y - half[1], y + half[1])

    @property
    def width(self) -> float:
        """Kilometres from west to east."""
        return self.east - self.west

    @property
    def height(self) -> float:
        """Kilometres from south to north."""
        return self.north - self.south

    def share_of(self, point_km: ArrayLike) -> tuple[float, float]:
        """Distances of a point (2,) from left and top, as shares of the picture's size."""
        x, y = np.asarray(point_km)
        return float((x - self.west) / self.width), float((self.north - y) / self.height)

    def holds(
        self, points_km: ArrayLike, margin_km: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.bool_]:
        """(n,): true for points (n, 2) in the picture without a margin, east and north."""
        centre = np.array([self.west + self.east, self.south + self.north]) / 2
        reach = np.array([self.width, self.height]) / 2 - margin_km
        inside = (np.abs(np.asarray(points_km) - centre) <= reach).all(axis=1)
        return np.asarray(inside, dtype=np.bool_)


def graticule(region: Region, frame: Frame) -> Iterator[tuple[str, bool, NDArray[np.float64]]]:
    """Meridians and parallels at a step that leaves about four of each.

    Each is a label, true for a meridian, and points (n, 2) in kilometres.
    """
    corners = np.array(
        [[x, y] for y in (frame.south, frame.north) for x in (frame.west, frame.east)]
    )
    latitudes, longitudes = region.to_degrees(corners * 1000 / region.scale_m).T
    longitudes = region.longitude_deg + ((longitudes - region.longitude_deg + 180) % 360 - 180)
    for is_meridian in (True, False):
        degrees, along = (longitudes, latitudes) if is_meridian else (latitudes, longitudes)
        step, margin = round_step(float(np.ptp(degrees)) / 4), 0.1 * float(np.ptp(along))
        ends = np.linspace(float(along.min()) - margin, float(along.max()) + margin, 30)
        for k in range(math.ceil(degrees.min() / step), math.floor(degrees.max() / step) + 1):
            line = (ends, np.full(30, k * step)) if is_meridian else (np.full(30, k * step), ends)
            label = _label(k * step, step, "EW" if is_meridian else "NS")
            yield label, is_meridian, to_km(region, np.stack(line, axis=1))


def round_step(wanted: float) -> float:
    """The round number of degrees nearest to the wanted step, by ratio."""
    return min(_STEPS_DEG, key=lambda step: abs(math.log(step / max(wanted, 1e-6))))


def _label(degrees: float, step: float, signs: str) -> str:
    wrapped = (degrees + 180) % 360 - 180
    decimals = max(0, -math.floor(math.log10(step)))
    side = signs[0] if wrapped >= 0 else signs[1]
    return f"{abs(wrapped):.{decimals}f}\N{DEGREE SIGN}\N{NO-BREAK SPACE}{side}"
