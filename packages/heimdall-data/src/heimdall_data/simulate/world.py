"""What never changes from session to session: each station's map, gain and mixer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from heimdall_data.simulate.seeds import station_rng
from heimdall_data.simulate.shadowing import ShadowingMap

if TYPE_CHECKING:
    from heimdall_data.sessions import Station
    from heimdall_data.simulate.scenario import Scenario

__all__ = ["StationWorld", "world_of"]


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
