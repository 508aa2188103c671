"""Each station's shadowing map, gain and mixer, the same in every session.

Shadowing is what hills and buildings add to the mean path loss, as a map for each station.

Sources: M. Gudmundson, "Correlation model for shadow fading in mobile radio systems",
Electronics Letters 27 (1991), for the correlation `exp(-d / d_c)` of a log-normal field;
B. Matérn, "Spatial Variation" (1960), for its spectrum in the plane, a density of wave
numbers `k (1/d_c^2 + k^2)^(-3/2) / d_c`, whose distribution inverts in closed form;
M. Shinozuka, "Simulation of multivariate and multidimensional random processes", JASA 49
(1971), for a Gaussian field as a sum of cosines with random phases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from heimdall_simulation.seeds import station_rng

if TYPE_CHECKING:
    from heimdall_data.catalogue.session import Station
    from numpy.typing import ArrayLike, NDArray

    from heimdall_simulation.scenario import Scenario

__all__ = ["ShadowingMap", "StationWorld", "world_of"]


@dataclass(frozen=True, slots=True)
class ShadowingMap:
    """One station's map: a loss in dB for every place a transmitter may stand at.

    Made by `ShadowingMap.of_station`, from the world's seed and the station's name alone, so
    that it is the same map whatever else is simulated.
    """

    wave_numbers: NDArray[np.float64]
    """`(modes, 2)`, radians per metre east and north."""
    phases: NDArray[np.float64]
    """`(modes,)`, radians."""
    sigma_db: float

    @classmethod
    def of_station(
        cls,
        station: str,
        *,
        world_seed: int,
        sigma_db: float,
        decorrelation_m: float,
        n_modes: int = 1024,
    ) -> ShadowingMap:
        """The map of the station with this name.

        The modes' lengths and directions are stratified, one to each `1 / n_modes` of their
        distribution, which brings the map's own correlation close to the law's.
        """
        rng = station_rng(world_seed, station, hardware=False)
        rank = (np.arange(n_modes) + rng.random(n_modes)) / n_modes
        radial = np.sqrt((1 - rank) ** -2 - 1) / decorrelation_m
        angle = np.pi * (rng.permutation(n_modes) + rng.random(n_modes)) / n_modes
        waves = radial[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return cls(waves, rng.uniform(0, 2 * np.pi, n_modes), sigma_db)

    def loss_db(self, east_north_m: ArrayLike) -> NDArray[np.float64]:
        """Loss beyond the mean path loss, in dB; its mean over the plane is zero.

        Shapes: `(..., 2)` metres east and north give `(...)`.
        """
        angles = np.asarray(east_north_m) @ self.wave_numbers.T + self.phases
        unit: NDArray[np.float64] = np.sqrt(2 / len(self.phases)) * np.cos(angles).sum(axis=-1)
        return self.sigma_db * unit


@dataclass(frozen=True, slots=True)
class StationWorld:
    """A station and what its operator does not know about it."""

    station: Station
    shadows: ShadowingMap
    gain_db: float
    """Against the nominal gain."""
    mixer_ppm: float
    """How far its oscillator is off, fixed part."""


@lru_cache(maxsize=4)
def world_of(scenario: Scenario) -> tuple[StationWorld, ...]:
    """The scenario's stations, in its order; each depends on the world's seed and its name."""
    return tuple(_station_world(station, scenario) for station in scenario.stations)


def _station_world(station: Station, scenario: Scenario) -> StationWorld:
    rng = station_rng(scenario.world_seed, station.name, hardware=True)
    return StationWorld(
        station,
        ShadowingMap.of_station(
            station.name,
            world_seed=scenario.world_seed,
            sigma_db=scenario.shadowing_sigma_db,
            decorrelation_m=scenario.shadowing_decorrelation_m,
        ),
        gain_db=scenario.gain_sigma_db * rng.standard_normal(),
        mixer_ppm=scenario.receiver_offset_ppm * rng.standard_normal(),
    )
