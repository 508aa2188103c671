"""Region, stations, radio and mishaps of a simulation."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self, get_args

from heimdall_data.catalogue.session import Station
from heimdall_data.errors import SimulationError

from heimdall_simulation.channel import Channel, Interference, require_order, require_within
from heimdall_simulation.modulation import (
    MODULATIONS,
    PACKET_FORMATS,
    Modulation,
    channel_width_hz,
)
from heimdall_simulation.propagation import (
    HIGHEST_GROUND_WAVE_HZ,
    HIGHEST_SKY_WAVE_HZ,
    Propagation,
    flat_earth_m,
    man_made_noise_db,
)
from heimdall_simulation.voice import AUDIO_BAND_HZ

NORTHWEST_ITALY_STATIONS = (
    Station("Giaveno", 45.02, 7.29, 600.0),
    Station("Montanaro", 45.234, 7.857, 300.0),
    Station("Torino", 45.044, 7.672, 250.0),
    Station("Coazze", 45.03, 7.27, 700.0),
    Station("Passo dei Giovi", 44.561, 8.956, 480.0),
    Station("Genova", 44.395, 8.956, 100.0),
    Station("Milano-Baggio", 45.478, 9.123, 120.0),
)
"""Stations in channel order, as their operators publish them: degrees on WGS84, metres above sea
level, which are used as heights above the ellipsoid. The geoid's undulation is ignored (about 50 m,
nearly the same for all)."""

RecordingFormat = Literal["npy", "kiwi_wav"]
_MARGIN_DEG = 0.1
"""Around stations: some ten kilometres."""
_LEAST_GUARD_S = 2e-3
"""600 km of travel; larger regions have more."""
_LARGEST_DEVIATION = 6
"""In standard deviations, of a station's delay."""
_LARGEST_DELAY_SIGMA_S = 1e-2
_LEAST_SAMPLES = 1024
"""One segment of the level measurement (see `receiver`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishaps:
    """Probabilities of incomplete or unfit recordings, per session (`no_position`: per source)."""

    receiver_down: float = 0.10
    """One station did not record."""
    pending: float = 0.03
    """The session is not approved yet."""
    rejected: float = 0.03
    """An operator has rejected the session."""
    failed: float = 0.02
    """The recording was not completed."""
    no_position: float = 0.01
    """The transmitter's position is unknown."""
    object_missing: float = 0.01
    """An object in the catalogue is not in the store."""
    object_truncated: float = 0.01
    """An object is shorter than its header says."""

    def __post_init__(self) -> None:
        for probability in fields(self):
            require_within(self, probability.name, 0, 1)
        if self.pending + self.rejected + self.failed > 1:
            raise SimulationError(
                f"pending {self.pending}, rejected {self.rejected} and failed {self.failed} "
                "exclude each other, but add up to more than 1; lower them"
            )


