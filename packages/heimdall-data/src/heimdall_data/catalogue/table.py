"""Usable sessions as a sequence, however many there are.

Few sessions are held in memory as they are. Of many, only columns are (see `session_columns`),
and a session's measurements are read when it is asked for: a million sessions open in seconds,
and a DataLoader's worker reads its own batches.

All usable sessions as columns of fixed width: a million of them in seconds.

What a split and a choice of receivers need of a session is small: who it is, when it began,
which source it heard, and which stations were there. Postgres groups the measurements and
sends the result in its binary COPY format, whose rows of fixed width NumPy reads as they are.

Source of the format: PostgreSQL documentation, COPY, "Binary Format".
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

import numpy as np
import numpy.typing as npt

from heimdall_data.catalogue.queries import (
    STATION_PLACED,
    STATIONS,
    USABLE,
    belonging,
    on_earth,
    station_from_row,
)
from heimdall_data.catalogue.session import Session
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import psycopg

    from heimdall_data.catalogue.queries import Membership
    from heimdall_data.catalogue.session import SessionFilter, Station

__all__ = ["SessionColumns", "SessionReadings", "SessionTable", "SourcePlace", "read_columns"]


_POSTGRES_EPOCH_US = np.datetime64("2000-01-01", "us").astype(np.int64)
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER_BYTES = 2

_SOURCES = f"""
SELECT id::text, latitude, longitude FROM heimdall.known_sources src
WHERE {on_earth("src")} ORDER BY id
"""  # noqa: S608 - constants of ours
# Sources and stations are numbered in the order of the two queries above; a station's bit
# is its number, so that the stations of a session are one value of fixed width.
_COLUMNS = f"""
, src AS (
    SELECT *, row_number() OVER (ORDER BY id) - 1 AS number FROM heimdall.known_sources src
    WHERE {on_earth("src")}
), st AS (
    SELECT *, set_bit(repeat('0', (count(*) OVER ())::int)::varbit,
                      (row_number() OVER (ORDER BY name))::int - 1, 1) AS seat
    FROM heimdall.websdr_stations st
    WHERE {STATION_PLACED}
)
SELECT s.id, src.number, s.session_start, bit_or(st.seat)
FROM heimdall.recording_sessions s
JOIN src ON src.id = s.known_source_id
JOIN belonging m ON m.session_id = s.id
JOIN st ON st.id = m.websdr_station_id
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """A transmitter's identity and where it is."""

    id: str
    position_deg: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SessionColumns:
    """One entry a session, in the order of their starts."""

    ids: npt.NDArray[np.void]
    """`(n,)`, the 16 bytes of each id."""
    source: npt.NDArray[np.int64]
    """`(n,)`, indices of `sources`."""
    start_us: npt.NDArray[np.int64]
    """`(n,)`, microseconds since 1970 in UTC."""
    heard: npt.NDArray[np.uint8]
    """`(n, bytes)`: a bit for each of `stations` that measured, the highest bit first."""
    sources: tuple[SourcePlace, ...]
    stations: tuple[Station, ...]

    def take(self, indices: npt.NDArray[np.intp]) -> Self:
        """The sessions at `indices`, in that order."""
        return type(self)(
            ids=self.ids[indices],
            source=self.source[indices],
            start_us=self.start_us[indices],
            heard=self.heard[indices],
            sources=self.sources,
            stations=self.stations,
        )


def read_columns(
    connection: psycopg.Connection[Any], only: SessionFilter, membership: Membership
) -> SessionColumns:
    """Every usable session that `only` asks for, ordered by start and id.

    Args:
        connection: in a transaction that sees one state of the database throughout.
        only: which of them.
        membership: how the database tells which session a measurement belongs to.

    Raises:
        CatalogueError: a row is not what the contract's types make it.
    """
    sources = tuple(
        SourcePlace(identity, (latitude, longitude))
        for identity, latitude, longitude in connection.execute(_SOURCES)
    )
    stations = tuple(station_from_row(row) for row in connection.execute(STATIONS))
    # A million sessions do not fit into the default of 4 MB, and would be sorted on disk.
    connection.execute("SET LOCAL work_mem = '64MB'")
    query = f"{belonging(membership)}{_COLUMNS}{USABLE}{only.sql()}"
    query += "GROUP BY s.id, s.session_start, src.number ORDER BY s.session_start, s.id"
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", only.parameters()) as copy,
    ):
        data = bytearray()
        for chunk in copy:
            data += chunk
    rows = _rows(data, len(stations))
    return SessionColumns(
        ids=np.ascontiguousarray(rows["id"]),
        source=rows["source"].astype(np.int64),
        start_us=rows["start"].astype(np.int64) + _POSTGRES_EPOCH_US,
        heard=np.ascontiguousarray(rows["heard"]),
        sources=sources,
        stations=stations,
    )


