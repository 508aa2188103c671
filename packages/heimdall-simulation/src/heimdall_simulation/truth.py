"""The true values of a simulated session: the label, and every nuisance."""

from dataclasses import dataclass
from typing import Literal

from heimdall_data.catalogue.session import Station

from heimdall_simulation.modulation import Modulation

Damage = Literal["missing", "truncated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTruth:
    """A transmitter and its site."""

    index: int
    """Number of the transmitter."""
    position_deg: tuple[float, float]
    """Latitude and longitude, degrees."""
    altitude_m: float
    """Antenna above sea level."""
    frequency_hz: float
    """Nominal carrier."""
    offset_ppm: float
    """Error of the carrier."""
    radiated_dbm: float
    """Mean EIRP."""
    deviation_hz: float
    """For FM."""
    position_known: bool
    """False if the catalogue does not have the position."""
    modulation: Modulation = "fm"
    """One of `MODULATIONS`."""
    am_depth: float = 0.8
    """For AM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoTruth:
    """One echo, relative to the direct path."""

    excess_s: float
    """Delay after the direct path."""
    gain_db: float
    """Power over that of the direct path."""
    phase_rad: float
    """Phase against the direct path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RicianTruth:
    """Waves of a fading path; `channel.fading_gain` computes the gain from them."""

    k_db: float
    """Steady over scattered power."""
    doppler_hz: float
    """Shift of a wave from straight ahead; others have the cosine of their angle times this."""
    direct_angle_rad: float
    """Angle of the steady wave."""
    angles_rad: tuple[float, ...]
    """Angles of the scattered waves, all of the same power."""
    phases_rad: tuple[float, ...]
    """Phases of the scattered waves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptionTruth:
    """Reception of a session at one station. Levels are powers in the sampled band.

    Signal levels are those of the direct path, averaged over fading within the recording.
    """

    station: Station
    """Station that received."""
    distance_m: float
    """Length of the straight line; along the ellipsoid for ground and sky waves."""
    delay_s: float
    """Travel time of the wave."""
    clock_error_s: float
    """Additional delay of the signal by the station's own stamps."""
    path_loss_db: float
    """Mean path loss, without shadowing and fading."""
    shadowing_db: float
    """Deviation of the path loss, fixed for the place and the station."""
    fading_db: float
    """Deviation of the path loss in this session."""
    signal_dbm: float
    """At the antenna, after all losses."""
    noise_dbm: float
    """Noise of antenna and receiver."""
    gain_db: float
    """From dBm at the antenna to dB of full scale, for signal and noise."""
    frequency_offset_hz: float
    """Carrier in the baseband."""
    phase_rad: float
    """Phase of the carrier at the first sample."""
    damage: Damage | None = None
    """Damage of the object in the store."""
    rician: RicianTruth | None = None
    """Fading of the direct path; None if it is constant."""
    echoes: tuple[EchoTruth, ...] = ()
    """Later copies of the signal."""
    detour_s: float = 0.0
    """Delay of the whole signal beyond that of the straight line."""
    receiver_delay_s: float = 0.0
    """The station's own constant delay, from its antenna to its stamps."""
    virtual_height_m: float | None = None
    """Height of a sky wave's mirror; None for other waves."""

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
    """Another transmitter of the session, and its reception at every station."""

    source: SourceTruth
    """The other transmitter."""
    receptions: tuple[ReceptionTruth, ...]
    """In the scenario's order, including stations that were down."""

    def at(self, station: str) -> ReceptionTruth:
        """Return the reception at the station of this name."""
        return next(r for r in self.receptions if r.station.name == station)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTruth:
    """Everything that made a session; `receptions` lacks the stations that were down."""

    seed: int
    """Seed of the simulation."""
    index: int
    """Number of the session; with the seed it gives the same session again."""
    source: SourceTruth
    """The transmitter."""
    radiated_dbm: float
    """EIRP in this session."""
    receptions: tuple[ReceptionTruth, ...]
    """Receptions in the scenario's order."""
    stations_down: tuple[str, ...]
    """Names of the stations that did not record."""
    status: str
    """`completed` or `failed`."""
    approval_status: str
    """`approved`, `pending` or `rejected`."""
    interferers: tuple[InterfererTruth, ...] = ()
    """Other transmitters on the frequency."""
