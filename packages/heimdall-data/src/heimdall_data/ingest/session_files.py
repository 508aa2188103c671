"""Recordings on disk as a session to ingest.

Each is decoded first, so that nothing unusable is ingested, and then stored unchanged. Positions
of stations come from the caller, or from SigMF's geolocation.
"""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.new_session import (
    NewRecording,
    NewSession,
    check_moment,
    check_session,
    check_station,
    is_same_place,
)
from heimdall_data.ingest.plausibility import check_plausible, copies, plausibility_warnings
from heimdall_data.ingest.recording_file import Details, RecordingFile, recording_paths
from heimdall_data.ingest.table import number, read_table
from heimdall_data.recordings.iq_wav import program_name
from heimdall_data.recordings.sigmf_emitter import known_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from heimdall_data.ingest.new_session import NewSource

_FARTHEST_M = 5_000
"""A receiver's own position may be that of its town hall; beyond this, one of the two is wrong."""

_GIVE_POSITION = (
    "give --latitude and --longitude (in a manifest source_latitude and source_longitude)"
)

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)

_STATION_COLUMNS = ("name", "latitude", "longitude", "altitude_m")

log_warning = logging.getLogger(__name__).warning


def new_session_from_files(
    paths: Iterable[Path],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
    clock_sigma_s: float | None = None,
    full_scale: float | None = None,
    approval: str = "approved",
    allow_far: bool = False,
    warn: Callable[[str], object] = log_warning,
) -> NewSession:
    """Return a session of one transmission of a source, recorded in these files.

    The files are decoded now, and read again when the session is stored.

    Args:
        paths: Files with the station in their name (see `station_in_name`), folders of such
            files, and SigMF collections.
        source: The transmitter. Without a position it has the one that annotations of SigMF
            recordings give it, if any.
        stations: Only stations of SigMF recordings with a position may be missing.
        name: None makes one of the source and the start.
        start: When it began, aware; None takes the earliest time in the files.
        sample_rate_hz: For NumPy files, which do not contain it.
        clock_sigma_s: Standard deviation in seconds of the starts in files that do not state it.
        full_scale: Largest value of samples that are floats; 1 where unset.
        approval: The session's approval status.
        allow_far: The source may be over 3,000 km from every station.
        warn: Called with a sentence for each unlikely value.

    Raises:
        IngestError: A file cannot be read, its station is not known, the session has no
            start or frequency, or a value is impossible.
        RecordingError: A file cannot be decoded.
    """
    if start is not None:
        check_moment(start, "the session")
    files = []
    for path in recording_paths(paths):
        details = Details(
            sample_rate_hz=sample_rate_hz,
            start=start,
            clock_sigma_s=clock_sigma_s,
            full_scale=full_scale,
        )
        file = RecordingFile.inspected(path, details)
        files.append((file.station, file))
    session = session_files(
        files, source, stations, name=name, start=start, approval=approval, allow_far=allow_far
    )
    for problem in copies([session]):
        raise IngestError(problem)
    for warning in plausibility_warnings(session):
        warn(warning)
    return session


def session_files(
    files: Sequence[tuple[str, RecordingFile]],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    approval: str = "approved",
    lines: Sequence[str] = (),
    allow_far: bool = False,
) -> NewSession:
    """As `new_session_from_files`, of inspected files, each with its station's name.

    `lines` are the lines of a manifest that the files come from, for messages. Copies of files
    and unlikely values are for the caller to check.
    """
    if not files:
        raise IngestError(f"no file for the session of {source.name!r}; give at least one")
    began = start or min((f.start for _, f in files if f.start is not None), default=None)
    if began is None:
        raise IngestError(
            f"no file of {source.name!r} (of {len(files)}) contains its time; give --start, or "
            f"start in a manifest"
        )
    source = _placed(source, [file for _, file in files])
    known = {station.name: station for station in stations}
    measurements = []
    for (station, file), line in zip_longest(files, lines):
        where = line or str(file.path)
        frequency_hz = file.center_frequency_hz or source.frequency_hz
        if frequency_hz is None:
            raise IngestError(
                f"{where}: neither file nor {source.name!r} has a frequency; give --frequency-hz, "
                f"or frequency_hz in a manifest"
            )
        measurements.append(
            NewRecording(
                station=_station(station, known, file),
                payload=None,
                file=file,
                format=file.format,
                sample_rate_hz=file.sample_rate_hz,
                n_samples=file.n_samples,
                frequency_hz=frequency_hz,
                signal_strength_db=file.level_db,
                start=file.start,
                where=where,
            )
        )
    session = NewSession(
        source=source,
        measurements=tuple(measurements),
        name=name or f"{source.name} {began:%Y-%m-%d %H:%M:%S}",
        start=began,
        duration_s=max(file.duration_s for _, file in files),
        approval_status=approval,
        where=lines[0] if lines else "",
    )
    check_session(session)
    check_plausible(session, allow_far=allow_far)
    return session


