"""Many sessions from one table: a CSV file, or a YAML list, with one recording a row.

All of it is checked before any of it is stored: the table, that its rows agree, and each
recording by decoding it, one at a time. What is wrong comes in one error, with its lines. What
is right is kept as a few numbers a file, and the bytes are read again, session by session,
when they are stored.

Files are found from the manifest's own folder. Paths may lead out of it, since whoever runs an
ingestion may read those files; none of a path reaches an object's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from heimdall_data.errors import DataError, IngestError
from heimdall_data.ingest.manifest_rows import ManifestError, Problems, session_entries
from heimdall_data.ingest.recording_file import RecordingFile, absence
from heimdall_data.ingest.session_files import SessionFiles, session_files
from heimdall_data.ingest.table import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from heimdall_data.catalogue.session import Station
    from heimdall_data.ingest.manifest_rows import Entry, SessionEntry
    from heimdall_data.ingest.new_session import NewSession

__all__ = ["Manifest", "ManifestError", "read_manifest"]

_SAME_PLACE_DEG = 0.001


@dataclass(frozen=True, slots=True)
class Manifest:
    """Sessions that were checked; to be given to `ingest`, which loads them one after another."""

    sessions: tuple[SessionFiles, ...]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is unlikely and may be right, each with its line."""
        return tuple(
            f"{_label(session.announced)}: {doubt}"
            for session in self.sessions
            for doubt in session.doubts
        )

    @property
    def announced(self) -> tuple[NewSession, ...]:
        """All sessions, without the bytes of their recordings."""
        return tuple(session.announced for session in self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)

    def __iter__(self) -> Iterator[NewSession]:
        return (session.loaded() for session in self.sessions)


def _label(session: NewSession) -> str:
    where = f"{session.where}: " if session.where else ""
    return f"{where}session {session.name!r} of {session.source.name!r}"


def read_manifest(
    path: Path,
    stations: Iterable[Station] = (),
    *,
    progress: bool = True,
    allow_far: bool = False,
) -> Manifest:
    """The sessions of a manifest, all of them checked.

    Args:
        path: A CSV file with a line of columns, or `.yaml` with a list `sessions`. Columns that
            must be there: session, source, source_latitude, source_longitude, file. That may:
            `manifest_entries.COLUMNS`.
        stations: With their positions; those that the manifest gives are added.
        progress: A bar on standard error.
        allow_far: Sources may be over 3,000 km from every station.

    Raises:
        ManifestError: What is wrong with it, up to 20 mistakes, each with its line.
        IngestError: It cannot be read at all.
    """
    problems = Problems(path)
    sessions = session_entries(read_table(path), path.parent, problems)
    entries = [entry for session in sessions for entry in session.entries]
    known = _stations(entries, stations, problems)
    checked = []
    with tqdm(total=len(entries), unit="file", desc="check", disable=not progress) as bar:
        for session in sessions:
            if problems.full:
                break
            made = _checked(session, known, problems, bar.update, allow_far=allow_far)
            checked += [made] if made is not None else []
    _check_contents(checked, problems)
    problems.raise_any()
    return Manifest(tuple(checked))


def _stations(
    entries: Iterable[Entry], listed: Iterable[Station], problems: Problems
) -> dict[str, Station]:
    """All stations whose positions are given, each at one place."""
    known = {station.name: (station, "the list of stations") for station in listed}
    for entry in entries:
        if entry.station_at is None:
            continue
        first, where = known.setdefault(entry.station, (entry.station_at, entry.where))
        here, there = entry.station_at.position_deg, first.position_deg
        if max(abs(a - b) for a, b in zip(here, there, strict=True)) > _SAME_PLACE_DEG:
            problems.add(
                f"{entry.where}: station {entry.station!r} is at {here[0]}, {here[1]} here and at "
                f"{there[0]}, {there[1]} in {where}; correct one, or name two stations"
            )
    return {name: station for name, (station, _) in known.items()}


def _checked(
    session: SessionEntry,
    stations: dict[str, Station],
    problems: Problems,
    advance: Callable[[], object],
    *,
    allow_far: bool,
) -> SessionFiles | None:
    """The session with all its files decoded once, or None and why not."""
    files = []
    for entry in session.entries:
        file = _inspected(entry, session, problems)
        files += [(entry.station, file)] if file is not None else []
        advance()
    if len(files) < len(session.entries):
        return None
    try:
        made = session_files(
            files,
            session.source,
            stations.values(),
            name=session.name,
            start=session.start,
            allow_far=allow_far,
        )
    except DataError as error:
        problems.add(f"{session.entries[0].where}: {error}")
        return None
    return made.with_approval(session.approval).found_at([entry.where for entry in session.entries])


def _check_contents(sessions: Iterable[SessionFiles], problems: Problems) -> None:
    """Refuse one recording under two names: the same transmission would be two samples."""
    seen: dict[bytes, tuple[Path, str]] = {}
    for session in sessions:
        for measurement, file in zip(session.announced.measurements, session.files, strict=True):
            first, where = seen.setdefault(file.digest, (file.path, measurement.where))
            # One file in two rows is among the problems already; silence is alike everywhere.
            if first.resolve() != file.path.resolve() and file.level_db is not None:
                problems.add(
                    f"{measurement.where}: {file.path.name} holds the same bytes as {first.name} "
                    f"in {where}; a recording is of one station and of one session: remove one"
                )


def _inspected(entry: Entry, session: SessionEntry, problems: Problems) -> RecordingFile | None:
    if absence(entry.file) is not None:
        # It is among the problems already.
        return None
    try:
        if entry.file.is_dir():
            raise IngestError(f"{entry.file} is a folder; give each recording a row")
        return RecordingFile.inspected(
            entry.file, sample_rate_hz=entry.sample_rate_hz, start=session.start
        )
    except DataError as error:
        problems.add(f"{entry.where}: {error}")
        return None
