"""What is true of a simulated session: the label, and every nuisance that hides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from heimdall_data.sessions import Station

__all__ = ["Damage", "ReceptionTruth", "SessionTruth", "SourceTruth"]

Damage = Literal["missing", "truncated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTruth:
    """A transmitter and its site."""

    index: int
    position_deg: tuple[float, float]
    altitude_m: float
    frequency_hz: float
    """Nominal carrier."""
    offset_ppm: float
    """Of the carrier as it is."""
    radiated_dbm: float
    deviation_hz: float
    position_known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionTruth:
    """How a session reaches one station. Levels are powers in the sampled band."""

    station: Station
    distance_m: float
    delay_s: float
    clock_error_s: float
    """The signal is found this much late by the station's own stamps."""
    path_loss_db: float
    """Mean path loss, without the next two."""
    shadowing_db: float
    fading_db: float
    signal_dbm: float
    """At the antenna, with everything above."""
    noise_dbm: float
    gain_db: float
    """From dBm at the antenna to dB of full scale, for signal and noise alike."""
    frequency_offset_hz: float
    phase_rad: float
    damage: Damage | None = None
    """What happened to the object in the store."""

    @property
    def snr_db(self) -> float:
        """Signal to noise in the sampled band."""
        return self.signal_dbm - self.noise_dbm

    @property
    def signal_dbfs(self) -> float:
        """Signal level in dB of the converter's full scale."""
        return self.signal_dbm + self.gain_db

    @property
    def noise_dbfs(self) -> float:
        """Noise level in dB of the converter's full scale."""
        return self.noise_dbm + self.gain_db


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTruth:
    """Everything that made a session; `receptions` lacks the stations that were down."""

    seed: int
    index: int
    source: SourceTruth
    radiated_dbm: float
    receptions: tuple[ReceptionTruth, ...]
    stations_down: tuple[str, ...]
    status: str
    approval_status: str