def _placed(source: NewSource, files: Iterable[RecordingFile]) -> NewSource:
    """The source where it is given, or else where its recordings' annotations place it."""
    if (source.latitude_deg, source.longitude_deg) != (None, None):
        return source
    known = known_places((one for file in files for one in file.emitters), source.name)
    if not known:
        return source
    first, *others = known
    for other in others:
        if not is_same_place(first.position_deg, other.position_deg):
            (north, east), (there_north, there_east) = first.position_deg, other.position_deg
            raise IngestError(
                f"source {source.name!r} is at {north}, {east} by {first.where} and at "
                f"{there_north}, {there_east} by {other.where}; {_GIVE_POSITION}, or name the "
                f"source after the label of one"
            )
    return replace(source, latitude_deg=first.position_deg[0], longitude_deg=first.position_deg[1])


def require_position(session: NewSession) -> None:
    """Refuse a session whose source has no position, which cannot be trained on.

    Raises:
        IngestError: The message says if only an estimate is there.
    """
    if session.source.latitude_deg is not None:
        return
    told = [one for item in session.measurements if item.file for one in item.file.emitters]
    problem = f"the position of source {session.source.name!r} is not given"
    if told:
        # A model that learnt from estimates would learn their errors.
        problem += f"; {told[0].where} is an estimate of heimdall locate, and no known position"
    raise IngestError(f"{problem}; {_GIVE_POSITION}")


def _station(name: str, stations: Mapping[str, Station], file: RecordingFile) -> Station:
    """The station at the caller's position, or else at the file's."""
    own = None if file.position is None else file.position[:2]
    if name not in stations:
        if own is not None:
            return Station(name, *own)
        near = difflib.get_close_matches(name, stations, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else "add it to the table of --stations, or name the file after its station"
        )
        if named := program_name(file.path.name):
            hint = (
                f"{named.program} names no station: call the file STATION.wav, or give the station "
                f"in a manifest or in a JSON file beside it"
            )
        raise IngestError(f"{file.path}: the position of station {name!r} is not given; {hint}")
    station = stations[name]
    if own is not None and (apart_m := great_circle_m(own, station.position_deg)) > _FARTHEST_M:
        raise IngestError(
            f"{file.path}: core:geolocation is {own[0]}, {own[1]}, which is {apart_m / 1e3:.0f} km "
            f"from the given position of station {name!r} ({station.latitude_deg}, "
            f"{station.longitude_deg}); correct the wrong one"
        )
    return station


def stations_from_csv(path: Path) -> tuple[Station, ...]:
    """Return the stations of a CSV file with the columns name, latitude, longitude[, altitude_m].

    Raises:
        IngestError: The file cannot be read, lacks a column, has an unknown one, or has a wrong or
            repeated row.
    """
    table = read_table(path)
    *required, _ = _STATION_COLUMNS
    if missing := set(required) - table.columns.keys():
        raise IngestError(
            f"{path}: line 1 must be name,latitude,longitude[,altitude_m]; it has no "
            f"{', '.join(sorted(missing))}"
        )
    for problem in (*table.unknown_columns(_STATION_COLUMNS), *table.problems):
        raise IngestError(problem)
    stations: dict[str, Station] = {}
    for row in table.rows:
        try:
            name = row.cells["name"]
            place = number(row.cells["latitude"]), number(row.cells["longitude"])
            altitude = row.cells.get("altitude_m")
            station = Station(name, *place, None if altitude is None else number(altitude))
        except (KeyError, ValueError) as error:
            cells = ", ".join(map(repr, row.cells.values()))
            why = f"no {error}" if isinstance(error, KeyError) else f"{cells}: {error}"
            comma = next((c for c in row.cells.values() if _DECIMAL_COMMA.fullmatch(c)), None)
            if comma is not None:
                why = f"{comma!r} has a decimal comma, write {comma.replace(',', '.')}"
            raise IngestError(f"{row.where}: {why}; give name, latitude and longitude") from error
        check_station(station, row.where)
        if name in stations:
            raise IngestError(f"{row.where}: station {name!r} is there twice; keep one line")
        stations[name] = station
    return tuple(stations.values())
