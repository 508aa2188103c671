"""Path of the wave between two antennas: its length, delay and loss.

Three kinds of wave: a straight line (VHF and above); a ground wave along the ellipsoid (LF, MF),
slower than light by what air and ground add; a sky wave (HF), reflected once or more often by the
ionosphere. Its virtual height is that of the mirror in which light would be as late, so that the
ionosphere's delay is part of the path.

The exponent of the log-distance law stands for the average effect of terrain and horizon;
diffraction is not added, because it would count twice.

Sources: H. T. Friis, "A note on a simple transmission formula", Proc. IRE 34 (1946), for free
space; T. S. Rappaport, "Wireless Communications" (2nd ed., 2002), section 4.9, for the
log-distance law beyond a reference distance; US Coast Guard, "Specification of the transmitted
Loran-C signal" (1994), for the index of air and the further delay over sea, and J. R. Johler,
W. J. Kellar and L. C. Walters, "Phase of the low radiofrequency ground wave", NBS Circular 573
(1956), for that over land; K. Davies, "Ionospheric Radio" (1990), for virtual heights and hops;
ITU-R P.368 and K. A. Norton, Proc. IRE 29 (1941), for the distance up to which a ground wave may
take the earth to be flat; ITU-R P.372 for noise made by man.
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from heimdall_data.errors import SimulationError
from numpy.typing import ArrayLike, NDArray

from heimdall_simulation.channel import require_order, require_within
from heimdall_simulation.geometry import slant_range_m, surface_distance_m

SPEED_OF_LIGHT_M_S = 299_792_458.0
AIR = 3e-4
"""Slowness of air near the ground: a refractivity of 300 N-units (ITU-R P.453)."""
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (IUGG), for the shape of a sky wave's path."""
HIGHEST_SKY_WAVE_HZ = 30e6
"""The ionosphere reflects nothing above it, but for rare exceptions."""
HIGHEST_GROUND_WAVE_HZ = 3e6
"""Above it, sky waves carry farther than ground waves."""
LOWEST_REFLECTION_M = 60e3
"""Bottom of the D layer by day."""
_LARGEST_SLOWNESS = 5e-3
"""A sky wave from `LOWEST_REFLECTION_M` is later than this at every distance."""

Wave = Literal["line_of_sight", "ground_wave", "sky_wave"]
"""Way by which a wave travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagation:
    """Kind of wave and its speed; by default a straight line through air."""

    wave: Wave = "line_of_sight"
    """`line_of_sight`, `ground_wave` or `sky_wave`."""
    slowness: tuple[float, float] = (AIR, AIR)
    """Additional travel time as a share of that in vacuum, uniform, for each path."""
    virtual_height_m: tuple[float, float] | None = None
    """Of a sky wave's reflection, uniform for each session; None for other waves."""
    height_sigma_m: float = 0.0
    """Standard deviation of a path's virtual height from the session's, for sky waves."""

    def __post_init__(self) -> None:
        if self.wave not in get_args(Wave):
            raise SimulationError(f"wave is {self.wave!r}; give one of {', '.join(get_args(Wave))}")
        require_order(self, "slowness")
        if not 0 <= self.slowness[0] <= self.slowness[1] <= _LARGEST_SLOWNESS:
            raise SimulationError(
                f"slowness is {self.slowness}; give (least, largest) from 0 to {_LARGEST_SLOWNESS}"
            )
        require_within(self, "height_sigma_m", 0, 100e3)
        if self.virtual_height_m is not None:
            require_order(self, "virtual_height_m")
            if self.wave != "sky_wave" or not self.virtual_height_m[0] >= LOWEST_REFLECTION_M:
                raise SimulationError(
                    f"virtual_height_m is {self.virtual_height_m} for a {self.wave}; only a "
                    f"sky_wave has one, of {LOWEST_REFLECTION_M:g} or more"
                )
        elif self.wave == "sky_wave" or self.height_sigma_m:
            raise SimulationError(
                f"a {self.wave} has virtual_height_m None and height_sigma_m "
                f"{self.height_sigma_m}; a sky_wave needs both numbers, other waves have neither"
            )

    @classmethod
    def usual_at(cls, frequency_hz: float) -> Self:
        """The wave that carries farthest at this frequency."""
        if frequency_hz < HIGHEST_GROUND_WAVE_HZ:
            return cls.usual("ground_wave")
        return cls.usual("sky_wave" if frequency_hz < HIGHEST_SKY_WAVE_HZ else "line_of_sight")

    @classmethod
    def usual(cls, wave: Wave) -> Self:
        """A wave of this kind with speeds or heights that are usual on the earth.

        Ground wave: air's index of 1.000338, and over 300 km to 1,000 km another 0.05 % over sea
        to 0.27 % over dry land (1 mS/m). Sky wave: the F layer from winter days to summer nights.
        """
        if wave == "ground_wave":
            return cls(wave=wave, slowness=(8e-4, 3e-3))
        if wave == "sky_wave":
            return cls(
                wave=wave, slowness=(0.0, 0.0), virtual_height_m=(220e3, 400e3), height_sigma_m=10e3
            )
        return cls(wave=wave)

    def distance_m(
        self,
        from_deg: ArrayLike,
        from_height_m: ArrayLike,
        to_deg: ArrayLike,
        to_height_m: ArrayLike,
    ) -> NDArray[np.float64]:
        """Return the straight line between two antennas; along the ellipsoid for other waves."""
        if self.wave == "line_of_sight":
            return slant_range_m(from_deg, from_height_m, to_deg, to_height_m)
        return surface_distance_m(from_deg, to_deg)

    def longest_delay_s(self, distance_m: float) -> float:
        """Travel time that almost no path of this distance exceeds."""
        if self.virtual_height_m is not None:
            highest_m = self.virtual_height_m[1] + 5 * self.height_sigma_m
            distance_m = float(sky_path_m(distance_m, highest_m))
        return (1 + self.slowness[1]) * float(propagation_delay_s(distance_m))


