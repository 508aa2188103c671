"""What the rows of a manifest say: one recording each, and the session that it is of.

Nothing is opened here; only whether a file is there is asked. Every row is looked at, and what
is wrong with any is noted.

What is wrong with a manifest, collected so that it is corrected once and not twenty times.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.checks import MAX_TOLD
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.recording_file import absence, one_of_a_pair, station_in_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from heimdall_data.ingest.table import Row, Table

__all__ = ["Entry", "ManifestError", "Problems", "SessionEntry", "session_entries"]


IN_EVERY_ROW = ("session", "source", "file")
PLACE = ("source_latitude", "source_longitude")
OF_THE_SESSION = (
    *PLACE,
    "frequency_hz",
    "source_type",
    "power_dbm",
    "error_margin_m",
    "start",
    "approval",
)
REQUIRED = (*IN_EVERY_ROW, *PLACE)
COLUMNS = (
    *IN_EVERY_ROW,
    *OF_THE_SESSION,
    "station",
    "station_latitude",
    "station_longitude",
    "station_altitude_m",
    "sample_rate_hz",
    "notes",
)
TEXTS = ("source_type",)
APPROVALS = ("pending", "approved", "rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row."""

    where: str
    session: str
    source: str
    file: Path
    station: str
    station_at: Station | None
    sample_rate_hz: float | None
    of_session: dict[str, object]
    """What it says of its session, by column."""
    good: bool
    """Whether nothing in it was found wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEntry:
    """The rows of one session, which agree."""

    name: str
    source: NewSource
    start: datetime | None
    approval: str
    entries: tuple[Entry, ...]


def session_entries(table: Table, folder: Path, problems: Problems) -> list[SessionEntry]:
    """The sessions whose rows are in order; what is wrong with the others is in `problems`."""
    # Of a file that is no manifest, every line would be wrong.
    if not _columns_are_known(table, problems):
        return []
    for problem in table.problems:
        problems.add(problem)
    entries = [entry for row in table.rows if (entry := _Cells(row, problems).entry(folder))]
    _check_files(entries, problems)
    sessions: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        sessions.setdefault((entry.source, entry.session), []).append(entry)
    made = [_session(rows, problems) for rows in sessions.values()]
    found = [session for session in made if session is not None]
    _check_sources(found, problems)
    return found


def _columns_are_known(table: Table, problems: Problems) -> bool:
    """Whether all columns are known and none is missing."""
    unknown = [name for name in table.columns if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in table.columns]
    for name in unknown:
        near = difflib.get_close_matches(name, [c for c in COLUMNS if c not in table.columns], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
        problems.add(f"{table.columns[name]}: unknown column {name!r}; {hint}")
    for name in missing:
        near = difflib.get_close_matches(name, unknown, 1)
        hint = f"is it {near[0]!r}?" if near else "add it"
        problems.add(f"{problems.path}: no column {name!r}; {hint}")
    return not unknown and not missing


@dataclass(slots=True)
class _Cells:
    """One row's cells as what they must be; a mistake is noted, and the value None."""

    row: Row
    problems: Problems
    good: bool = True

    def entry(self, folder: Path) -> Entry | None:
        for name in IN_EVERY_ROW:
            if name not in self.row.cells:
                self._wrong(f"no {name}; every row has one")
        if "file" not in self.row.cells:
            return None
        file = one_of_a_pair(folder / self.row.cells["file"])
        station = self.row.cells.get("station") or station_in_name(file)
        return Entry(
            where=self.row.where,
            session=self.row.cells.get("session", ""),
            source=self.row.cells.get("source", ""),
            file=file,
            station=station,
            station_at=self._place(station),
            sample_rate_hz=self._number("sample_rate_hz"),
            of_session={
                name: self._said(name) for name in OF_THE_SESSION if name in self.row.cells
            },
            good=self.good,  # last: what stands above it notes mistakes
        )

    def _said(self, name: str) -> object:
        readers: dict[str, Callable[[str], object]] = {
            "start": self._moment,
            "approval": self._approval,
        }
        if name in TEXTS:
            return self.row.cells[name]
        return readers.get(name, self._number)(name)

    def _number(self, name: str) -> float | None:
        text = self.row.cells.get(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and "_" not in text:
            return value
        comma = " with a decimal point" if "," in text else ""
        self._wrong(f"{name} is {text!r}; give a finite number{comma}, or leave it blank")
        return None

    def _moment(self, name: str) -> datetime | None:
        text = self.row.cells[name]
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self._wrong(f"{name} is {text!r}; write it as 2026-03-01T12:00:00Z")
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _approval(self, name: str) -> str | None:
        text = self.row.cells[name]
        if text in APPROVALS:
            return text
        self._wrong(f"{name} is {text!r}; it must be one of {', '.join(APPROVALS)}")
        return None

    def _place(self, station: str) -> Station | None:
        latitude_deg, longitude_deg, altitude_m = map(
            self._number, ("station_latitude", "station_longitude", "station_altitude_m")
        )
        if latitude_deg is not None and longitude_deg is not None:
            return Station(station, latitude_deg, longitude_deg, altitude_m)
        if latitude_deg is not None or longitude_deg is not None:
            self._wrong("one of station_latitude and station_longitude; give both, or neither")
        return None

    def _wrong(self, what: str) -> None:
        self.good = False
        self.problems.add(f"{self.row.where}: {what}")


def _check_files(entries: Iterable[Entry], problems: Problems) -> None:
    """Every file is there, and is named once."""
    seen: dict[Path, str] = {}
    for entry in entries:
        if reason := absence(entry.file):
            problems.add(
                f"{entry.where}: cannot reach {entry.file} ({reason}); correct the path, or its "
                f"permissions"
            )
            continue
        if reason is not None:
            hint = "write / between folders" if "\\" in str(entry.file) else "correct the path"
            problems.add(f"{entry.where}: there is no {entry.file}; {hint}")
            continue
        first = seen.setdefault(entry.file.resolve(), entry.where)
        if first != entry.where:
            problems.add(f"{entry.where}: {entry.file.name} is in {first} already; remove one")


def _session(entries: list[Entry], problems: Problems) -> SessionEntry | None:
    """The session of rows that are in order and agree."""
    values = _agreed(entries, problems)
    if not (_stations_differ(entries, problems) and all(entry.good for entry in entries)):
        return None
    if values is None:
        return None
    label = f"{entries[0].where}: session {entries[0].session!r} of {entries[0].source!r}"
    if missing := [name for name in PLACE if name not in values]:
        problems.add(f"{label} has no {' and no '.join(missing)} in any row; give it in one")
        return None
    start = values.get("start")
    return SessionEntry(
        name=entries[0].session,
        source=_source(entries[0].source, values),
        start=start if isinstance(start, datetime) else None,
        approval=str(values.get("approval", "pending")),
        entries=tuple(entries),
    )


def _agreed(entries: list[Entry], problems: Problems) -> dict[str, object] | None:
    """What the rows say of their session; a cell that is blank agrees with all."""
    said: dict[str, tuple[object, str]] = {}
    agree = True
    for entry in entries:
        for name, value in entry.of_session.items():
            first, where = said.setdefault(name, (value, entry.where))
            if value is not None and first not in (None, value):
                agree = False
                problems.add(
                    f"{entry.where}: session {entry.session!r} of {entry.source!r} has {name} "
                    f"{value} here and {first} in {where}; make them the same, or two sessions"
                )
    return {name: value for name, (value, _) in said.items()} if agree else None


def _stations_differ(entries: list[Entry], problems: Problems) -> bool:
    seen: dict[str, Entry] = {}
    for entry in entries:
        first = seen.setdefault(entry.station, entry)
        if first is not entry and first.file != entry.file:
            problems.add(
                f"{entry.where}: station {entry.station!r} is in this session already "
                f"({first.where}); make two sessions, or correct the station"
            )
    return len(seen) == len(entries)


def _source(name: str, values: dict[str, object]) -> NewSource:
    def number(column: str) -> float | None:
        value = values.get(column)
        return value if isinstance(value, float) else None

    kind = values.get("source_type")
    source = NewSource(
        name=name,
        latitude_deg=number("source_latitude"),
        longitude_deg=number("source_longitude"),
        frequency_hz=number("frequency_hz"),
        power_dbm=number("power_dbm"),
        source_type=kind if isinstance(kind, str) else None,
    )
    margin_m = number("error_margin_m")
    return source if margin_m is None else replace(source, error_margin_m=margin_m)


def _check_sources(sessions: Iterable[SessionEntry], problems: Problems) -> None:
    """A source is at one place in all of its sessions: it is what is learnt."""
    seen: dict[str, SessionEntry] = {}
    for session in sessions:
        first = seen.setdefault(session.source.name, session)
        here, there = (
            (each.source.latitude_deg, each.source.longitude_deg) for each in (session, first)
        )
        if here != there:
            problems.add(
                f"{session.entries[0].where}: source {session.source.name!r} is at {here[0]}, "
                f"{here[1]} here and at {there[0]}, {there[1]} in {first.entries[0].where}; "
                f"correct one, or name two sources"
            )


class ManifestError(IngestError):
    """A manifest with mistakes: as many as are worth reading at once."""

    def __init__(self, path: Path, problems: list[str], n_more: int) -> None:
        self.problems = tuple(problems)
        """Each with its line."""
        self.n_more = n_more
        more = f"\n... and {n_more} more" if n_more else ""
        super().__init__("\n".join(problems) + more)
        self.summary = (
            f"{path}: {len(problems) + n_more} mistakes, nothing was written; correct them"
        )


@dataclass(slots=True)
class Problems:
    """Mistakes so far."""

    path: Path
    told: list[str] = field(default_factory=list)
    n_more: int = 0

    @property
    def full(self) -> bool:
        """Whether more would not be told."""
        return len(self.told) >= MAX_TOLD

    def add(self, problem: str) -> None:
        """Take note of a mistake."""
        if self.full:
            self.n_more += 1
        else:
            self.told.append(problem)

    def raise_any(self) -> None:
        """End here if there was a mistake.

        Raises:
            ManifestError: With all that were told.
        """
        if self.told:
            raise ManifestError(self.path, self.told, self.n_more)
