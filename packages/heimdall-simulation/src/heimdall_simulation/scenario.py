"""Region, stations, radio and mishaps of a simulation.

`Scenario` is the region, its stations and its radio; `Mishaps` is how often recordings are
incomplete or unfit, as in a network that records for years.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from heimdall_data.catalogue.session import Station
from heimdall_data.errors import SimulationError

from heimdall_simulation.channel import Channel, Interference
from heimdall_simulation.geometry import slant_range_m
from heimdall_simulation.modulation import MODULATIONS, Modulation, channel_width_hz
from heimdall_simulation.packets import PACKET_FORMATS
from heimdall_simulation.propagation import propagation_delay_s

__all__ = [
    "NORTHWEST_ITALY",
    "NORTHWEST_ITALY_STATIONS",
    "NO_MISHAPS",
    "Mishaps",
    "RecordingFormat",
    "Scenario",
]


NORTHWEST_ITALY_STATIONS = (
    Station("Giaveno", 45.02, 7.29, 600.0),
    Station("Montanaro", 45.234, 7.857, 300.0),
    Station("Torino", 45.044, 7.672, 250.0),
    Station("Coazze", 45.03, 7.27, 700.0),
    Station("Passo dei Giovi", 44.561, 8.956, 480.0),
    Station("Genova", 44.395, 8.956, 100.0),
    Station("Milano-Baggio", 45.478, 9.123, 120.0),
)
"""Receiving stations in channel order, as their operators publish them: degrees on WGS84, metres
above sea level. The undulation of the geoid (about 50 m, nearly the same for all) is left out:
altitudes are taken as heights above the ellipsoid."""


RecordingFormat = Literal["npy", "kiwi_wav"]
_LEAST_GUARD_S = 2e-3
"""600 km of travel; a wider region has more."""
_LEAST_SAMPLES = 1024
"""One segment of the level estimate (see `receiver`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishaps:
    """Probabilities, each for one session; for `no_position`, for one source."""

    receiver_down: float = 0.10
    """One station did not record."""
    pending: float = 0.03
    """Nobody has approved the session yet."""
    rejected: float = 0.03
    failed: float = 0.02
    no_position: float = 0.01
    """Where the transmitter stands is not known."""
    object_missing: float = 0.01
    """The catalogue announces one object that is not in the store."""
    object_truncated: float = 0.01
    """One object ends before its header says it does."""

    def __post_init__(self) -> None:
        for probability in fields(self):
            value = getattr(self, probability.name)
            if not 0 <= value <= 1:
                raise SimulationError(
                    f"mishap {probability.name} has probability {value}; give one from 0 to 1"
                )
        if self.pending + self.rejected + self.failed > 1:
            raise SimulationError(
                f"pending {self.pending}, rejected {self.rejected} and failed {self.failed} "
                "exclude each other and add up to more than 1; lower them"
            )


NO_MISHAPS = Mishaps(**dict.fromkeys((f.name for f in fields(Mishaps)), 0))
"""Every session complete, approved and sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A region, its stations and its radio; valid once made."""

    name: str = "northwest-italy"
    stations: tuple[Station, ...] = NORTHWEST_ITALY_STATIONS
    latitude_deg: tuple[float, float] = (44.3, 45.6)
    longitude_deg: tuple[float, float] = (7.1, 9.3)
    frequency_hz: tuple[float, float] = (144e6, 146e6)
    """A source's nominal carrier, uniform; receivers are tuned to it."""
    sessions_per_source: int = 1
    antenna_height_m: tuple[float, float] = (150.0, 450.0)
    """The transmitting antenna above sea level, uniform: a mast or a car in the plain."""
    radiated_dbm: tuple[float, float] = (30.0, 43.0)
    """EIRP of a source, uniform in dB: 1 W to 20 W."""
    session_power_sigma_db: float = 1.0
    deviation_hz: tuple[float, float] = (2500.0, 5000.0)
    """Peak deviation of a source with FM: 12.5 kHz to 25 kHz channels."""
    modulations: tuple[Modulation, ...] = ("fm",)
    """Each source has one of these, all equally likely."""
    am_depth: tuple[float, float] = (0.6, 0.95)
    """Of a source with AM, uniform; 1 is a carrier that just vanishes in the deepest trough."""
    channel: Channel = field(default_factory=Channel)
    interference: Interference = field(default_factory=Interference)
    path_loss_exponent: float = 3.2
    reference_m: float = 1000.0
    shadowing_sigma_db: float = 6.0
    shadowing_decorrelation_m: float = 20_000.0
    """Gudmundson's distance; long, since hills and not houses shade a VHF path."""
    fading_sigma_db: float = 3.0
    """Of each session and receiver: what no map can learn."""
    gain_sigma_db: float = 2.0
    """Of the stations, fixed and unknown."""
    noise_figure_db: float = 8.0
    """Receiver and man-made noise together."""
    noise_floor_dbfs: float = -84.0
    """Of a station with no gain error, in the sampled band: 2 LSB rms."""
    transmitter_offset_ppm: float = 1.0
    """Standard deviation of a source's carrier."""
    receiver_offset_ppm: float = 0.5
    """Standard deviation of a station's mixer, fixed."""
    receiver_drift_ppm: float = 0.1
    """Standard deviation of what a mixer adds to that in each session."""
    clock_error_s: float = 1e-7
    """Standard deviation of a time stamp; 0.1 us is a GNSS clock in lock."""
    sample_rate_hz: float = 48_000.0
    n_samples: int = 24_000
    recording_format: RecordingFormat = "npy"
    """`npy` has no clock; `kiwi_wav` has GNSS stamps, and whole blocks of 512 samples only."""
    world_seed: int = 145
    """Of what never changes: shadowing maps, gains and mixers of the stations."""
    mishaps: Mishaps = field(default_factory=Mishaps)

    def __post_init__(self) -> None:
        for name in _RANGES:
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise SimulationError(f"{name} is ({low}, {high}); give (least, largest)")
        for name in _SPREADS:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise SimulationError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("shadowing_decorrelation_m", "reference_m"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SimulationError(f"{name} is {getattr(self, name)}; give more than 0")
        self._check_modulations()
        self._check_sampling()
        if self.recording_format not in get_args(RecordingFormat):
            raise SimulationError(
                f"recording_format is {self.recording_format!r}; give one of "
                f"{', '.join(get_args(RecordingFormat))}"
            )
        if self.sessions_per_source < 1:
            raise SimulationError(f"{self.sessions_per_source} sessions per source; give 1 or more")
        names = [station.name for station in self.stations]
        if not names or len(set(names)) < len(names):
            raise SimulationError(f"stations {names}: give at least one, each with its own name")

    @property
    def channel_hz(self) -> float:
        """Width of the widest signal there may be."""
        return max(channel_width_hz(name, self.deviation_hz[1]) for name in self.modulations)

    @property
    def guard_s(self) -> float:
        """Of a period beyond the recording: longer than any delay, so that none wraps into it."""
        corners = [(south, west) for south in self.latitude_deg for west in self.longitude_deg]
        stations = [[station.position_deg] for station in self.stations]
        farthest_m = float(slant_range_m(stations, 0.0, corners, 0.0).max())
        # A tenth for altitudes, clocks, and the edges of a map that is no rectangle.
        return max(
            _LEAST_GUARD_S,
            1.1 * float(propagation_delay_s(farthest_m)) + self.channel.longest_echo_s,
        )

    def _check_modulations(self) -> None:
        unknown = [name for name in self.modulations if name not in MODULATIONS]
        if unknown or not self.modulations:
            raise SimulationError(
                f"modulations {list(self.modulations)}: give one or more of "
                f"{', '.join(MODULATIONS)}"
            )
        if not 0 < self.am_depth[0] <= self.am_depth[1] <= 1:
            raise SimulationError(f"am_depth is {self.am_depth}; give (least, largest) up to 1")
        for name in set(self.modulations) & set(PACKET_FORMATS):
            burst_s = PACKET_FORMATS[name].burst_s
            if self.n_samples < burst_s * self.sample_rate_hz:
                raise SimulationError(
                    f"{self.n_samples} samples are less than one {name} burst of "
                    f"{1e3 * burst_s:.1f} ms; give more"
                )

    def _check_sampling(self) -> None:
        if not self.sample_rate_hz > 1.5 * self.channel_hz:
            raise SimulationError(
                f"sample rate {self.sample_rate_hz} Hz leaves no noise beside a channel of "
                f"{self.channel_hz:g} Hz; give more than {1.5 * self.channel_hz:g} Hz, "
                "or less deviation"
            )
        others = self.interference
        highest_hz = others.offset_hz + self.channel_hz / 2
        if others.n_interferers and highest_hz > self.sample_rate_hz / 2:
            raise SimulationError(
                f"interferers {others.offset_hz:g} Hz beside a channel of {self.channel_hz:g} Hz "
                f"are not within the {self.sample_rate_hz:g} Hz sampled; give an offset_hz of at "
                f"most {(self.sample_rate_hz - self.channel_hz) / 2:g}"
            )
        if self.n_samples < _LEAST_SAMPLES:
            raise SimulationError(
                f"{self.n_samples} samples are too few to measure a level; "
                f"give {_LEAST_SAMPLES} or more"
            )


_RANGES = (
    "latitude_deg",
    "longitude_deg",
    "frequency_hz",
    "antenna_height_m",
    "radiated_dbm",
    "deviation_hz",
)
_SPREADS = (
    "session_power_sigma_db",
    "shadowing_sigma_db",
    "fading_sigma_db",
    "gain_sigma_db",
    "transmitter_offset_ppm",
    "receiver_offset_ppm",
    "receiver_drift_ppm",
    "clock_error_s",
)

NORTHWEST_ITALY = Scenario()
"""What `heimdall demo` simulates."""
