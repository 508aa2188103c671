"""Many sessions from one table: a CSV file or a YAML list, with one recording per row.

Everything is checked before anything is stored: the table, the agreement of its rows, and each
recording by decoding it, one at a time. All mistakes come in one error, with their lines.

Paths are relative to the manifest's folder and may lead out of it, since whoever runs an
ingestion may read those files anyway; no part of a path gets into an object's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import is_near_deg
from heimdall_data.errors import DataError
from heimdall_data.ingest.new_session import (
    APPROVALS,
    DEFAULT_ERROR_MARGIN_M,
    MAX_PROBLEMS,
    SAME_PLACE_DEG,
    NewSource,
    ProblemsError,
    check_moment,
    is_same_place,
)
from heimdall_data.ingest.plausibility import copies, plausibility_warnings
from heimdall_data.ingest.recording_file import (
    Details,
    RecordingFile,
    as_spelt,
    one_of_a_pair,
    path_problem,
    station_in_name,
)
from heimdall_data.ingest.session_files import log_warning, require_position, session_files
from heimdall_data.ingest.table import number, read_table
from heimdall_data.progress import progress_bar
from heimdall_data.recordings.recording import gps_ns_from_text, utc_from_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from heimdall_data.ingest.new_session import NewSession
    from heimdall_data.ingest.table import Row, Table


class ManifestError(ProblemsError):
    """A manifest with mistakes."""


def read_manifest(
    path: Path,
    stations: Iterable[Station] = (),
    *,
    progress: bool = True,
    allow_far: bool = False,
    warn: Callable[[str], object] = log_warning,
) -> tuple[NewSession, ...]:
    """Return the sessions of a manifest, after checking all of them.

    The files are decoded now, and read again when their session is stored.

    Args:
        path: A CSV file with a line of columns, or `.yaml` with a list `sessions`; docs/data.md
            describes the columns.
        stations: With their positions; the manifest may give others.
        progress: Show a bar on standard error.
        allow_far: Sources may be over 3,000 km from every station.
        warn: Called with a sentence for each unlikely value.

    Raises:
        ManifestError: The first twenty mistakes, each with its line.
        IngestError: The file cannot be read as a table.
    """
    stations = tuple(stations)
    table = read_table(path)
    problems = _column_problems(table, path)
    rows: list[_Row] = []
    if not problems:  # with wrong columns, every line would be wrong
        lines: dict[Path, str] = {}
        rows = [_read_row(row, path.parent, lines) for row in table.rows]
        _check_agreement(rows, stations)
        problems += [*table.problems, *(problem for row in rows for problem in row.problems)]
    known = _all_stations(rows, stations)
    groups: dict[object, list[_Row]] = {}
    for row in rows:
        name = row.values.get("source"), row.values.get("session")
        groups.setdefault(name, []).append(row)
    sessions = []
    with progress_bar("check", len(rows), shown=progress) as advance:
        for group in groups.values():
            if len(problems) < MAX_PROBLEMS and not any(row.problems for row in group):
                session = _inspect(group, known, problems, allow_far=allow_far)
                sessions += [session] if session is not None else []
            advance(len(group))
    problems += [*copies(sessions), *_moved_sources(sessions)]
    if problems:
        raise ManifestError(
            problems, f"{path}: {len(problems)} mistakes, nothing was written; correct them"
        )
    for warning in (each for session in sessions for each in plausibility_warnings(session)):
        warn(warning)
    return tuple(sessions)


def _moment(text: str) -> datetime:
    try:
        moment = utc_from_text(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"write it as 2026-03-01T12:00:00Z ({error})") from None
    check_moment(moment, "a session")
    return moment


def _gps_ns(text: str) -> int:
    try:
        return gps_ns_from_text(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"write it as 2026-03-01T12:00:00.123456789Z, or as GPS seconds since 1980 ({error})"
        ) from None


def _uncertainty_s(text: str) -> float:
    value = number(text)
    if value < 0:
        raise ValueError("give seconds, 0 or more")
    return value


def _full_scale(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise ValueError("give the largest value of the converter, such as 32768")
    return value


def _approval(text: str) -> str:
    if text not in APPROVALS:
        raise ValueError(f"it must be one of {', '.join(APPROVALS)}")
    return text


_IN_EVERY_ROW = ("session", "source", "file")
_POSITION = ("source_latitude", "source_longitude")
# What a column describes (rows with the same one must agree), and a function that reads a cell
# or raises a ValueError that says what to write instead.
_COLUMNS: dict[str, tuple[str, Callable[[str], object]]] = {
    "session": ("recording", str),
    "source": ("recording", str),
    "file": ("recording", str),
    "source_latitude": ("source", number),
    "source_longitude": ("source", number),
    "frequency_hz": ("session", number),
    "source_type": ("session", str),
    "power_dbm": ("session", number),
    "error_margin_m": ("session", number),
    "start": ("session", _moment),
    "approval": ("session", _approval),
    "station": ("recording", str),
    "station_latitude": ("station", number),
    "station_longitude": ("station", number),
    "station_altitude_m": ("recording", number),
    "sample_rate_hz": ("recording", number),
    "full_scale": ("recording", _full_scale),
    "start_time": ("recording", _gps_ns),
    "start_uncertainty_s": ("recording", _uncertainty_s),
    "notes": ("recording", str),
}


def _column_problems(table: Table, path: Path) -> list[str]:
    """Unknown and missing columns. Annotations may have the position, but not half of it."""
    needed = [*_IN_EVERY_ROW, *(_POSITION if table.columns.keys() & set(_POSITION) else ())]
    missing = [name for name in needed if name not in table.columns]
    return [
        *table.unknown_columns(_COLUMNS),
        *(f"{path}: no column {name!r}; add it" for name in missing),
    ]


@dataclass(frozen=True, slots=True)
class _Row:
    """One recording. The file is a path, and gives the station if the row does not."""

    where: str
    values: dict[str, Any]
    problems: list[str]


def _read_row(row: Row, folder: Path, lines: dict[Path, str]) -> _Row:
    """Read the cells of a row; `lines` has the line of each file so far."""
    problems = [f"no {name}; every row has one" for name in _IN_EVERY_ROW if name not in row.cells]
    values: dict[str, Any] = {}
    for name, text in row.cells.items():
        try:
            values[name] = _COLUMNS[name][1](text)
        except ValueError as error:
            problems.append(f"{name} is {text!r}; {error}")
    if ("station_latitude" in row.cells) != ("station_longitude" in row.cells):
        problems.append("one of station_latitude and station_longitude; give both, or neither")
    if "file" in values:
        file = values["file"] = one_of_a_pair(as_spelt(folder / values["file"]))
        values.setdefault("station", station_in_name(file))
        if problem := path_problem(file):
            problems.append(problem)
        elif (first := lines.setdefault(file.resolve(), row.where)) != row.where:
            problems.append(f"{file.name} is in {first} already; remove one")
    return _Row(row.where, values, [f"{row.where}: {problem}" for problem in problems])


def _check_agreement(rows: Iterable[_Row], stations: Iterable[Station]) -> None:
    """Add contradictions to the problems of rows; a blank cell agrees with everything."""
    first: dict[tuple[str, str], tuple[Any, str]] = {}
    for station in stations:
        for column, value in zip(("latitude", "longitude"), station.position_deg, strict=True):
            key = f"station {station.name!r}", f"station_{column}"
            first[key] = value, "the list of stations"
    for row in rows:
        if row.problems:
            continue
        source, session, station = (row.values[name] for name in ("source", "session", "station"))
        names = {
            "source": f"source {source!r}",
            "session": f"session {session!r} of {source!r}",
            "station": f"station {station!r}",
        }
        for column, value in row.values.items():
            described = names.get(_COLUMNS[column][0])
            if described is None:
                continue
            known, where = first.setdefault((described, column), (value, row.where))
            is_close = column.startswith("station") and is_near_deg(value, known, SAME_PLACE_DEG)
            if value != known and not is_close:
                row.problems.append(
                    f"{row.where}: {described} has {column} {value} here and {known} in {where}; "
                    f"make them the same, or use two names"
                )


def _moved_sources(sessions: Iterable[NewSession]) -> Iterator[str]:
    """Sources that annotations place elsewhere than another session has them."""
    seen: dict[str, NewSession] = {}
    for session in sessions:
        first = seen.setdefault(session.source.name, session)
        here, there = (
            (each.source.latitude_deg, each.source.longitude_deg) for each in (session, first)
        )
        if not is_same_place(here, there):
            yield (
                f"{session.where}: source {session.source.name!r} is at {here[0]}, {here[1]} here "
                f"and at {there[0]}, {there[1]} in {first.where}; make them the same, or use two "
                f"names"
            )


def _all_stations(rows: Iterable[_Row], listed: Iterable[Station]) -> dict[str, Station]:
    """The stations with a position, by name; those of the list come first."""
    known = {station.name: station for station in listed}
    for row in rows:
        if not row.problems and "station_latitude" in row.values:
            position = row.values["station_latitude"], row.values["station_longitude"]
            name, altitude_m = row.values["station"], row.values.get("station_altitude_m")
            known.setdefault(name, Station(name, *position, altitude_m))
    return known


def _inspect(
    rows: list[_Row], stations: dict[str, Station], problems: list[str], *, allow_far: bool
) -> NewSession | None:
    """The session after decoding all its files, or None with mistakes added to `problems`."""
    values = {column: value for row in rows for column, value in row.values.items()}
    missing = [name for name in _POSITION if name not in values]
    if len(missing) == 1:
        problems.append(
            f"{rows[0].where}: session {values['session']!r} of {values['source']!r} has no "
            f"{missing[0]} in any row; give it in one"
        )
        return None
    files = []
    for row in rows:
        try:
            file = RecordingFile.inspected(
                row.values["file"],
                Details(
                    sample_rate_hz=row.values.get("sample_rate_hz"),
                    start=values.get("start"),
                    start_gps_ns=row.values.get("start_time"),
                    clock_sigma_s=row.values.get("start_uncertainty_s"),
                    full_scale=row.values.get("full_scale"),
                ),
            )
            files.append((row.values["station"], file))
        except DataError as error:
            problems.append(f"{row.where}: {error}")
    if len(files) < len(rows):
        return None
    source = NewSource(
        name=values["source"],
        latitude_deg=values.get("source_latitude"),
        longitude_deg=values.get("source_longitude"),
        frequency_hz=values.get("frequency_hz"),
        power_dbm=values.get("power_dbm"),
        source_type=values.get("source_type"),
        error_margin_m=values.get("error_margin_m", DEFAULT_ERROR_MARGIN_M),
    )
    try:
        session = session_files(
            files,
            source,
            stations.values(),
            name=values["session"],
            start=values.get("start"),
            approval=values.get("approval", "pending"),
            lines=[row.where for row in rows],
            allow_far=allow_far,
        )
        require_position(session)
    except DataError as error:
        problems.append(f"{rows[0].where}: {error}")
        return None
    return session