def sky_path_m(distance_m: ArrayLike, virtual_height_m: ArrayLike) -> NDArray[np.float64]:
    """Return the length of a path over the ionosphere between two points of a round earth.

    As few hops as possible, all of the same length, none of which cuts the earth.
    """
    radius, distance = EARTH_RADIUS_M, np.asarray(distance_m, dtype=np.float64)
    mirror = radius + np.asarray(virtual_height_m, dtype=np.float64)
    n_hops = np.maximum(np.ceil(distance / (2 * radius * np.arccos(radius / mirror))), 1)
    half_angle = distance / (2 * radius * n_hops)
    # The law of cosines with 1 - cos(x) = 2 sin^2(x / 2), which is exact for short hops.
    rise = np.hypot(mirror - radius, 2 * np.sqrt(radius * mirror) * np.sin(half_angle / 2))
    return np.asarray(2 * n_hops * rise, dtype=np.float64)


def free_space_loss_db(distance_m: ArrayLike, frequency_hz: float) -> NDArray[np.float64]:
    """Return the loss between isotropic antennas in free space, in dB (Friis 1946)."""
    wavelength_m = SPEED_OF_LIGHT_M_S / frequency_hz
    return 20 * np.log10(4 * np.pi * np.asarray(distance_m, dtype=np.float64) / wavelength_m)


def log_distance_loss_db(
    distance_m: ArrayLike, frequency_hz: float, *, exponent: float, reference_m: float
) -> NDArray[np.float64]:
    """Return the mean path loss in dB: free space up to the reference, `10 exponent` dB a decade.

    This is Rappaport's law without its random term (see `world.ShadowingMap`).
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    near = free_space_loss_db(np.minimum(distance, reference_m), frequency_hz)
    return near + 10 * exponent * np.log10(np.maximum(distance / reference_m, 1.0))


def flat_earth_m(frequency_hz: float) -> float:
    """Return the distance beyond which the earth's curve weakens a ground wave, in metres.

    80 km over the cube root of the frequency in MHz.
    """
    return float(80e3 / (frequency_hz / 1e6) ** (1 / 3))


def man_made_noise_db(frequency_hz: float) -> float:
    """Return the noise made by man in the country over thermal noise, in dB.

    ITU-R P.372, rural: fitted there from 0.3 MHz to 250 MHz, continued here to lower frequencies.
    """
    return float(67.2 - 27.7 * np.log10(frequency_hz / 1e6))


def propagation_delay_s(distance_m: ArrayLike) -> NDArray[np.float64]:
    """Return the travel time in vacuum, in seconds."""
    return np.asarray(distance_m, dtype=np.float64) / SPEED_OF_LIGHT_M_S
