"""Many sessions from one table: a CSV file, or a YAML list, with one recording a row.

All of it is checked before any of it is stored: the table, that its rows agree, and each
recording by decoding it, one at a time. All mistakes come in one error, with their lines. Of a
good file a few numbers are kept, and its bytes are read again when its session is stored.

Files are found from the manifest's own folder. Paths may lead out of it, since whoever runs an
ingestion may read those files; none of a path reaches an object's key.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError, IngestError
from heimdall_data.ingest.new_session import (
    APPROVALS,
    DEFAULT_ERROR_MARGIN_M,
    MAX_PROBLEMS,
    SAME_PLACE_DEG,
    NewSource,
    ProblemsError,
)
from heimdall_data.ingest.recording_file import (
    RecordingFile,
    absence,
    one_of_a_pair,
    station_in_name,
)
from heimdall_data.ingest.session_files import SessionFiles, session_files
from heimdall_data.ingest.table import read_table
from heimdall_data.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from heimdall_data.ingest.new_session import NewSession
    from heimdall_data.ingest.table import Row, Table

__all__ = ["Manifest", "ManifestError", "read_manifest"]


class ManifestError(ProblemsError):
    """A manifest with mistakes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Checked sessions, to be given to `ingest`, which loads them one after another."""

    sessions: tuple[SessionFiles, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Values that are unlikely and may be right, each with its line."""
        labelled = (
            (f"{where}: " if (where := session.outline.where) else "", session)
            for session in self.sessions
        )
        return tuple(
            f"{line}session {session.outline.name!r} of {session.outline.source.name!r}: {warning}"
            for line, session in labelled
            for warning in session.warnings
        )

    @property
    def outlines(self) -> tuple[NewSession, ...]:
        """All sessions, without the bytes of their recordings."""
        return tuple(session.outline for session in self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)

    def __iter__(self) -> Iterator[NewSession]:
        return (session.loaded() for session in self.sessions)


def read_manifest(
    path: Path,
    stations: Iterable[Station] = (),
    *,
    progress: bool = True,
    allow_far: bool = False,
) -> Manifest:
    """Return the sessions of a manifest, all of them checked.

    Args:
        path: A CSV file with a line of columns, or `.yaml` with a list `sessions`. Columns that
            must be there: session, source, file, source_latitude, source_longitude. Others:
            frequency_hz, source_type, power_dbm, error_margin_m, start, approval, station,
            station_latitude, station_longitude, station_altitude_m, sample_rate_hz, notes.
        stations: With their positions; those that the manifest gives are added.
        progress: A bar on standard error.
        allow_far: Sources may be over 3,000 km from every station.

    Raises:
        ManifestError: The first twenty mistakes, each with its line.
        IngestError: The file cannot be read at all.
    """
    problems: list[str] = []
    table = read_table(path)
    rows: list[_Row] = []
    # Of a file that is no manifest, every line would be wrong.
    if _columns_are_known(table, path, problems):
        problems += table.problems
        rows = [each for row in table.rows if (each := _read_row(row, path.parent, problems))]
        _check_paths(rows, problems)
    sessions = _sessions(rows, problems)
    known = _stations([row for each in sessions for row in each.rows], stations, problems)
    checked = []
    n_files = sum(len(session.rows) for session in sessions)
    with progress_bar("check", n_files, shown=progress) as advance:
        for session in sessions:
            if len(problems) >= MAX_PROBLEMS:
                break
            made = _inspect(session, known, problems, advance, allow_far=allow_far)
            checked += [made] if made is not None else []
    _check_contents(checked, problems)
    if problems:
        raise ManifestError(
            problems, f"{path}: {len(problems)} mistakes, nothing was written; correct them"
        )
    return Manifest(tuple(checked))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and "_" not in text:
        return value
    comma = " with a decimal point" if "," in text else ""
    raise ValueError(f"give a finite number{comma}, or leave it blank")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("write it as 2026-03-01T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _approval(text: str) -> str:
    if text not in APPROVALS:
        raise ValueError(f"it must be one of {', '.join(APPROVALS)}")
    return text


_IN_EVERY_ROW = ("session", "source", "file")
_REQUIRED = (*_IN_EVERY_ROW, "source_latitude", "source_longitude")
# Columns of the session, in which its rows must agree. The readers raise a ValueError that says
# what to write instead.
_OF_SESSION: dict[str, Callable[[str], object]] = {
    "source_latitude": _number,
    "source_longitude": _number,
    "frequency_hz": _number,
    "source_type": str,
    "power_dbm": _number,
    "error_margin_m": _number,
    "start": _moment,
    "approval": _approval,
}
_COLUMNS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(_IN_EVERY_ROW, str),
    **_OF_SESSION,
    "station": str,
    "station_latitude": _number,
    "station_longitude": _number,
    "station_altitude_m": _number,
    "sample_rate_hz": _number,
    "notes": str,
}


