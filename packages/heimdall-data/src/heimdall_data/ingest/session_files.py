"""Recordings on disk as a session to ingest.

KiwiSDR WAVs, NumPy files and SigMF recordings (an archive, or a data file with its metadata
beside it). Each is decoded first, so that nothing unusable is ingested, and then stored as it
is, byte by byte. Positions of stations come from the caller, or from SigMF's geolocation.
"""

from __future__ import annotations

import difflib
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.new_session import (
    NewRecording,
    NewSession,
    check_session,
    check_station,
)
from heimdall_data.ingest.plausibility import check_plausible, plausibility_warnings
from heimdall_data.ingest.recording_file import RecordingFile, recording_paths, station_in_name
from heimdall_data.ingest.table import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from heimdall_data.ingest.new_session import NewSource

__all__ = [
    "SessionFiles",
    "new_session_from_files",
    "session_files",
    "session_from_paths",
    "stations_from_csv",
]

_FARTHEST_M = 5_000
"""A receiver's own position may be of its town hall; farther off, one of the two is wrong."""
_MOST_NAMES = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFiles:
    """A session whose files were checked and are not in memory."""

    outline: NewSession
    """The session without the bytes of its recordings."""
    files: tuple[RecordingFile, ...]
    """Of its measurements, in their order."""
    warnings: tuple[str, ...] = ()
    """Values that are unlikely, and may be right."""

    def loaded(self) -> NewSession:
        """Return the session with the bytes of its recordings.

        Raises:
            IngestError: A file changed since it was checked.
        """
        measurements = []
        for measurement, file in zip(self.outline.measurements, self.files, strict=True):
            payload, metadata = file.content()
            measurements.append(replace(measurement, payload=payload, metadata=metadata))
        return replace(self.outline, measurements=tuple(measurements))


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
    """Return a session of one transmission of a source, as these files hold it.

    Unlikely values are logged as warnings.

    Args:
        paths: A file for each station's name; or files whose own names tell the station,
            as `station_in_name` has it, folders of such, and SigMF collections.
        source: The transmitter and its place.
        stations: All stations that may occur, with their positions; others need a SigMF
            recording with its place.
        name: The session's name; None makes one of the source and the start.
        start: When it began, aware; None takes the earliest time in the files.
        sample_rate_hz: Of NumPy files, which do not hold it.
        allow_far: The source may be over 3,000 km from every station.

    Raises:
        IngestError: A file cannot be read, its station is not known, the session has no
            start or frequency, or a value cannot be true.
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
    for warning in made.warnings:
        _log.warning("session %r of %r: %s", made.outline.name, source.name, warning)
    return made.loaded()


def session_from_paths(
    paths: Mapping[str, Path] | Iterable[Path],
    source: NewSource,
    stations: Iterable[Station],
    *,
    name: str | None = None,
    start: datetime | None = None,
    sample_rate_hz: float | None = None,
    approval: str = "approved",
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
    return session_files(
        files, source, stations, name=name, start=start, approval=approval, allow_far=allow_far
    )


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
) -> SessionFiles:
    """Return a session of files that were inspected, each with its station's name.

    `lines` are the places in a manifest that the files come from, for messages.

    Raises:
        IngestError: There is no file, a station's position is not known or contradicts the
            file's, the session has no start or frequency, or a value cannot be true.
    """
    if not files:
        raise IngestError(f"no file for the session of {source.name!r}; give at least one")
    began = start or min((f.start for _, f in files if f.start is not None), default=None)
    if began is None:
        raise IngestError(
            f"none of the {len(files)} files of {source.name!r} tells when it was recorded; "
            f"give the session's start"
        )
    known = {station.name: station for station in stations}
    outline = NewSession(
        source=source,
        measurements=tuple(
            _new_recording(file, _station(station, known, file), source, line or str(file.path))
            for (station, file), line in itertools.zip_longest(files, lines)
        ),
        name=name or f"{source.name} {began:%Y-%m-%d %H:%M:%S}",
        start=began,
        duration_s=max(file.duration_s for _, file in files),
        approval_status=approval,
        where=lines[0] if lines else "",
    )
    inspected = tuple(file for _, file in files)
    check_session(outline)
    check_plausible(outline, inspected, allow_far=allow_far)
    return SessionFiles(
        outline=outline, files=inspected, warnings=plausibility_warnings(outline, inspected)
    )


def _station(name: str, stations: Mapping[str, Station], file: RecordingFile) -> Station:
    """The station at the caller's position, or else at the file's."""
    own = file.receiver_deg
    if name not in stations:
        if own is not None:
            return Station(name, *own)
        near = difflib.get_close_matches(name, stations, 1)
        n_more = len(stations) - _MOST_NAMES  # a network has hundreds
        known = ", ".join([*stations][:_MOST_NAMES]) or "none"
        known += f" and {n_more} more" if n_more > 0 else ""
        hint = f"did you mean {near[0]!r}?" if near else f"known are {known}; add it"
        raise IngestError(f"{file.path}: the position of station {name!r} is not given; {hint}")
    station = stations[name]
    if own is not None and (apart_m := great_circle_m(own, station.position_deg)) > _FARTHEST_M:
        raise IngestError(
            f"{file.path}: core:geolocation is {own[0]}, {own[1]}, which is {apart_m / 1e3:.0f} km "
            f"from the given position of station {name!r} ({station.latitude_deg}, "
            f"{station.longitude_deg}); correct the wrong one"
        )
    return station


def _new_recording(
    file: RecordingFile, station: Station, source: NewSource, where: str
) -> NewRecording:
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
        where=where,
    )


def stations_from_csv(path: Path) -> tuple[Station, ...]:
    """Return the stations of a CSV file with the columns name, latitude, longitude[, altitude_m].

    Raises:
        IngestError: The file cannot be read, lacks a column, or holds a value that is not a
            number.
    """
    table = read_table(path)
    for problem in table.problems:
        raise IngestError(problem)
    stations = []
    for row in table.rows:
        columns = ("name", "latitude", "longitude")
        if missing := [name for name in columns if name not in row.cells]:
            raise IngestError(f"{row.where} has no {' and no '.join(missing)}; found {row.cells}")
        try:
            numbers = [
                float(row.cells[name])
                for name in ("latitude", "longitude", "altitude_m")
                if name in row.cells
            ]
        except ValueError as error:
            raise IngestError(
                f"{row.where}: {error}; give degrees and metres as numbers"
            ) from error
        stations.append(Station(row.cells["name"], *numbers))
        check_station(stations[-1], row.where)
    names = Counter(station.name for station in stations)
    if twice := [name for name, n in names.items() if n > 1]:
        raise IngestError(f"{path} lists {', '.join(twice)} twice; keep one line of each")
    return tuple(stations)
