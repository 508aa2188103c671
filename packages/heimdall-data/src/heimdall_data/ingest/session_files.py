"""Recordings on disk as a session to ingest.

KiwiSDR WAVs, NumPy files and SigMF recordings (an archive, or a data file with its metadata
beside it). Each is decoded first, so that nothing unusable is ingested, and then stored as it
is, byte by byte. Positions of stations come from the caller, or from SigMF's geolocation.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.checks import check_session, check_station
from heimdall_data.ingest.new_session import NewRecording, NewSession
from heimdall_data.ingest.plausibility import check_plausible, doubts
from heimdall_data.ingest.recording_file import RecordingFile, recording_paths, station_in_name
from heimdall_data.ingest.table import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from heimdall_data.ingest.new_session import NewSource
    from heimdall_data.ingest.table import Row

__all__ = [
    "SessionFiles",
    "new_session_from_files",
    "session_files",
    "session_from_paths",
    "stations_from_csv",
]

FARTHEST_M = 5_000
"""A receiver's own position may be of its town hall; farther off, one of the two is wrong."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFiles:
    """A session whose files were checked and are not in memory."""

    announced: NewSession
    """All of it but the recordings' bytes."""
    files: tuple[RecordingFile, ...]
    """Of its measurements, in their order."""
    doubts: tuple[str, ...] = ()
    """What of it is unlikely, and may be right."""

    def with_approval(self, approval: str) -> SessionFiles:
        """The same with another `approval_status`."""
        return replace(self, announced=replace(self.announced, approval_status=approval))

    def found_at(self, lines: Sequence[str]) -> SessionFiles:
        """The same, with the place in a manifest that each measurement comes from."""
        measurements = tuple(
            replace(measurement, where=line)
            for measurement, line in zip(self.announced.measurements, lines, strict=True)
        )
        announced = replace(self.announced, measurements=measurements, where=lines[0])
        return replace(self, announced=announced)

    def loaded(self) -> NewSession:
        """The session with the bytes of its recordings.

        Raises:
            IngestError: A file is no longer what was checked.
        """
        contents = [file.content() for file in self.files]
        measurements = tuple(
            replace(measurement, payload=payload, metadata=metadata)
            for measurement, (payload, metadata) in zip(
                self.announced.measurements, contents, strict=True
            )
        )
        return replace(self.announced, measurements=measurements)


def new_session_from_files(
    paths: Mapping[str, Path] | Iterable[Path],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
    allow_far: bool = False,
) -> NewSession:
    """A session of one transmission of a source, as these files hold it.

    What of it is unlikely is logged.

    Args:
        paths: A file for each station's name; or files whose own names tell the station,
            as `station_in_name` has it, folders of such, and SigMF collections.
        source: What transmitted, and where.
        stations: All stations that may occur, with their positions; others need a SigMF
            recording that tells its place.
        name: The session's name; None makes one of the source and the start.
        start: When it began, aware; None takes the earliest time the files tell.
        sample_rate_hz: Of NumPy files, which do not hold it.
        allow_far: The source may be over 3,000 km from every station.

    Raises:
        IngestError: A file cannot be read, its station is not known, the session has no
            start or frequency, or something of it cannot be true.
        RecordingError: A file cannot be decoded.
    """
    made = session_from_paths(
        paths,
        source,
        stations,
        name=name,
        start=start,
        sample_rate_hz=sample_rate_hz,
        allow_far=allow_far,
    )
    for doubt in made.doubts:
        _log.warning("session %r of %r: %s", made.announced.name, source.name, doubt)
    return made.loaded()


def session_from_paths(
    paths: Mapping[str, Path] | Iterable[Path],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
    allow_far: bool = False,
) -> SessionFiles:
    """As `new_session_from_files`, without the recordings' bytes in memory."""
    if isinstance(paths, Mapping):
        recording_paths(paths.values())
        pairs = [(station, Path(path)) for station, path in paths.items()]
    else:
        pairs = [(station_in_name(path), path) for path in recording_paths(paths)]
    files = [
        (station, RecordingFile.inspected(path, sample_rate_hz=sample_rate_hz, start=start))
        for station, path in pairs
    ]
    return session_files(files, source, stations, name=name, start=start, allow_far=allow_far)


