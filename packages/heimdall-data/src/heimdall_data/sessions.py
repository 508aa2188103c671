"""What the catalogue says: a recording session, its measurements, the stations.

These are values read from Postgres, with the contract's names where it has any. Positions
are degrees on WGS84, latitude first; instants are aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Measurement", "Session", "Station"]


@dataclass(frozen=True, slots=True)
class Station:
    """A receiving station at a known place."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None = None
    """Metres above sea level; None where the catalogue does not say."""

    @property
    def position_deg(self) -> tuple[float, float]:
        """Latitude and longitude, in degrees."""
        return (self.latitude_deg, self.longitude_deg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one station recorded in one session, and where the samples are."""

    station: str
    station_deg: tuple[float, float]
    """Latitude and longitude of the station, in degrees."""
    bucket: str
    key: str
    format: str | None
    """`npy`, `sigmf`, `kiwi_wav`; None means `npy`."""
    sample_rate_hz: float | None
    """As the catalogue has it: rounded; the recording itself may know better."""
    snr_db: float | None = None
    signal_strength_db: float | None = None
    frequency_hz: float | None = None
    start: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One transmission of a known source, as several stations recorded it."""

    id: str
    session_name: str
    source_id: str
    source_name: str
    position_deg: tuple[float, float]
    """Latitude and longitude of the transmitter, in degrees: the label."""
    start: datetime
    measurements: tuple[Measurement, ...]
    source_type: str | None = None
    frequency_hz: float | None = None
    """Nominal carrier of the source."""
    error_margin_m: float | None = None
    """How well the source's position is known, in metres."""
