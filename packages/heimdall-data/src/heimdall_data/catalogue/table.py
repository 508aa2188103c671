"""Usable sessions as a sequence, however many there are.

A few sessions are held in memory whole. Of many, only columns of fixed width are held (id, start,
source and stations), which are all that a split and a choice of receivers need; a session's
measurements are read when it is used. A million sessions open in seconds, and a DataLoader's
worker reads its own batches.

Postgres sends the columns in its binary COPY format, whose rows of fixed width NumPy reads as
they are. Source: PostgreSQL documentation, COPY, "Binary Format".
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from heimdall_data.catalogue.queries import (
    APPROVED,
    LOCATED,
    STATION_PLACED,
    STATIONS,
    on_earth,
)
from heimdall_data.catalogue.session import Session, Station
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import psycopg

    from heimdall_data.catalogue.session import SessionFilter

READ_AT_ONCE = 512
ROWS_AT_ONCE = 65_536
_POSTGRES_EPOCH_US = np.datetime64("2000-01-01", "us").astype(np.int64)
_HEADER_BYTES = 19
_TRAILER = b"\xff\xff"

_SOURCES = f"""
SELECT id::text, latitude, longitude FROM heimdall.known_sources src
WHERE {on_earth("src")} ORDER BY id
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True)
class SourcePlace:
    """Id and position of a transmitter."""

    id: str
    position_deg: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SessionColumns:
    """One entry per session, in the order of their starts."""

    ids: npt.NDArray[np.void]
    """`(n,)`, the 16 bytes of each id."""
    source: npt.NDArray[np.int64]
    """`(n,)`, indices of `sources`."""
    start_us: npt.NDArray[np.int64]
    """`(n,)`, microseconds since 1970 in UTC."""
    heard: npt.NDArray[np.uint8]
    """`(n, bytes)`: a bit for each of `stations`, set if it measured, the highest bit first."""
    sources: tuple[SourcePlace, ...]
    stations: tuple[Station, ...]

    def take(self, indices: npt.NDArray[np.intp]) -> SessionColumns:
        """Select the sessions at `indices`, in that order."""
        names = ("ids", "source", "start_us", "heard")
        return replace(self, **{name: getattr(self, name)[indices] for name in names})


def read_columns(
    connection: psycopg.Connection[Any], only: SessionFilter, members: str
) -> SessionColumns:
    """Read the usable sessions, ordered by start and id, in a transaction that sees one state.

    Raises:
        CatalogueError: A column has another type than the contract's, or is null.
    """
    sources = tuple(
        SourcePlace(identity, (latitude, longitude))
        for identity, latitude, longitude in connection.execute(_SOURCES)
    )
    source_ids = np.array([uuid.UUID(source.id).bytes for source in sources], "S16")
    placed = connection.execute(STATIONS).fetchall()
    seats = [identity for identity, *_ in placed]
    stations = tuple(Station(*row) for _, *row in placed)
    bits = [f"{1 << number:0{len(seats)}b}" for number in reversed(range(len(seats)))]
    # A million sessions do not fit into the default of 4 MB, and would be sorted on disk.
    connection.execute("SET LOCAL work_mem = '128MB'")
    query = _columns_query(only, members)
    parameters = only.parameters() | {"seats": seats, "bits": bits}
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)", parameters) as copy,
    ):
        parts = [
            (
                np.ascontiguousarray(rows["id"]),
                np.searchsorted(source_ids, rows["source"]),
                rows["start"].astype(np.int64) + _POSTGRES_EPOCH_US,
                np.ascontiguousarray(rows["stations"][:, 4:]),  # after the number of bits
            )
            for rows in _rows(copy, len(stations))
        ]
    ids, source, start_us, heard = map(np.concatenate, zip(*parts, strict=True))
    return SessionColumns(
        ids=ids,
        source=source,
        start_us=start_us,
        heard=heard,
        sources=sources,
        stations=stations,
    )


def _columns_query(only: SessionFilter, members: str) -> str:
    """SQL for the usable sessions, one row a session, with the parameters `seats` and `bits`.

    A station's bit is its number in the order of `STATIONS`, so that the stations of a session are
    one value of fixed width. The bits come as parameters: window functions that number stations
    and sources here mislead Postgres about the number of groups, which it then sorts on disk.
    Measurements are grouped before their sessions are joined, which saves a tenth of the time.
    """
    of_session = only.sql("s", "src")
    few = ""
    if only.since is not None or only.until is not None or only.sources is not None:
        few = f"  AND m.session_id IN (SELECT s.id {LOCATED}{APPROVED}{of_session})\n"
    return f"""{members}, heard AS (
    SELECT m.session_id, bit_or(seat.bits) AS bits FROM belonging m
    JOIN heimdall.websdr_stations st ON st.id = m.websdr_station_id
    JOIN unnest(%(seats)s::uuid[], %(bits)s::varbit[]) AS seat(id, bits) ON seat.id = st.id
    WHERE {STATION_PLACED}
{only.sql("m", "st")}{few}    GROUP BY m.session_id
)
SELECT s.id, s.known_source_id, s.session_start, heard.bits
{LOCATED}JOIN heard ON heard.session_id = s.id
{APPROVED}{of_session}ORDER BY s.session_start, s.id
"""  # noqa: S608 - constants of ours