def session_files(
    files: Iterable[tuple[str, RecordingFile]],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    allow_far: bool = False,
) -> SessionFiles:
    """A session of files that were inspected, each with its station's name.

    Raises:
        IngestError: There is no file, a station's position is not known or contradicts the
            file's, the session has no start or frequency, or something of it cannot be true.
    """
    files = tuple(files)
    if not files:
        raise IngestError(f"no file for the session of {source.name!r}; give at least one")
    began = start or min((f.start for _, f in files if f.start is not None), default=None)
    if began is None:
        raise IngestError(
            f"none of the {len(files)} files of {source.name!r} tells when it was recorded; "
            f"give the session's start"
        )
    known = {station.name: station for station in stations}
    announced = NewSession(
        source=source,
        measurements=tuple(
            _announced(file, _station(station, known, file), source) for station, file in files
        ),
        name=name or f"{source.name} {began:%Y-%m-%d %H:%M:%S}",
        start=began,
        duration_s=max(file.duration_s for _, file in files),
    )
    inspected = tuple(file for _, file in files)
    check_session(announced)
    check_plausible(announced, inspected, allow_far=allow_far)
    return SessionFiles(announced=announced, files=inspected, doubts=doubts(announced, inspected))


def stations_from_csv(path: Path) -> tuple[Station, ...]:
    """Stations of a CSV file with the columns name, latitude, longitude, and maybe altitude_m.

    Raises:
        IngestError: The file cannot be read, lacks a column, or holds what is no number.
    """
    table = read_table(path)
    for problem in table.problems:
        raise IngestError(problem)
    stations = [_listed(row) for row in table.rows]
    names = Counter(station.name for station in stations)
    if twice := [name for name, n in names.items() if n > 1]:
        raise IngestError(f"{path} lists {', '.join(twice)} twice; keep one line of each")
    return tuple(stations)


def _listed(row: Row) -> Station:
    if missing := [name for name in ("name", "latitude", "longitude") if name not in row.cells]:
        raise IngestError(f"{row.where} has no {' and no '.join(missing)}; found {row.cells}")
    try:
        numbers = [
            float(row.cells[name])
            for name in ("latitude", "longitude", "altitude_m")
            if name in row.cells
        ]
    except ValueError as error:
        raise IngestError(f"{row.where}: {error}; give degrees and metres as numbers") from error
    station = Station(row.cells["name"], *numbers)
    check_station(station, row.where)
    return station


def _station(name: str, stations: Mapping[str, Station], file: RecordingFile) -> Station:
    """The station where the caller says it is, or else where the file does."""
    own = file.receiver_deg
    if name not in stations:
        if own is not None:
            return Station(name, *own)
        near = difflib.get_close_matches(name, stations, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {_some(stations)}; add it"
        raise IngestError(f"{file.path}: the position of station {name!r} is not given; {hint}")
    station = stations[name]
    if own is not None and (apart_m := great_circle_m(own, station.position_deg)) > FARTHEST_M:
        raise IngestError(
            f"{file.path}: core:geolocation is {own[0]}, {own[1]}, which is {apart_m / 1e3:.0f} km "
            f"from where station {name!r} is said to be ({station.latitude_deg}, "
            f"{station.longitude_deg}); correct the wrong one"
        )
    return station


def _some(names: Iterable[str], most: int = 8) -> str:
    """Some of the names; a network has hundreds."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def _announced(file: RecordingFile, station: Station, source: NewSource) -> NewRecording:
    frequency_hz = file.center_frequency_hz or source.frequency_hz
    if frequency_hz is None:
        raise IngestError(
            f"neither the recording of {station.name!r} nor the source {source.name!r} "
            f"tells the frequency; give the source's"
        )
    return NewRecording(
        station=station,
        payload=None,
        format=file.format,
        sample_rate_hz=file.sample_rate_hz,
        n_samples=file.n_samples,
        frequency_hz=frequency_hz,
        signal_strength_db=file.level_db,
        start=file.start,
        where=str(file.path),
    )
