"""Many sessions from one table: a CSV file or a YAML list, with one recording per row.

Everything is checked before anything is stored: the table, the agreement of its rows, and each
recording by decoding it, one at a time. All mistakes come in one error, with their lines. The
bytes of a recording are read again when its session is stored.

Paths are relative to the manifest's folder and may lead out of it, since whoever runs an
ingestion may read those files anyway; no part of a path gets into an object's key.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError
from heimdall_data.ingest.new_session import (
    APPROVALS,
    DEFAULT_ERROR_MARGIN_M,
    MAX_PROBLEMS,
    SAME_PLACE_DEG,
    NewSource,
    ProblemsError,
    check_moment,
)
from heimdall_data.ingest.plausibility import copies, plausibility_warnings
from heimdall_data.ingest.recording_file import (
    RecordingFile,
    one_of_a_pair,
    path_problem,
    station_in_name,
)
from heimdall_data.ingest.session_files import log_warning, session_files
from heimdall_data.ingest.table import read_table
from heimdall_data.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from heimdall_data.ingest.new_session import NewSession
    from heimdall_data.ingest.table import Row, Table

__all__ = ["ManifestError", "read_manifest"]


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
    table = read_table(path)
    problems = _column_problems(table, path)
    groups: list[_Group] = []
    if not problems:  # with wrong columns, every line would be wrong
        problems += table.problems
        lines: dict[Path, str] = {}
        rows = [_read_row(row, path.parent, lines) for row in table.rows]
        problems += [problem for row in rows for problem in row.problems]
        groups = _groups(rows, problems)
    known = _stations(groups, stations, problems)
    sessions = []
    n_files = sum(len(rows) for _, rows in groups)
    with progress_bar("check", n_files, shown=progress) as advance:
        for group in groups:
            if len(problems) >= MAX_PROBLEMS:
                break
            session = _inspect(group, known, problems, advance, allow_far=allow_far)
            sessions += [session] if session is not None else []
    problems += copies(sessions)
    if problems:
        raise ManifestError(
            problems, f"{path}: {len(problems)} mistakes, nothing was written; correct them"
        )
    for warning in (each for session in sessions for each in plausibility_warnings(session)):
        warn(warning)
    return tuple(sessions)


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
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    check_moment(moment, "a session")
    return moment


def _approval(text: str) -> str:
    if text not in APPROVALS:
        raise ValueError(f"it must be one of {', '.join(APPROVALS)}")
    return text


_IN_EVERY_ROW = ("session", "source", "file")
_POSITION = ("source_latitude", "source_longitude")
# Columns of the session, in which its rows must agree. The functions that read a cell raise a
# ValueError that says what to write instead.
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


def _column_problems(table: Table, path: Path) -> list[str]:
    """Unknown and missing columns."""
    problems = []
    unknown = [name for name in table.columns if name not in _COLUMNS]
    for name in unknown:
        near = difflib.get_close_matches(name, [c for c in _COLUMNS if c not in table.columns], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_COLUMNS)}"
        problems.append(f"{table.columns[name]}: unknown column {name!r}; {hint}")
    missing = [name for name in (*_IN_EVERY_ROW, *_POSITION) if name not in table.columns]
    return [*problems, *(f"{path}: no column {name!r}; add it" for name in missing)]


@dataclass(frozen=True, slots=True)
class _Row:
    """One recording."""

    where: str
    values: dict[str, Any]
    """By column, without blank and wrong cells. The file is a path, and gives the station if
    the row does not."""
    problems: list[str]


_Group = tuple[dict[str, Any], list[_Row]]
"""The rows of a session, and the values of its columns."""


def _read_row(row: Row, folder: Path, lines: dict[Path, str]) -> _Row:
    """Read the cells of a row; `lines` has the line of each file so far."""
    problems = [f"no {name}; every row has one" for name in _IN_EVERY_ROW if name not in row.cells]
    values: dict[str, Any] = {}
    for name, text in row.cells.items():
        try:
            values[name] = _COLUMNS[name](text)
        except ValueError as error:
            problems.append(f"{name} is {text!r}; {error}")
    if ("station_latitude" in row.cells) != ("station_longitude" in row.cells):
        problems.append("one of station_latitude and station_longitude; give both, or neither")
    if "file" in values:
        file = values["file"] = one_of_a_pair(folder / values["file"])
        values.setdefault("station", station_in_name(file))
        if problem := path_problem(file):
            problems.append(problem)
        elif (first := lines.setdefault(file.resolve(), row.where)) != row.where:
            problems.append(f"{file.name} is in {first} already; remove one")
    return _Row(row.where, values, [f"{row.where}: {problem}" for problem in problems])


def _groups(rows: Iterable[_Row], problems: list[str]) -> list[_Group]:
    """The sessions without mistakes; disagreements of rows are added to `problems`."""
    grouped: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        name = row.values.get("source", ""), row.values.get("session", "")
        grouped.setdefault(name, []).append(row)
    groups = []
    for (source, session), members in grouped.items():
        title = f"session {session!r} of {source!r}"
        found: list[str] = []
        agreed: dict[str, tuple[Any, str]] = {}
        for row in members:
            for column in _OF_SESSION:
                value = row.values.get(column)  # a blank cell agrees with everything
                if value is None:
                    continue
                first, where = agreed.setdefault(column, (value, row.where))
                if value != first:
                    found.append(
                        f"{row.where}: {title} has {column} {value} here and {first} in {where}; "
                        f"make them the same, or two sessions"
                    )
        if not found and not any(row.problems for row in members):
            found += [
                f"{members[0].where}: {title} has no {name} in any row; give it in one"
                for name in _POSITION
                if name not in agreed
            ]
            values = {column: value for column, (value, _) in agreed.items()}
            groups += [] if found else [({"source": source, "session": session} | values, members)]
        problems += found
    return groups


def _stations(
    groups: Iterable[_Group], listed: Iterable[Station], problems: list[str]
) -> dict[str, Station]:
    """All stations with a position. Each source and each station must have only one."""
    known = {station.name: station for station in listed}
    first_at = {
        ("station", name): (station.position_deg, "the list of stations")
        for name, station in known.items()
    }

    def check(
        kind: str, name: str, here: tuple[float, float], where: str, tolerance_deg: float
    ) -> None:
        there, first = first_at.setdefault((kind, name), (here, where))
        if max(abs(a - b) for a, b in zip(here, there, strict=True)) > tolerance_deg:
            problems.append(
                f"{where}: {kind} {name!r} is at {here[0]}, {here[1]} here and at {there[0]}, "
                f"{there[1]} in {first}; correct one, or name two {kind}s"
            )

    for values, rows in groups:
        source_at = values["source_latitude"], values["source_longitude"]
        check("source", values["source"], source_at, rows[0].where, 0)
        for row in rows:
            if "station_latitude" in row.values:
                station = Station(
                    row.values["station"],
                    row.values["station_latitude"],
                    row.values["station_longitude"],
                    row.values.get("station_altitude_m"),
                )
                check("station", station.name, station.position_deg, row.where, SAME_PLACE_DEG)
                known.setdefault(station.name, station)
    return known


def _inspect(
    group: _Group,
    stations: dict[str, Station],
    problems: list[str],
    advance: Callable[[int], object],
    *,
    allow_far: bool,
) -> NewSession | None:
    """The session after decoding all its files, or None with mistakes added to `problems`."""
    values, rows = group
    files = []
    for row in rows:
        advance(1)
        try:
            file = RecordingFile.inspected(
                row.values["file"],
                sample_rate_hz=row.values.get("sample_rate_hz"),
                start=values.get("start"),
            )
            files.append((row.values["station"], file))
        except DataError as error:
            problems.append(f"{row.where}: {error}")
    if len(files) < len(rows):
        return None
    source = NewSource(
        name=values["source"],
        latitude_deg=values["source_latitude"],
        longitude_deg=values["source_longitude"],
        frequency_hz=values.get("frequency_hz"),
        power_dbm=values.get("power_dbm"),
        source_type=values.get("source_type"),
        error_margin_m=values.get("error_margin_m", DEFAULT_ERROR_MARGIN_M),
    )
    try:
        return session_files(
            files,
            source,
            stations.values(),
            name=values["session"],
            start=values.get("start"),
            approval=values.get("approval", "pending"),
            lines=[row.where for row in rows],
            allow_far=allow_far,
        )
    except DataError as error:
        problems.append(f"{rows[0].where}: {error}")
        return None