def _rows(data: bytearray, n_stations: int) -> npt.NDArray[np.void]:
    """The rows of a binary COPY of `_COLUMNS`."""
    n_bytes = (n_stations + 7) // 8
    lengths = {"id": 16, "source": 8, "start": 8, "bits": 4 + n_bytes}
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("id_bytes", ">i4"),
            ("id", "V16"),
            ("source_bytes", ">i4"),
            ("source", ">i8"),
            ("start_bytes", ">i4"),
            ("start", ">i8"),
            ("bits_bytes", ">i4"),
            ("n_bits", ">i4"),
            ("heard", "u1", (n_bytes,)),
        ]
    )
    body = memoryview(data)[len(_HEADER) : -_TRAILER_BYTES]
    if len(body) % row.itemsize == 0:
        rows = np.frombuffer(body, row)
        if all((rows[f"{name}_bytes"] == length).all() for name, length in lengths.items()):
            return rows
    raise CatalogueError(
        "a session of the catalogue has an id, a start or a source that is null or of another "
        "type than the contract's; correct recording_sessions"
    )


READ_AT_ONCE = 512


class SessionReadings(Protocol):
    """Where the sessions of a table are read from; a copy of it works in another process."""

    def read(self, ids: Sequence[str]) -> list[Session]:
        """The sessions with these ids, in any order; those that are gone are left out."""


class SessionTable(Sequence[Session]):
    """Sessions in the order of their starts; equal to a list of the same sessions."""

    def __init__(
        self,
        columns: SessionColumns,
        readings: SessionReadings,
        loaded: tuple[Session, ...] | None = None,
    ) -> None:
        """Describe sessions.

        Args:
            columns: what is known of each.
            readings: where the rest is read.
            loaded: all of them, if there are few; then nothing is read later.
        """
        self.columns = columns
        self._readings = readings
        self._loaded = loaded

    def __len__(self) -> int:
        return self.columns.ids.size

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> SessionTable: ...
    def __getitem__(self, index: int | slice) -> Session | SessionTable:
        """One session, or a table of some.

        Raises:
            IndexError: there is no such session.
            CatalogueError: it cannot be read, or is gone since the table was made.
        """
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"session {index} of {len(self)}")
        if self._loaded is not None:
            return self._loaded[index]
        return self.read([index])[0]

    def __iter__(self) -> Iterator[Session]:
        """Every session, read some hundreds at a time."""
        for first in range(0, len(self), READ_AT_ONCE):
            yield from self.read(range(first, min(first + READ_AT_ONCE, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SessionTable of {len(self)} sessions>"

    def read(self, indices: Iterable[int]) -> list[Session]:
        """The sessions at `indices`, in that order, in one query.

        Raises:
            CatalogueError: they cannot be read, or one is gone since the table was made.
        """
        if self._loaded is not None:
            return [self._loaded[index] for index in indices]
        ids = [self.session_id(index) for index in indices]
        found = {session.id: session for session in self._readings.read(ids)}
        if gone := [identity for identity in ids if identity not in found]:
            raise CatalogueError(
                f"session {gone[0]} is no usable session any more, which it was when the run "
                f"began ({len(gone)} such here); start again to train on what there is now"
            )
        return [found[identity] for identity in ids]

    def session_id(self, index: int) -> str:
        """The id of a session, without reading the rest of it."""
        return str(uuid.UUID(bytes=self.columns.ids[index].tobytes()))

    def take(self, indices: npt.NDArray[np.intp]) -> SessionTable:
        """A table of the sessions at `indices`, in that order."""
        loaded = self._loaded
        if loaded is not None:
            loaded = tuple(loaded[index] for index in indices.tolist())
        return SessionTable(self.columns.take(indices), self._readings, loaded)

    def without(self, ids: Collection[str]) -> SessionTable:
        """A table of the sessions whose ids are not among `ids`."""
        if not ids:
            return self
        left_out = {uuid.UUID(identity).bytes for identity in ids}
        kept = [i for i, own in enumerate(self.columns.ids.tolist()) if own not in left_out]
        return self.take(np.array(kept, np.intp))

    @property
    def positions_deg(self) -> npt.NDArray[np.float64]:
        """`(n, 2)`: latitude and longitude of each session's source, in degrees."""
        places = np.array([source.position_deg for source in self.columns.sources], np.float64)
        return places.reshape(-1, 2)[self.columns.source]

    def n_sessions_of_stations(self) -> dict[str, int]:
        """In how many sessions each station measured, by name; those in none are left out."""
        heard = self.columns.heard
        names = [station.name for station in self.columns.stations]
        counts = (
            int(np.count_nonzero(heard[:, number // 8] & (0x80 >> number % 8)))
            for number in range(len(names))
        )
        return {name: count for name, count in zip(names, counts, strict=True) if count}
