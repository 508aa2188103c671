"""`heimdall ingest`: recordings on disk, or simulated ones, into the store and the catalogue."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import datetime  # noqa: TC003 - cyclopts reads the annotations
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError, UsageError
from heimdall_trainer.simulation_flags import SimulationFlags

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_data import NewSession, Station

__all__ = ["app"]

app = cyclopts.App(
    name="ingest", help="Store recordings and catalogue them.", help_formatter="plain"
)
NOWHERE = Connections()
AS_IN_THE_DEMO = SimulationFlags()


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
    """
    from heimdall_data import NewSource
    from heimdall_data.from_files import new_session_from_files
    from heimdall_data.recording_paths import recording_paths

    if not recordings:
        raise UsageError("no recording is given; name one file of each receiver")
    session = new_session_from_files(
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
    )
    _ingest([replace(session, approval_status=approval)], 1, connections)


@app.command
def manifest(
    file: Path,
    /,
    *,
    stations: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
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
    dry_run
        Only check.
    """
    from heimdall_data.manifest import ManifestError, read_manifest

    try:
        sessions = read_manifest(file, _stations(stations), progress=sys.stderr.isatty())
    except ManifestError as error:
        if len(error.problems) == 1:
            raise
        print(error, file=sys.stderr)
        raise TrainerError(error.summary) from error
    if dry_run:
        n_files = sum(len(session.files) for session in sessions.sessions)
        print(f"{len(sessions)} sessions of {n_files} recordings are in order; nothing was stored")
    else:
        _ingest(sessions, len(sessions), connections)


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
    from heimdall_data.simulate import simulate_sessions

    simulated_sessions = simulate_sessions(sessions, seed, radio.scenario())
    made = (session.new_session for session in simulated_sessions)
    _ingest(made, sessions, connections)


def _stations(path: Path | None) -> tuple[Station, ...]:
    from heimdall_data.from_files import stations_from_csv

    return () if path is None else stations_from_csv(path)


def _aware(moment: datetime | None) -> datetime | None:
    from datetime import UTC

    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _ingest(sessions: Iterable[NewSession], total: int, connections: Connections) -> None:
    from heimdall_data import Catalogue, ObjectStore
    from heimdall_data.ingest import ingest
    from tqdm import tqdm

    s3 = connections.need_s3()
    with (
        Catalogue(connections.need_database()) as catalogue,
        tqdm(total=total, unit="session", desc="ingest", disable=None) as bar,
    ):
        store = ObjectStore(s3, s3.raw_iq_bucket)
        report = ingest(catalogue, store, sessions, progress=bar.update)
    print(
        f"{report.sessions_added} sessions added, {report.sessions_known} known before; "
        f"{report.objects_stored} objects stored ({report.bytes_stored / 1e6:.1f} MB)"
    )
