"""The local tangent plane of the WGS84 ellipsoid, in closed form both ways.

A point of the plane is the foot of a point of the ellipsoid: east and north are the first two
coordinates of the usual east-north-up frame (an orthographic projection). Back from the plane,
"up" is the root of a quadratic, because the point must lie on the ellipsoid; no iteration and
no series is needed. With longitudes counted from the origin, the origin lies in the x-z plane:

    x = p cos(dlon)    y = p sin(dlon) = east    z = (1 - e^2) N sin(lat),  p = N cos(lat)

The formulas use arithmetic only, so NumPy arrays and torch tensors run through the same lines.

Source: P. Misra and P. Enge, "Global Positioning System", 2nd ed. (2006), section 4.A (geodetic
to Cartesian, east-north-up); constants of NIMA TR8350.2, "World Geodetic System 1984" (2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Array = TypeVar("Array", "NDArray[np.float64]", "torch.Tensor")

SEMI_MAJOR_M = 6_378_137.0
FLATTENING = 1 / 298.257_223_563
ECCENTRICITY_SQUARED = FLATTENING * (2 - FLATTENING)
_AXES_SQUARED = 1 / (1 - ECCENTRICITY_SQUARED)
"""(semi-major / semi-minor axis) squared."""


@dataclass(frozen=True, slots=True)
class TangentPlane:
    """The plane that touches the ellipsoid at one latitude; longitudes count from there."""

    latitude_rad: float

    @property
    def _sin_cos(self) -> tuple[float, float]:
        return math.sin(self.latitude_rad), math.cos(self.latitude_rad)

    @property
    def _origin_m(self) -> tuple[float, float]:
        """Distance from the axis, and height over the equator's plane, of the origin."""
        sin, cos = self._sin_cos
        normal_m = SEMI_MAJOR_M / math.sqrt(1 - ECCENTRICITY_SQUARED * sin**2)
        return normal_m * cos, normal_m * (1 - ECCENTRICITY_SQUARED) * sin

    def east_north_up(
        self, sin_cos_latitude: tuple[Array, Array], sin_cos_longitude: tuple[Array, Array]
    ) -> tuple[Array, Array, Array]:
        """East, north and up in metres, of points of the ellipsoid.

        Args:
            sin_cos_latitude: Sine and cosine of the geodetic latitudes.
            sin_cos_longitude: Sine and cosine of the longitudes counted from the origin's.
        """
        (sin, cos), (sin_longitude, cos_longitude) = sin_cos_latitude, sin_cos_longitude
        (sin_0, cos_0), (p_0, z_0) = self._sin_cos, self._origin_m
        normal_m = SEMI_MAJOR_M / (1 - ECCENTRICITY_SQUARED * sin**2) ** 0.5
        across = normal_m * cos * cos_longitude - p_0
        along = normal_m * (1 - ECCENTRICITY_SQUARED) * sin - z_0
        east = normal_m * cos * sin_longitude
        return east, along * cos_0 - across * sin_0, across * cos_0 + along * sin_0

    def angles(
        self, east_m: Array, north_m: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Latitude and longitude from the origin, each as (opposite, adjacent) of its tangent.

        Beyond the Earth's limb, where no point of the ellipsoid lies under the plane, the
        result is NaN.
        """
        (sin_0, cos_0), (p_0, z_0) = self._sin_cos, self._origin_m
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
        """By how much the ellipsoid lies below points of the plane, in metres; NaN off the limb.

        The root of the quadratic as in `angles`, its constant written without cancellation,
        because the origin lies on the ellipsoid and the plane is tangent there.
        """
        (sin_0, cos_0), (p_0, z_0) = self._sin_cos, self._origin_m
        a = cos_0**2 + _AXES_SQUARED * sin_0**2
        steepness = (_AXES_SQUARED - 1) * sin_0 * cos_0
        b = p_0 * cos_0 + _AXES_SQUARED * z_0 * sin_0 + steepness * north_m
        c = east_m**2 + (sin_0**2 + _AXES_SQUARED * cos_0**2) * north_m**2
        return c / (b + (b**2 - a * c) ** 0.5)
