"""What `heimdall ingest simulated` can change of the scenario, as flags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from heimdall_data.catalogue.session import Station
    from heimdall_simulation import Scenario

__all__ = ["SimulationFlags"]

_MARGIN_DEG = 0.1


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SimulationFlags:
    """Everything off: FM over still, direct paths in north-west Italy, as in the demo."""

    modulation: Annotated[
        tuple[Literal["fm", "am", "usb", "lsb", "gfsk", "4fsk"], ...], Parameter(negative="")
    ] = ("fm",)
    """Repeat for several; each source has one of them."""
    rician_k_db: float | None = None
    """Fading: steady over scattered power; none when unset."""
    doppler_hz: float = 1.0
    """Largest Doppler shift of the fading."""
    echoes: int = 0
    """Multipath: how many echoes each path has."""
    delay_spread_us: float = 5.0
    """Of the echoes, microseconds."""
    interferers: int = 0
    """Other transmitters in each session."""
    interferer_offset_hz: float = 0.0
    """Their carriers above or below the source's; 0 is the same channel."""
    recording_format: Literal["npy", "kiwi_wav"] = "npy"
    """kiwi_wav has GNSS clocks, which arrival times need; npy has none."""
    stations: Path | None = None
    """CSV with the columns name, latitude, longitude and perhaps altitude_m."""
    region: Annotated[tuple[float, float, float, float] | None, Parameter(negative="")] = None
    """South, north, west, east: where transmitters stand; around the stations when unset."""

    def scenario(self) -> Scenario:
        """The scenario of these flags, whose name tells every scenario from the others.

        Raises:
            SimulationError: A value is out of its range.
            IngestError: The stations cannot be read.
        """
        from heimdall_simulation import NORTHWEST_ITALY, Channel, Interference

        scenario = replace(
            self._placed(),
            modulations=self.modulation,
            channel=Channel(
                rician_k_db=self.rician_k_db,
                doppler_hz=self.doppler_hz,
                n_echoes=self.echoes,
                delay_spread_s=self.delay_spread_us / 1e6,
            ),
            interference=Interference(
                n_interferers=self.interferers, offset_hz=self.interferer_offset_hz
            ),
            recording_format=self.recording_format,
        )
        if scenario == NORTHWEST_ITALY:
            return scenario
        # Names become ids: sessions of another scenario must not pass for the demo's.
        digest = hashlib.sha256(repr(scenario).encode()).hexdigest()[:8]
        return replace(scenario, name=f"{scenario.name} {digest}")

    def _placed(self) -> Scenario:
        from heimdall_data.ingest.session_files import stations_from_csv
        from heimdall_simulation import NORTHWEST_ITALY

        scenario, region = NORTHWEST_ITALY, self.region
        if self.stations is not None:
            stations = stations_from_csv(self.stations)
            scenario = replace(scenario, name=self.stations.stem, stations=stations)
            region = region or _around(stations)
        if region is None:
            return scenario
        return replace(scenario, latitude_deg=region[:2], longitude_deg=region[2:])


def _around(stations: tuple[Station, ...]) -> tuple[float, float, float, float] | None:
    """The stations' box and a margin of some ten kilometres."""
    if not stations:
        return None
    latitudes, longitudes = zip(*(station.position_deg for station in stations), strict=True)
    return (
        min(latitudes) - _MARGIN_DEG,
        max(latitudes) + _MARGIN_DEG,
        min(longitudes) - _MARGIN_DEG,
        max(longitudes) + _MARGIN_DEG,
    )
