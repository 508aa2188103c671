"""Shadowing map, gain, mixer and delay of each station, the same in every session.

Shadowing is the loss by hills and buildings beyond the mean path loss, as a map for each station.

Sources: M. Gudmundson, "Correlation model for shadow fading in mobile radio systems",
Electronics Letters 27 (1991), for the correlation `exp(-d / d_c)` of a log-normal field;
B. Matérn, "Spatial Variation" (1960), for its spectrum in the plane, a density of wave
numbers `k (1/d_c^2 + k^2)^(-3/2) / d_c`, whose distribution inverts in closed form;
M. Shinozuka, "Simulation of multivariate and multidimensional random processes", JASA 49
(1971), for a Gaussian field as a sum of cosines with random phases.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from heimdall_data.catalogue.session import Station
from numpy.typing import ArrayLike, NDArray

from heimdall_simulation.scenario import Scenario
from heimdall_simulation.seeds import Branch, generator


@dataclass(frozen=True, slots=True)
class ShadowingMap:
    """One station's map: a loss in dB for every position of a transmitter."""

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
    ) -> "ShadowingMap":
        """Return the map of the station with this name; it depends on nothing else in the world.

        The lengths and directions of the modes are stratified, one in each `1 / n_modes` of their
        distribution, which brings the correlation of a single map close to the law.
        """
        rng = generator(Branch.SHADOWING, world_seed, station)
        rank = (np.arange(n_modes) + rng.random(n_modes)) / n_modes
        radial = np.sqrt((1 - rank) ** -2 - 1) / decorrelation_m
        angle = np.pi * (rng.permutation(n_modes) + rng.random(n_modes)) / n_modes
        waves = radial[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return cls(waves, rng.uniform(0, 2 * np.pi, n_modes), sigma_db)

    def loss_db(self, east_north_m: ArrayLike) -> NDArray[np.float64]:
        """Return the loss beyond the mean path loss, in dB; its mean over the plane is zero.

        Shapes: `(..., 2)` metres east and north give `(...)`.
        """
        angles = np.asarray(east_north_m) @ self.wave_numbers.T + self.phases
        unit: NDArray[np.float64] = np.sqrt(2 / len(self.phases)) * np.cos(angles).sum(axis=-1)
        return self.sigma_db * unit


@dataclass(frozen=True, slots=True)
class StationWorld:
    """A station and its properties that the operator does not know."""

    station: Station
    shadows: ShadowingMap
    gain_db: float
    """Deviation from the nominal gain."""
    mixer_ppm: float
    """Fixed part of the oscillator's error."""
    delay_s: float
    """From the antenna to the time stamps."""


@lru_cache(maxsize=4)
def world_of(scenario: Scenario) -> tuple[StationWorld, ...]:
    """Return the scenario's stations; each depends only on the world's seed and its name."""
    world = []
    for station in scenario.stations:
        rng = generator(Branch.HARDWARE, scenario.world_seed, station.name)
        shadows = ShadowingMap.of_station(
            station.name,
            world_seed=scenario.world_seed,
            sigma_db=scenario.shadowing_sigma_db,
            decorrelation_m=scenario.shadowing_decorrelation_m,
        )
        gain_db = scenario.gain_sigma_db * rng.standard_normal()
        mixer_ppm = scenario.receiver_offset_ppm * rng.standard_normal()
        delay = generator(Branch.DELAY, scenario.world_seed, station.name).standard_normal()
        delay_s = scenario.receiver_delay_sigma_s * delay
        world.append(StationWorld(station, shadows, gain_db, mixer_ppm, delay_s))
    return tuple(world)
