"""A region: the part of the Earth where a model works, and the plane in which it computes.

The plane touches the WGS84 ellipsoid at the region's centre. Everything outside the network is in
degrees, in float64: a float32 longitude is 0.4 m coarse. East and north are those of the usual
east-north-up frame (an orthographic projection). Back from the plane, "up" is the root of a
quadratic, because the point must lie on the ellipsoid. With longitudes counted from the origin, the
origin lies in the x-z plane:

    x = p cos(dlon)    y = p sin(dlon) = east    z = (1 - e^2) N sin(lat),  p = N cos(lat)

Written by hand and not with PROJ, because the way back is part of exported graphs: the same
arithmetic serves NumPy arrays and torch tensors.

Source: P. Misra and P. Enge, "Global Positioning System", 2nd ed. (2006), section 4.A (geodetic
to Cartesian, east-north-up); constants of NIMA TR8350.2, "World Geodetic System 1984" (2000).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple, dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray

Array = TypeVar("Array", "NDArray[np.float64]", "torch.Tensor")

SEMI_MAJOR_M = 6_378_137.0
FLATTENING = 1 / 298.257_223_563
ECCENTRICITY_SQUARED = FLATTENING * (2 - FLATTENING)
_AXES_SQUARED = 1 / (1 - ECCENTRICITY_SQUARED)
"""(semi-major / semi-minor axis) squared."""

MAX_LATITUDE_DEG = 85.0
"""Nearer to a pole, east and north turn too fast for one plane."""
MIN_SCALE_M = 1_000.0
MAX_SCALE_M = 500_000.0
"""Half-width of the largest region: lengths in the plane are then at most 0.6 % short."""
REACH_M = 1_000_000.0
"""Positions farther than this from the centre are refused: 1.2 % short and growing."""


@dataclass(frozen=True, slots=True)
class Region:
    """A local tangent plane of the WGS84 ellipsoid, with its unit of length.

    Raises:
        ModelError: If the centre is not on Earth or within 5 degrees of a pole, or the scale is
            not from 1 to 500 km.
    """

    latitude_deg: float
    """Centre, degrees north."""
    longitude_deg: float
    """Centre, degrees east."""
    scale_m: float
    """Metres per plane unit, also the region's half-width."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, astuple(self))) or abs(self.longitude_deg) > 180:
            raise ModelError(f"{self}: give finite numbers, longitudes from -180 to 180 degrees")
        if abs(self.latitude_deg) > MAX_LATITUDE_DEG:
            raise ModelError(
                f"region centred at latitude {self.latitude_deg:.4f}: too near a pole for one "
                f"plane; keep it within {MAX_LATITUDE_DEG:.0f} degrees"
            )
        if not MIN_SCALE_M <= self.scale_m <= MAX_SCALE_M:
            raise ModelError(
                f"region scale {self.scale_m:.0f} m: a plane serves half-widths from "
                f"{MIN_SCALE_M:.0f} to {MAX_SCALE_M:.0f} m; split a larger area into several models"
            )

    @classmethod
    def around(
        cls, latitudes_deg: ArrayLike, longitudes_deg: ArrayLike, margin: float = 0.05
    ) -> Region:
        """The smallest square region that holds the points, widened by a share `margin`.

        Points are WGS84, `(n,)` each; a region may straddle the 180th meridian.

        Raises:
            ModelError: If there is no point, or no plane serves them all.
        """
        latitudes = np.asarray(latitudes_deg, dtype=np.float64).ravel()
        longitudes = np.asarray(longitudes_deg, dtype=np.float64).ravel()
        if latitudes.size == 0 or latitudes.size != longitudes.size:
            raise ModelError(
                f"a region needs as many latitudes as longitudes, at least one; "
                f"got {latitudes.size} and {longitudes.size}"
            )
        points = _checked(np.stack([latitudes, longitudes], axis=-1))
        from_first = _wrapped(longitudes - longitudes[0])
        longitude = longitudes[0] + (from_first.min() + from_first.max()) / 2
        latitude = (latitudes.min() + latitudes.max()) / 2
        centre = cls(float(latitude), float(_wrapped(longitude)), MIN_SCALE_M)
        reach = float(np.abs(centre.to_plane(points)).max()) * MIN_SCALE_M
        scale_m = max(reach * (1 + margin), MIN_SCALE_M)
        return cls(centre.latitude_deg, centre.longitude_deg, scale_m)

    @property
    def _origin(self) -> tuple[float, float, float, float]:
        """Sine, cosine of the centre's latitude; its metres from the axis and the equator."""
        latitude = math.radians(self.latitude_deg)
        sin, cos = math.sin(latitude), math.cos(latitude)
        normal_m = SEMI_MAJOR_M / math.sqrt(1 - ECCENTRICITY_SQUARED * sin**2)
        return sin, cos, normal_m * cos, normal_m * (1 - ECCENTRICITY_SQUARED) * sin

    def to_plane(self, position_deg: ArrayLike) -> NDArray[np.float64]:
        """East and north in plane units of latitude and longitude (WGS84); `(..., 2)` both.

        Raises:
            ModelError: If a position is not on Earth or too far away for a plane.
        """
        position = _checked(position_deg)
        latitude = np.radians(position[..., 0])
        longitude = np.radians(position[..., 1] - self.longitude_deg)
        sin_0, cos_0, p_0, z_0 = self._origin
        sin, cos = np.sin(latitude), np.cos(latitude)
        normal_m = SEMI_MAJOR_M / (1 - ECCENTRICITY_SQUARED * sin**2) ** 0.5
        across = normal_m * cos * np.cos(longitude) - p_0
        along = normal_m * (1 - ECCENTRICITY_SQUARED) * sin - z_0
        east = normal_m * cos * np.sin(longitude)
        north, up = along * cos_0 - across * sin_0, across * cos_0 + along * sin_0
        away_m = np.sqrt(east**2 + north**2 + up**2)
        if np.any(away_m > REACH_M):
            far = np.unravel_index(np.argmax(away_m), away_m.shape)
            raise ModelError(
                f"position {_degrees(position[far])} is {away_m[far] / 1000:.0f} km from the "
                f"region's centre {_degrees((self.latitude_deg, self.longitude_deg))}; one plane "
                f"serves {REACH_M / 1000:.0f} km; leave it out or train another region's model"
            )
        return np.stack([east, north], axis=-1) / self.scale_m

    def to_degrees(self, units: ArrayLike) -> NDArray[np.float64]:
        """Latitude and longitude in degrees (WGS84) of plane units; `(..., 2)` both.

        NaN beyond the Earth's limb, 6,357 km from the centre.
        """
        east_m, north_m = np.moveaxis(np.asarray(units, dtype=np.float64), -1, 0) * self.scale_m
        with np.errstate(invalid="ignore"):
            latitude, longitude = self.angles(east_m, north_m)
        return np.stack(
            [
                self.latitude_deg + np.degrees(np.arctan2(*latitude)),
                _wrapped(self.longitude_deg + np.degrees(np.arctan2(*longitude))),
            ],
            axis=-1,
        )

    def angles(
        self, east_m: Array, north_m: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Latitude and longitude from the origin, each as (opposite, adjacent) of its tangent.

        NaN beyond the Earth's limb, where no point of the ellipsoid lies under the plane.
        """
        sin_0, cos_0, p_0, z_0 = self._origin
        x, z = p_0 - north_m * sin_0, z_0 + north_m * cos_0
        # (x + up cos_0)^2 + east^2 + k (z + up sin_0)^2 = a^2, written a up^2 + 2 b up + c = 0.
        a = cos_0**2 + _AXES_SQUARED * sin_0**2
        b = x * cos_0 + _AXES_SQUARED * z * sin_0
        c = x**2 + east_m**2 + _AXES_SQUARED * z**2 - SEMI_MAJOR_M**2
        up = -c / (b + (b**2 - a * c) ** 0.5)  # the root near zero, without cancellation
        x, z = x + up * cos_0, (z + up * sin_0) * _AXES_SQUARED
        p = (x**2 + east_m**2) ** 0.5
        # tan(lat) = z / p; the angle from the origin's latitude is the rotated vector's.
        latitude = (z * cos_0 - p * sin_0, p * cos_0 + z * sin_0)
        return latitude, (east_m, x)

    def fall_m(self, east_m: Array, north_m: Array) -> Array:
        """Depth of the ellipsoid below points of the plane, in metres; NaN beyond the limb.

        The quadratic of `angles`, its constant written without cancellation: the plane is tangent.
        """
        sin_0, cos_0, p_0, z_0 = self._origin
        a = cos_0**2 + _AXES_SQUARED * sin_0**2
        steepness = (_AXES_SQUARED - 1) * sin_0 * cos_0
        b = p_0 * cos_0 + _AXES_SQUARED * z_0 * sin_0 + steepness * north_m
        c = east_m**2 + (sin_0**2 + _AXES_SQUARED * cos_0**2) * north_m**2
        return c / (b + (b**2 - a * c) ** 0.5)

    def to_json(self) -> str:
        """The region as one JSON object, for a model file's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Region:
        """The region that `to_json` wrote.

        Raises:
            ModelError: If the text is not that.
        """
        names = {field.name for field in fields(cls)}
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        numbers = values.values() if isinstance(values, dict) and set(values) == names else [None]
        if not all(isinstance(value, int | float) for value in numbers):
            raise ModelError(f"{text[:80]!r} is not a region; expected the numbers {sorted(names)}")
        try:
            return cls(**values)
        except OverflowError as error:  # whole numbers of hundreds of digits
            raise ModelError(f"{text[:80]!r} is not a region: {error}") from error


def _wrapped(longitude_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same longitudes in [-180, 180), same shape."""
    turns: NDArray[np.float64] = np.floor((longitude_deg + 180) / 360)
    return longitude_deg - 360 * turns


def _checked(position_deg: ArrayLike) -> NDArray[np.float64]:
    """Positions `(..., 2)` as an array, if they are on Earth."""
    position = np.asarray(position_deg, dtype=np.float64)
    if position.ndim == 0 or position.shape[-1] != 2:
        raise ModelError(
            f"positions must be (..., 2), latitude and longitude; got {position.shape}"
        )
    bad = ~np.isfinite(position).all(axis=-1) | (np.abs(position[..., 0]) > 90)
    if np.any(bad):
        raise ModelError(f"{_degrees(position[bad][0])} is not a latitude and longitude in degrees")
    return position


def _degrees(position: Sequence[float] | NDArray[np.float64]) -> str:
    return f"({position[0]:.4f}, {position[1]:.4f})"