NO_MISHAPS = Mishaps(**dict.fromkeys((f.name for f in fields(Mishaps)), 0))
"""Every session is complete and approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A region, its stations and its radio. An invalid setting raises a `SimulationError`."""

    name: str = "northwest-italy"
    """Name, which sessions and sources begin with."""
    stations: tuple[Station, ...] = NORTHWEST_ITALY_STATIONS
    """Receivers, in channel order."""
    latitude_deg: tuple[float, float] = (44.3, 45.6)
    """South and north; sources are uniform in the rectangle."""
    longitude_deg: tuple[float, float] = (7.1, 9.3)
    """West and east; across the antimeridian, (177, -178) is the same as (177, 182), and stored so.
    Longitudes that are drawn are from -180 to 180."""
    frequency_hz: tuple[float, float] = (144e6, 146e6)
    """Nominal carrier of a source, uniform; receivers are tuned to it."""
    sessions_per_source: int = 1
    """Sessions of each transmitter."""
    antenna_height_m: tuple[float, float] = (150.0, 450.0)
    """Transmitting antenna above sea level, uniform: a mast or a car in the plain."""
    radiated_dbm: tuple[float, float] = (30.0, 43.0)
    """EIRP of a source, uniform in dB: 1 W to 20 W."""
    session_power_sigma_db: float = 1.0
    """Standard deviation of a session's power from its source's."""
    deviation_hz: tuple[float, float] = (2500.0, 5000.0)
    """Peak deviation of FM: 12.5 kHz to 25 kHz channels."""
    modulations: tuple[Modulation, ...] = ("fm",)
    """Each source has one of these, all equally likely."""
    am_depth: tuple[float, float] = (0.6, 0.95)
    """Depth of AM, uniform; with 1 the carrier just vanishes at the lowest point."""
    channel: Channel = field(default_factory=Channel)
    """Fading, echoes and detours."""
    interference: Interference = field(default_factory=Interference)
    """Other transmitters on the frequency."""
    path_loss_exponent: float = 3.2
    """Growth of the path loss with distance; 2 is free space."""
    reference_m: float = 1000.0
    """Distance up to which free space is assumed."""
    shadowing_sigma_db: float = 6.0
    """Standard deviation of shadowing, fixed for a place and station."""
    shadowing_decorrelation_m: float = 20_000.0
    """Gudmundson's distance; long, because hills and not houses shade a VHF path."""
    fading_sigma_db: float = 3.0
    """Deviation per session and receiver, which no map can learn."""
    gain_sigma_db: float = 2.0
    """Deviation of the stations' gains, fixed and unknown."""
    noise_figure_db: float = 8.0
    """Receiver and man-made noise together."""
    noise_floor_dbfs: float = -84.0
    """Noise of a station without gain error, in the sampled band: 2 LSB rms."""
    transmitter_offset_ppm: float = 1.0
    """Standard deviation of a source's carrier."""
    receiver_offset_ppm: float = 0.5
    """Standard deviation of a station's mixer, fixed."""
    receiver_drift_ppm: float = 0.1
    """Standard deviation of a mixer's additional error per session."""
    clock_error_s: float = 1e-7
    """Standard deviation of a time stamp; 0.1 us is a locked GNSS clock."""
    sample_rate_hz: float = 48_000.0
    """Rate of the recordings."""
    n_samples: int = 24_000
    """Length of the recordings."""
    recording_format: RecordingFormat = "npy"
    """`npy` has no clock; `kiwi_wav` has GNSS stamps and only complete blocks of 512 samples."""
    world_seed: int = 145
    """Seed of everything that never changes: shadowing maps, gains and mixers of the stations."""
    mishaps: Mishaps = field(default_factory=Mishaps)
    """Probabilities of faults."""
    propagation: Propagation = field(default_factory=Propagation, repr=False)
    """Kind of wave; `with_propagation` also sets its usual losses and noise."""
    bandwidth_hz: float | None = field(default=None, repr=False)
    """Width of the transmitter's filter around the carrier; None: the modulation's own width."""
    receiver_delay_sigma_s: float = field(default=0.0, repr=False)
    """Standard deviation of the stations' constant delays (filters, cables, software), fixed and
    unknown. Stations of one kind have one delay, which time differences do not contain."""
    raster_hz: float = field(default=12_500.0, repr=False)
    """Carriers are multiples of this; 12.5 kHz is the channel spacing of the 2 m band."""

    def __post_init__(self) -> None:
        self._set_region()
        for name in _RANGES:
            require_order(self, name)
        for name in _SPREADS:
            require_within(self, name)
        for name in ("shadowing_decorrelation_m", "reference_m", "raster_hz"):
            require_within(self, name, positive=True)
        require_within(self, "receiver_delay_sigma_s", 0, _LARGEST_DELAY_SIGMA_S)
        require_within(self, "sessions_per_source", 1, 10**9)
        require_within(self, "n_samples", _LEAST_SAMPLES, 10**8)
        if self.recording_format not in get_args(RecordingFormat):
            raise SimulationError(
                f"recording_format is {self.recording_format!r}; give one of "
                f"{', '.join(get_args(RecordingFormat))}"
            )
        names = [station.name for station in self.stations]
        if not names or len(set(names)) < len(names):
            raise SimulationError(f"stations are {names}; give at least one, each once")
        self._check_modulations()
        self._check_band()

    @property
    def channel_hz(self) -> float:
        """Width of the widest possible signal."""
        widest_hz = max(channel_width_hz(name, self.deviation_hz[1]) for name in self.modulations)
        return widest_hz if self.bandwidth_hz is None else min(widest_hz, self.bandwidth_hz)

    @property
    def guard_s(self) -> float:
        """Length of the period beyond the recording, so that no delay wraps into the recording."""
        corners = [(south, west) for south in self.latitude_deg for west in self.longitude_deg]
        stations = [[station.position_deg] for station in self.stations]
        farthest_m = float(self.propagation.distance_m(stations, 0.0, corners, 0.0).max())
        # A tenth more for altitudes, clocks, and regions that are not a rectangle on the ground.
        return max(
            _LEAST_GUARD_S,
            1.1 * self.propagation.longest_delay_s(farthest_m)
            + self.channel.longest_echo_s
            + _LARGEST_DEVIATION * self.receiver_delay_sigma_s,
        )

    def with_stations(self, name: str, stations: tuple[Station, ...]) -> Self:
        """The same radio with other stations, and with transmitters around them."""
        if not stations:
            raise SimulationError(f"{name} has no stations; give at least one")
        latitudes, longitudes = zip(*(s.position_deg for s in stations), strict=True)
        west, east = _narrowest_arc(longitudes)
        return replace(
            self,
            name=name,
            stations=stations,
            latitude_deg=(
                max(min(latitudes) - _MARGIN_DEG, -90.0),
                min(max(latitudes) + _MARGIN_DEG, 90.0),
            ),
            longitude_deg=(west - _MARGIN_DEG, min(east + _MARGIN_DEG, west - _MARGIN_DEG + 360)),
        )

    def with_propagation(self, propagation: Propagation) -> Self:
        """The same scenario with another kind of wave, and the losses and noise usual with it.

        Ground waves weaken as in free space, and beyond the flat earth by 40 dB a decade; sky
        waves as in free space along their path, without absorption. Both are heard in the noise
        made by man in the country. A line of sight changes nothing else.
        """
        frequency_hz = self.frequency_hz[0]
        if propagation.wave == "line_of_sight":
            return replace(self, propagation=propagation)
        is_ground = propagation.wave == "ground_wave"
        return replace(
            self,
            propagation=propagation,
            path_loss_exponent=4.0 if is_ground else 2.0,
            reference_m=flat_earth_m(frequency_hz),
            shadowing_sigma_db=2.0 if is_ground else 0.0,
            shadowing_decorrelation_m=100e3,
            fading_sigma_db=1.0 if is_ground else 6.0,
            noise_figure_db=man_made_noise_db(frequency_hz),
        )

    def distinctly_named(self) -> Self:
        """The same scenario with a name that no other scenario has, unless it is the demo's.

        Ids of sessions follow from the name: other scenarios must not replace each other's.
        """
        if self == NORTHWEST_ITALY:
            return self
        text = repr(self)
        # Scenarios without later settings keep the names that they had before.
        for name in _LATER_SETTINGS:
            if (value := getattr(self, name)) != getattr(NORTHWEST_ITALY, name):
                text += f" {name}={value!r}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return replace(self, name=f"{self.name} {digest}")

    def _set_region(self) -> None:
        """Check the region, and count its longitudes from a west within -180 and 180."""
        south, north = self.latitude_deg
        if not -90 <= south <= north <= 90:
            raise SimulationError(
                f"latitude_deg is ({south}, {north}); give (south, north) from -90 to 90"
            )
        west, east = self.longitude_deg
        across = east < west
        width = east - west + 360 * across
        # A region around more than half the Earth is more likely one whose sides are exchanged.
        if not (abs(west) <= 360 and abs(east) <= 540 and width <= (180 if across else 360)):
            raise SimulationError(
                f"longitude_deg is ({west}, {east}); give (west, east) in degrees, such as (7, 9), "
                "or (177, -178) across the antimeridian"
            )
        turned = math.remainder(west, 360) - west
        if across or turned:
            longitude_deg = (west + turned, east + turned + 360 * across)
            object.__setattr__(self, "longitude_deg", longitude_deg)

    def _check_modulations(self) -> None:
        if not self.modulations or not set(self.modulations) <= set(MODULATIONS):
            raise SimulationError(
                f"modulations are {list(self.modulations)}; give one or more of "
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

    def _check_band(self) -> None:
        if not self.sample_rate_hz > 1.5 * self.channel_hz:
            raise SimulationError(
                f"sample rate {self.sample_rate_hz} Hz leaves no noise beside a channel of "
                f"{self.channel_hz:g} Hz; give more than {1.5 * self.channel_hz:g} Hz, "
                "less deviation, or a bandwidth_hz of less than "
                f"{self.sample_rate_hz / 1.5:g}"
            )
        if self.bandwidth_hz is not None:
            # A narrower filter would leave nothing of a single sideband.
            require_within(self, "bandwidth_hz", 4 * AUDIO_BAND_HZ[0])
        least_hz, highest_hz = self.frequency_hz
        if least_hz < self.sample_rate_hz / 2:
            raise SimulationError(
                f"frequency_hz {least_hz:g} is less than half the sample rate "
                f"{self.sample_rate_hz:g}; the sampled band would begin below 0 Hz"
            )
        limit_hz = _HIGHEST_HZ.get(self.propagation.wave, highest_hz)
        if highest_hz > limit_hz:
            raise SimulationError(
                f"a {self.propagation.wave} of frequency_hz {highest_hz:g}; such waves carry up to "
                f"{limit_hz:g} Hz, so give another frequency or another wave"
            )
        offset_hz = self.interference.offset_hz
        edge_hz = offset_hz + self.channel_hz / 2
        if self.interference.n_interferers and edge_hz > self.sample_rate_hz / 2:
            raise SimulationError(
                f"interferers {offset_hz:g} Hz from a channel of {self.channel_hz:g} Hz are "
                f"outside the {self.sample_rate_hz:g} Hz sampled; give an offset_hz of at most "
                f"{(self.sample_rate_hz - self.channel_hz) / 2:g}"
            )


def _narrowest_arc(longitudes_deg: Sequence[float]) -> tuple[float, float]:
    """Return the west and east of the narrowest arc that holds all; its east may be past 180."""
    ordered = sorted(longitudes_deg)
    arcs = [(ordered[0], ordered[-1])]
    # Each of the others leaves out what lies between two neighbours.
    arcs += [(after, before + 360) for before, after in itertools.pairwise(ordered)]
    return min(arcs, key=lambda arc: arc[1] - arc[0])


_RANGES = (
    "frequency_hz",
    "antenna_height_m",
    "radiated_dbm",
    "deviation_hz",
)
_HIGHEST_HZ = {"ground_wave": HIGHEST_GROUND_WAVE_HZ, "sky_wave": HIGHEST_SKY_WAVE_HZ}
_LATER_SETTINGS = ("propagation", "bandwidth_hz", "receiver_delay_sigma_s", "raster_hz")
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
"""The scenario of `heimdall demo`."""
