"""`heimdall ingest`: recordings on disk, or simulated ones, into the store and the catalogue."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number
from heimdall_models.training.options import N_SEEDS

from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError
from heimdall_trainer.events import LOGGER
from heimdall_trainer.flags import Switch, command_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_data import Catalogue, NewSession, ObjectStore, Station
    from heimdall_simulation import Scenario

app = command_group("ingest")
NOWHERE = Connections()
MAX_WARNINGS = 20
STATIONS = Parameter(help="CSV with the columns name, latitude, longitude and perhaps altitude_m.")
StationsFile = Annotated[Path | None, STATIONS]
FAR = Parameter(help="A transmitter may be over 3,000 km from every station.")
MOST_SIMULATED = 10_000_000
DRY = Parameter(help="Only check, and ask the catalogue where one is configured.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """The transmitter, and its position."""

    source: str
    """Name of the transmitter; recordings of one name are of one source."""
    latitude: float
    """Latitude of the transmitter, degrees north (WGS84)."""
    longitude: float
    """Longitude of the transmitter, degrees east (WGS84)."""
    frequency_hz: float | None = None
    """Its nominal carrier; the recordings' own frequency when unset."""
    error_margin_m: float = 50.0
    """Uncertainty of its position, metres."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SimulationFlags:
    """A simulated scenario; the default is FM over still, direct paths, as in the demo."""

    frequency_hz: float | None = None
    """Carrier; when unset from 144 MHz to 146 MHz, in steps of 12.5 kHz."""
    power_dbm: float | None = None
    """Radiated power (EIRP); when unset from 30 dBm to 43 dBm."""
    bandwidth_hz: float | None = None
    """Width of the transmitter's filter; the modulation's own when unset."""
    sample_rate_hz: float = 48_000.0
    """Rate of the recordings, more than 1.5 times the bandwidth."""
    duration_s: float = 0.5
    """Length of the recordings, seconds."""
    propagation: Literal["line_of_sight", "ground_wave", "sky_wave"] | None = None
    """When unset a ground wave below 3 MHz, a sky wave below 30 MHz, else a line of sight."""
    receiver_delay_us: float = 0.0
    """Standard deviation of the receivers' constant delays, microseconds."""

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
    """Delay spread of the echoes, microseconds."""
    interferers: int = 0
    """Other transmitters in each session."""
    interferer_offset_hz: float = 0.0
    """Their carriers above or below the source's; 0 is the same channel."""
    recording_format: Literal["npy", "kiwi_wav"] = "npy"
    """kiwi_wav has GNSS clocks, which arrival times need; npy has none."""
    stations: StationsFile = None
    region: Annotated[tuple[float, float, float, float] | None, Parameter(negative="")] = None
    """South, north, west, east: where transmitters stand; around the stations when unset. Across
    the antimeridian, west is more than east (-19 -16 177 -178)."""

    def scenario(self) -> Scenario:
        """Return the scenario of these flags, with a name that no other scenario has.

        Raises:
            SimulationError: A value is out of its range.
            IngestError: The stations cannot be read.
        """
        from heimdall_features.names import composed
        from heimdall_simulation import NORTHWEST_ITALY, Channel, Interference, Propagation

        scenario = NORTHWEST_ITALY
        if self.stations is not None:
            name = composed(self.stations.stem)
            scenario = scenario.with_stations(name, _stations(self.stations))
        if self.region is not None:
            south, north, west, east = self.region
            scenario = replace(scenario, latitude_deg=(south, north), longitude_deg=(west, east))
        n_samples = self.duration_s * self.sample_rate_hz
        if not (math.isfinite(n_samples) and self.duration_s > 0 and self.sample_rate_hz > 0):
            raise UsageError(
                f"--duration_s is {self.duration_s} and --sample_rate_hz {self.sample_rate_hz}; "
                "give positive numbers"
            )
        if self.frequency_hz is not None:
            # To the hertz: only drawn carriers keep to the channels of the 2 m band.
            fixed = (self.frequency_hz, self.frequency_hz)
            scenario = replace(scenario, frequency_hz=fixed, raster_hz=1.0)
        if self.power_dbm is not None:
            scenario = replace(scenario, radiated_dbm=(self.power_dbm, self.power_dbm))
        wave = (
            Propagation.usual(self.propagation)
            if self.propagation
            else Propagation.usual_at(scenario.frequency_hz[0])
        )
        return replace(
            scenario.with_propagation(wave),
            sample_rate_hz=self.sample_rate_hz,
            n_samples=round(n_samples),
            bandwidth_hz=self.bandwidth_hz,
            receiver_delay_sigma_s=self.receiver_delay_us / 1e6,
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
        ).distinctly_named()


AS_IN_THE_DEMO = SimulationFlags()


def _moment(_type: object, tokens: Sequence[Token]) -> datetime:
    """The time that a flag gives, in UTC unless it has a zone; Python's own has no leap seconds."""
    from heimdall_data.recordings.recording import utc_from_text

    try:
        return utc_from_text(tokens[0].value)
    except OverflowError as error:
        raise ValueError(f"{error}; give a year from 1 to 9999") from error