def _columns_are_known(table: Table, path: Path, problems: list[str]) -> bool:
    unknown = [name for name in table.columns if name not in _COLUMNS]
    missing = [name for name in _REQUIRED if name not in table.columns]
    for name in unknown:
        near = difflib.get_close_matches(name, [c for c in _COLUMNS if c not in table.columns], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_COLUMNS)}"
        problems.append(f"{table.columns[name]}: unknown column {name!r}; {hint}")
    for name in missing:
        near = difflib.get_close_matches(name, unknown, 1)
        hint = f"is it {near[0]!r}?" if near else "add it"
        problems.append(f"{path}: no column {name!r}; {hint}")
    return not unknown and not missing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One recording."""

    where: str
    session: str
    source: str
    file: Path
    station: str
    station_at: Station | None
    sample_rate_hz: float | None
    of_session: dict[str, Any]
    """The cells of the session's columns."""
    good: bool


def _read_row(row: Row, folder: Path, problems: list[str]) -> _Row | None:
    """The row with its cells read, or None without a file; mistakes are added to `problems`."""
    found = [f"no {name}; every row has one" for name in _IN_EVERY_ROW if name not in row.cells]
    values: dict[str, Any] = {}
    for name, text in row.cells.items():
        try:
            values[name] = _COLUMNS[name](text)
        except ValueError as error:
            found.append(f"{name} is {text!r}; {error}")
    latitude_deg, longitude_deg = values.get("station_latitude"), values.get("station_longitude")
    if (latitude_deg is None) != (longitude_deg is None):
        found.append("one of station_latitude and station_longitude; give both, or neither")
    problems += [f"{row.where}: {problem}" for problem in found]
    if "file" not in values:
        return None
    file = one_of_a_pair(folder / values["file"])
    station = values.get("station") or station_in_name(file)
    station_at = None
    if latitude_deg is not None and longitude_deg is not None:
        station_at = Station(station, latitude_deg, longitude_deg, values.get("station_altitude_m"))
    return _Row(
        where=row.where,
        session=values.get("session", ""),
        source=values.get("source", ""),
        file=file,
        station=station,
        station_at=station_at,
        sample_rate_hz=values.get("sample_rate_hz"),
        of_session={name: values[name] for name in _OF_SESSION if name in values},
        good=not found,
    )