def _rows(copy: psycopg.Copy, n_stations: int) -> Iterator[npt.NDArray[np.void]]:
    """Rows of a binary COPY of `_columns_query`, many at a time: each value follows its length."""
    n_bytes = (n_stations + 7) // 8
    kinds = {"id": "V16", "source": "S16", "start": ">i8", "stations": f"({4 + n_bytes},)u1"}
    pairs = [[(f"{name}_bytes", ">i4"), (name, kind)] for name, kind in kinds.items()]
    row = np.dtype([("n_values", ">i2"), *itertools.chain(*pairs)])
    pieces = iter(copy)  # one a row
    data = b"".join(itertools.islice(pieces, ROWS_AT_ONCE))[_HEADER_BYTES:]
    while len(data) > len(_TRAILER):
        rows = np.frombuffer(data, row, len(data) // row.itemsize)
        lengths_fit = all((rows[f"{name}_bytes"] == row[name].itemsize).all() for name in kinds)
        if not (rows.size and lengths_fit):
            break
        yield rows
        data = data[rows.nbytes :] + b"".join(itertools.islice(pieces, ROWS_AT_ONCE))
    if data != _TRAILER:
        raise CatalogueError(
            "a session of the catalogue has an id, a start or a source that is null or of another "
            "type than the contract's; correct heimdall.recording_sessions"
        )
    yield np.empty(0, row)  # for a catalogue without sessions


class SessionTable(Sequence[Session]):
    """Sessions in the order of their starts; equal to a list of the same sessions.

    Raises `CatalogueError` for sessions that cannot be read, or are gone since it was made.
    """

    def __init__(
        self,
        columns: SessionColumns,
        read_by_id: Callable[[Sequence[str]], list[Session]],
        loaded: tuple[Session, ...] | None = None,
    ) -> None:
        """Describe sessions, one per entry of `columns`.

        `read_by_id` reads the sessions with some ids, in any order, without those that are gone;
        it is pickled with the table. If there are few sessions, `loaded` holds all of them.
        """
        self.columns = columns
        self._read_by_id = read_by_id
        self._loaded = loaded

    def __len__(self) -> int:
        return self.columns.ids.size

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> SessionTable: ...
    def __getitem__(self, index: int | slice) -> Session | SessionTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"session {index} of {len(self)}")
        return self.read([index])[0]

    def __iter__(self) -> Iterator[Session]:
        """Iterate over every session, reading hundreds at a time."""
        for first in range(0, len(self), READ_AT_ONCE):
            yield from self.read(range(first, min(first + READ_AT_ONCE, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def read(self, indices: Iterable[int]) -> list[Session]:
        """Return the sessions at `indices`, in that order, with one query."""
        if self._loaded is not None:
            return [self._loaded[index] for index in indices]
        ids = [self.session_id(index) for index in indices]
        found = {session.id: session for session in self._read_by_id(ids)}
        if gone := [identity for identity in ids if identity not in found]:
            raise CatalogueError(
                f"session {gone[0]} was removed or rejected after the run began "
                f"({len(gone)} of {len(ids)} here); start again to train on the present ones"
            )
        return [found[identity] for identity in ids]

    def session_id(self, index: int) -> str:
        """Return the id of a session, without reading the rest of it."""
        return str(uuid.UUID(bytes=self.columns.ids[index].tobytes()))

    def take(self, indices: npt.NDArray[np.intp]) -> SessionTable:
        """Return a table of the sessions at `indices`, in that order."""
        loaded = None if self._loaded is None else tuple(self.read(indices.tolist()))
        return SessionTable(self.columns.take(indices), self._read_by_id, loaded)

    def without(self, ids: Collection[str]) -> SessionTable:
        """Return a table of the sessions whose ids are not among `ids`."""
        return self._where(ids, among=False) if ids else self

    def only(self, ids: Collection[str]) -> SessionTable:
        """Return a table of the sessions whose ids are among `ids`."""
        return self._where(ids, among=True)

    def _where(self, ids: Collection[str], *, among: bool) -> SessionTable:
        named = {uuid.UUID(identity).bytes for identity in ids}
        own = enumerate(self.columns.ids.tolist())
        return self.take(np.array([i for i, each in own if (each in named) == among], np.intp))

    @property
    def positions_deg(self) -> npt.NDArray[np.float64]:
        """Latitude and longitude of each session's source, in degrees, `(n, 2)`."""
        places = np.array([source.position_deg for source in self.columns.sources], np.float64)
        return places.reshape(-1, 2)[self.columns.source]

    def n_sessions_of_stations(self) -> dict[str, int]:
        """Number of sessions in which each station measured, by name, if there are any."""
        heard = np.unpackbits(self.columns.heard, axis=1)
        counts: Counter[str] = Counter()
        for station, count in zip(self.columns.stations, heard.sum(axis=0).tolist(), strict=False):
            counts[station.name] += count
        return dict(+counts)