@app.default
def files(
    recordings: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    source: SourceFlags,
    stations: Path | None = None,
    start: Annotated[datetime | None, Parameter(converter=_moment)] = None,
    sample_rate_hz: float | None = None,
    clock_uncertainty_s: float | None = None,
    full_scale: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    approval: Literal["pending", "approved"] = "pending",
    allow_far: Annotated[Switch, FAR] = False,
    dry_run: Annotated[Switch, DRY] = False,
    connections: Connections = NOWHERE,
) -> None:
    """Store the recordings of one transmission as one session.

    KiwiSDR's WAV, NumPy and SigMF files are stored as they are, once each decodes; other WAV
    files with I and Q, raw samples (.cu8, .cs8, .cs16, .cf32) and compressed SigMF become SigMF.
    Storing them again changes nothing. For many sessions see `heimdall ingest manifest`.

    Parameters
    ----------
    recordings
        One file of each receiver, named after the station; or a folder of such files, or a
        .sigmf-collection.
    stations
        CSV with the columns name, latitude, longitude and perhaps altitude_m. Only stations
        whose SigMF recordings tell where they are need not be in it.
    start
        When it began, where the files do not tell; UTC unless it says otherwise.
    sample_rate_hz
        Of NumPy files and raw samples, which do not hold it.
    clock_uncertainty_s
        Standard deviation of the starts in files that do not state it, such as SigMF, seconds.
    full_scale
        Of files with floats that are counts of a converter, its largest value, such as 32768:
        they are stored as SigMF, divided by it.
    approval
        Only approved sessions are trained on.
    """
    from heimdall_data import NewSource
    from heimdall_data.ingest.session_files import new_session_from_files

    if not recordings:
        raise UsageError("no recording is given; name one file of each receiver")
    warnings: list[str] = []
    session = new_session_from_files(
        recordings,
        NewSource(
            name=source.source,
            latitude_deg=source.latitude,
            longitude_deg=source.longitude,
            frequency_hz=source.frequency_hz,
            error_margin_m=source.error_margin_m,
        ),
        _stations(stations),
        start=start,
        sample_rate_hz=sample_rate_hz,
        clock_sigma_s=clock_uncertainty_s,
        full_scale=full_scale,
        approval=approval,
        allow_far=allow_far,
        warn=warnings.append,
    )
    _check_or_store((session,), warnings, connections, dry_run=dry_run)


@app.command
def manifest(
    file: Path,
    /,
    *,
    stations: StationsFile = None,
    allow_far: Annotated[Switch, FAR] = False,
    dry_run: Annotated[Switch, DRY] = False,
    connections: Connections = NOWHERE,
) -> None:
    """Store many sessions, as a table of one recording a row lists them.

    All of it is checked before any of it is stored, and all mistakes are told at once. Storing
    it again changes nothing, so that rows may be added to the same file.

    Parameters
    ----------
    file
        CSV with the columns session, source, source_latitude, source_longitude, file, and
        perhaps station, station_latitude, station_longitude, station_altitude_m, frequency_hz,
        start, start_time, start_uncertainty_s, sample_rate_hz, full_scale, approval, source_type,
        power_dbm, error_margin_m, notes; or YAML with a list `sessions`, each with these names and
        a list `recordings`.
    """
    from heimdall_data.ingest.manifest import read_manifest

    warnings: list[str] = []
    sessions = read_manifest(
        file,
        _stations(stations),
        progress=sys.stderr.isatty(),
        allow_far=allow_far,
        warn=warnings.append,
    )
    _check_or_store(sessions, warnings, connections, dry_run=dry_run)


@app.command
def simulated(
    *,
    sessions: Annotated[int, Parameter(validator=Number(gte=0, lte=MOST_SIMULATED))],
    seed: Annotated[int, Parameter(validator=Number(gte=0, lt=N_SEEDS))] = 42,
    radio: SimulationFlags = AS_IN_THE_DEMO,
    connections: Connections = NOWHERE,
) -> None:
    """Store simulated sessions, of north-west Italy unless stations are given.

    Parameters
    ----------
    sessions
        How many.
    seed
        The same seed gives the same recordings.
    """
    from heimdall_simulation import simulate_sessions

    made = simulate_sessions(sessions, seed, radio.scenario())
    _store((session.new_session for session in made), sessions, connections)


def open_servers(connections: Connections) -> tuple[Catalogue, ObjectStore]:
    """Open the catalogue and the bucket of the recordings.

    Raises:
        TrainerError: One of them is not configured.
    """
    from heimdall_data import Catalogue, ObjectStore

    s3 = connections.need_s3()
    return Catalogue(connections.need_database()), ObjectStore(s3, s3.raw_iq_bucket)


def _stations(path: Path | None) -> tuple[Station, ...]:
    from heimdall_data.ingest.session_files import stations_from_csv

    return () if path is None else stations_from_csv(path)


def _check_or_store(
    sessions: Sequence[NewSession],
    warnings: Sequence[str],
    connections: Connections,
    *,
    dry_run: bool,
) -> None:
    from heimdall_data.ingest.ingest import look_ahead

    for warning in warnings[:MAX_WARNINGS]:
        LOGGER.warning("%s", warning)
    if (n_more := len(warnings) - MAX_WARNINGS) > 0:
        print(f"... and {n_more} more warnings", file=sys.stderr)
    if not dry_run:
        _store(sessions, len(sessions), connections)
        return
    known, note = "", "; HEIMDALL_DATABASE_URL is unset: no catalogue asked"
    if connections.database_url:
        catalogue, store = open_servers(connections)
        with catalogue:
            store.require_bucket()
            known, note = f", {look_ahead(catalogue, store, sessions)} known before", ""
    n_files = sum(len(session.measurements) for session in sessions)
    order = f"{_count(len(sessions), 'session')} of {_count(n_files, 'recording')}"
    print(f"in order: {order}{known}; nothing was stored{note}")


def _store(sessions: Iterable[NewSession], total: int, connections: Connections) -> None:
    from heimdall_data.ingest.ingest import ingest

    catalogue, store = open_servers(connections)
    with catalogue:
        report = ingest(catalogue, store, sessions, progress=sys.stderr.isatty(), total=total)
    print(
        f"{_count(report.sessions_added, 'session')} added, {report.sessions_known} known before; "
        f"{_count(report.objects_stored, 'object')} stored ({report.bytes_stored / 1e6:.1f} MB)"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
