"""What is true of a simulated session: the label, and every nuisance that hides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from heimdall_data.catalogue.session import Station

    from heimdall_simulation.modulation import Modulation

__all__ = [
    "Damage",
    "EchoTruth",
    "InterfererTruth",
    "ReceptionTruth",
    "RicianTruth",
    "SessionTruth",
    "SourceTruth",
]

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
    """Of FM."""
    position_known: bool
    modulation: Modulation = "fm"
    am_depth: float = 0.8
    """Of AM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoTruth:
    """One echo, against the direct path."""

    excess_s: float
    """How much later."""
    gain_db: float
    phase_rad: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RicianTruth:
    """The waves of a path that fades; `channel.fading_gain` makes its gain over time of them."""

    k_db: float
    doppler_hz: float
    """Of a wave from straight ahead; each has its angle's cosine of that."""
    direct_angle_rad: float
    """Of the steady wave."""
    angles_rad: tuple[float, ...]
    """Of the scattered waves, all of one power."""
    phases_rad: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionTruth:
    """How a session reaches one station. Levels are powers in the sampled band.

    Signal levels are the direct path's, fading within the recording averaged out.
    """

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
    rician: RicianTruth | None = None
    """Of the direct path; None where it stands still."""
    echoes: tuple[EchoTruth, ...] = ()
    detour_s: float = 0.0
    """By how much later than on the straight line everything arrives."""

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
class InterfererTruth:
    """Another transmitter of the session, and how it reaches every station."""

    source: SourceTruth
    receptions: tuple[ReceptionTruth, ...]
    """In the scenario's order, with the stations that were down."""

    def at(self, station: str) -> ReceptionTruth:
        """How it reaches the station of this name."""
        return next(r for r in self.receptions if r.station.name == station)


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
    interferers: tuple[InterfererTruth, ...] = ()