def _check_paths(rows: Iterable[_Row], problems: list[str]) -> None:
    """Every file is there, and is in one row."""
    seen: dict[Path, str] = {}
    for row in rows:
        reason = absence(row.file)
        if reason is None:
            first = seen.setdefault(row.file.resolve(), row.where)
            if first != row.where:
                problems.append(f"{row.where}: {row.file.name} is in {first} already; remove one")
        elif reason:
            problems.append(
                f"{row.where}: cannot reach {row.file} ({reason}); correct the path, or its "
                f"permissions"
            )
        else:
            hint = "write / between folders" if "\\" in str(row.file) else "correct the path"
            problems.append(f"{row.where}: there is no {row.file}; {hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """The rows of one session, which agree."""

    name: str
    source: NewSource
    start: datetime | None
    approval: str
    rows: Sequence[_Row]


def _sessions(rows: Iterable[_Row], problems: list[str]) -> list[_Session]:
    """The sessions whose rows are in order, with each source at one place."""
    grouped: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        grouped.setdefault((row.source, row.session), []).append(row)
    made = [_session(members, problems) for members in grouped.values()]
    sessions = [session for session in made if session is not None]
    seen: dict[str, _Session] = {}
    for session in sessions:
        first = seen.setdefault(session.source.name, session)
        here, there = (
            (each.source.latitude_deg, each.source.longitude_deg) for each in (session, first)
        )
        if here != there:
            problems.append(
                f"{session.rows[0].where}: source {session.source.name!r} is at {here[0]}, "
                f"{here[1]} here and at {there[0]}, {there[1]} in {first.rows[0].where}; "
                f"correct one, or name two sources"
            )
    return sessions


def _session(rows: list[_Row], problems: list[str]) -> _Session | None:
    """The session of these rows, if they are in order and agree; a blank cell agrees with all."""
    n_before = len(problems)
    name, source = rows[0].session, rows[0].source
    said: dict[str, tuple[Any, str]] = {}
    seen: dict[str, _Row] = {}
    for row in rows:
        for column, value in row.of_session.items():
            first_value, where = said.setdefault(column, (value, row.where))
            if value != first_value:
                problems.append(
                    f"{row.where}: session {name!r} of {source!r} has {column} {value} here and "
                    f"{first_value} in {where}; make them the same, or two sessions"
                )
    for row in rows:
        first = seen.setdefault(row.station, row)
        if first is not row and first.file != row.file:
            problems.append(
                f"{row.where}: station {row.station!r} is in this session already "
                f"({first.where}); make two sessions, or correct the station"
            )
    in_order = len(seen) == len(rows) and all(row.good for row in rows)
    if len(problems) > n_before or not in_order:
        return None
    values = {column: value for column, (value, _) in said.items()}
    missing = [place for place in ("source_latitude", "source_longitude") if place not in values]
    if missing:
        problems.append(
            f"{rows[0].where}: session {name!r} of {source!r} has no {' and no '.join(missing)} "
            f"in any row; give it in one"
        )
        return None
    return _Session(
        name=name,
        source=NewSource(
            name=source,
            latitude_deg=values["source_latitude"],
            longitude_deg=values["source_longitude"],
            frequency_hz=values.get("frequency_hz"),
            power_dbm=values.get("power_dbm"),
            source_type=values.get("source_type"),
            error_margin_m=values.get("error_margin_m", DEFAULT_ERROR_MARGIN_M),
        ),
        start=values.get("start"),
        approval=values.get("approval", "pending"),
        rows=rows,
    )


def _stations(
    rows: Iterable[_Row], listed: Iterable[Station], problems: list[str]
) -> dict[str, Station]:
    """All stations whose positions are given, each at one place."""
    known = {station.name: (station, "the list of stations") for station in listed}
    for row in rows:
        if row.station_at is None:
            continue
        first, where = known.setdefault(row.station, (row.station_at, row.where))
        here, there = row.station_at.position_deg, first.position_deg
        if max(abs(a - b) for a, b in zip(here, there, strict=True)) > SAME_PLACE_DEG:
            problems.append(
                f"{row.where}: station {row.station!r} is at {here[0]}, {here[1]} here and at "
                f"{there[0]}, {there[1]} in {where}; correct one, or name two stations"
            )
    return {name: station for name, (station, _) in known.items()}


def _inspect(
    session: _Session,
    stations: dict[str, Station],
    problems: list[str],
    advance: Callable[[int], object],
    *,
    allow_far: bool,
) -> SessionFiles | None:
    """The session with all its files decoded once, or None with the reason in `problems`."""
    files = []
    for row in session.rows:
        advance(1)
        if absence(row.file) is not None:
            continue  # it is among the problems already
        try:
            if row.file.is_dir():
                raise IngestError(f"{row.file} is a folder; give each recording a row")
            file = RecordingFile.inspected(
                row.file, sample_rate_hz=row.sample_rate_hz, start=session.start
            )
            files.append((row.station, file))
        except DataError as error:
            problems.append(f"{row.where}: {error}")
    if len(files) < len(session.rows):
        return None
    try:
        return session_files(
            files,
            session.source,
            stations.values(),
            name=session.name,
            start=session.start,
            approval=session.approval,
            lines=[row.where for row in session.rows],
            allow_far=allow_far,
        )
    except DataError as error:
        problems.append(f"{session.rows[0].where}: {error}")
        return None


def _check_contents(sessions: Iterable[SessionFiles], problems: list[str]) -> None:
    """Refuse one recording under two names: the same transmission would be two samples."""
    seen: dict[bytes, tuple[Path, str]] = {}
    for session in sessions:
        for measurement, file in zip(session.outline.measurements, session.files, strict=True):
            first, where = seen.setdefault(file.digest, (file.path, measurement.where))
            # One file in two rows is among the problems already; silence is alike everywhere.
            if first.resolve() != file.path.resolve() and file.level_db is not None:
                problems.append(
                    f"{measurement.where}: {file.path.name} holds the same bytes as {first.name} "
                    f"in {where}; a recording is of one station and of one session: remove one"
                )
