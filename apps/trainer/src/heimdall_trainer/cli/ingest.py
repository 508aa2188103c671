"""`heimdall ingest`: recordings on disk, or simulated ones, into the store and the catalogue."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import cyclopts
from cyclopts import Parameter

from heimdall_trainer.cli.simulation_flags import SimulationFlags
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_data import Catalogue, NewSession, ObjectStore, Station
    from heimdall_data.ingest.conflicts import ConflictError
    from heimdall_data.ingest.manifest import Manifest, ManifestError

__all__ = ["app"]

app = cyclopts.App(
    name="ingest", help="Store recordings and catalogue them.", help_formatter="plain"
)
NOWHERE = Connections()
AS_IN_THE_DEMO = SimulationFlags()
MAX_WARNINGS = 20
Switch = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """What transmitted, and where it is."""

    source: str
    """Name of the transmitter; recordings of one name are of one source."""
    latitude: float
    """Of the transmitter, degrees north (WGS84)."""
    longitude: float
    """Of the transmitter, degrees east (WGS84)."""
    frequency_hz: float | None = None
    """Its nominal carrier; the recordings' own frequency when unset."""
    error_margin_m: float = 50.0
    """How well its position is known."""


@app.default
def files(
    recordings: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    source: SourceFlags,
    stations: Path | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
    approval: Literal["pending", "approved"] = "pending",
    allow_far: Switch = False,
    dry_run: Switch = False,
    connections: Connections = NOWHERE,
) -> None:
    """Store the recordings of one transmission as one session.

    KiwiSDR's WAV, NumPy and SigMF files are stored as they are, once each decodes. Storing
    them again changes nothing. For many sessions see `heimdall ingest manifest`.

    Parameters
    ----------
    recordings
        One file of each receiver, whose name tells the station; or a folder of such files, or
        a .sigmf-collection.
    stations
        CSV with the columns name, latitude, longitude and perhaps altitude_m. Only stations
        whose SigMF recordings tell where they are need not be in it.
    start
        When it began, where the files do not tell; UTC unless it says otherwise.
    sample_rate_hz
        Of NumPy files, which do not hold it.
    approval
        Only approved sessions are trained on.
    allow_far
        The transmitter may be over 3,000 km from every station.
    dry_run
        Only check, and ask the catalogue where one is configured.
    """
    from heimdall_data import NewSource
    from heimdall_data.ingest.manifest import Manifest
    from heimdall_data.ingest.recording_file import recording_paths
    from heimdall_data.ingest.session_files import session_from_paths

    if not recordings:
        raise UsageError("no recording is given; name one file of each receiver")
    session = session_from_paths(
        recording_paths(recordings),
        NewSource(
            name=source.source,
            latitude_deg=source.latitude,
            longitude_deg=source.longitude,
            frequency_hz=source.frequency_hz,
            error_margin_m=source.error_margin_m,
        ),
        _stations(stations),
        start=_aware(start),
        sample_rate_hz=sample_rate_hz,
        approval=approval,
        allow_far=allow_far,
    )
    _check_or_ingest(Manifest((session,)), connections, dry_run=dry_run)


@app.command
def manifest(
    file: Path,
    /,
    *,
    stations: Path | None = None,
    allow_far: Switch = False,
    dry_run: Switch = False,
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
        start, sample_rate_hz, approval, source_type, power_dbm, error_margin_m, notes; or
        YAML with a list `sessions`, each with these names and a list `recordings`.
    stations
        CSV with the columns name, latitude, longitude and perhaps altitude_m.
    allow_far
        Transmitters may be over 3,000 km from every station.
    dry_run
        Only check, and ask the catalogue where one is configured.
    """
    from heimdall_data.ingest.manifest import ManifestError, read_manifest

    try:
        sessions = read_manifest(
            file, _stations(stations), progress=sys.stderr.isatty(), allow_far=allow_far
        )
    except ManifestError as error:
        _fail_in_lines(error)
    _check_or_ingest(sessions, connections, dry_run=dry_run)


@app.command
def simulated(
    *,
    sessions: int,
    seed: int = 42,
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

    simulated_sessions = simulate_sessions(sessions, seed, radio.scenario())
    made = (session.new_session for session in simulated_sessions)
    _ingest(made, sessions, connections)


def _stations(path: Path | None) -> tuple[Station, ...]:
    from heimdall_data.ingest.session_files import stations_from_csv

    return () if path is None else stations_from_csv(path)


def _aware(moment: datetime | None) -> datetime | None:
    from datetime import UTC

    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _check_or_ingest(sessions: Manifest, connections: Connections, *, dry_run: bool) -> None:
    from heimdall_data.ingest.conflicts import ConflictError

    _print_warnings(sessions.warnings)
    try:
        if dry_run:
            print(_checked(sessions, connections))
        else:
            _ingest(sessions, len(sessions), connections)
    except ConflictError as error:
        _fail_in_lines(error)


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings[:MAX_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > MAX_WARNINGS:
        print(f"... and {len(warnings) - MAX_WARNINGS} more warnings", file=sys.stderr)


def _fail_in_lines(error: ManifestError | ConflictError) -> NoReturn:
    """End with a line for each mistake; one is told as every other command does."""
    if len(error.problems) == 1:
        raise error
    print(error, file=sys.stderr)
    raise TrainerError(error.summary) from error


def _checked(sessions: Manifest, connections: Connections) -> str:
    """What a look says, at the files and at the catalogue, if there is one."""
    from heimdall_data.ingest.ingest import look_ahead

    n_files = sum(len(session.files) for session in sessions.sessions)
    order = f"in order: {_count(len(sessions), 'session')} of {_count(n_files, 'recording')}"
    if not connections.database_url:
        return f"{order}; nothing was stored; HEIMDALL_DATABASE_URL is unset: no catalogue asked"
    catalogue, store = _servers(connections)
    with catalogue:
        store.require_bucket()
        n_known = look_ahead(catalogue, store, sessions)
    return f"{order}, {n_known} known before; nothing was stored"


def _servers(connections: Connections) -> tuple[Catalogue, ObjectStore]:
    from heimdall_data import Catalogue, ObjectStore

    s3 = connections.need_s3()
    return Catalogue(connections.need_database()), ObjectStore(s3, s3.raw_iq_bucket)


def _ingest(sessions: Iterable[NewSession], total: int, connections: Connections) -> None:
    from heimdall_data.ingest.ingest import ingest
    from tqdm import tqdm

    catalogue, store = _servers(connections)
    with catalogue, tqdm(total=total, unit="session", desc="ingest", disable=None) as bar:
        report = ingest(catalogue, store, sessions, progress=bar.update)
    print(
        f"{_count(report.sessions_added, 'session')} added, {report.sessions_known} known before; "
        f"{_count(report.objects_stored, 'object')} stored ({report.bytes_stored / 1e6:.1f} MB)"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
