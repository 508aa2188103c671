"""All usable sessions as columns of fixed width: a million of them in seconds.

What a split and a choice of receivers need of a session is small: who it is, when it began,
which source it heard, and which stations were there. Postgres groups the measurements and
sends the result in its binary COPY format, whose rows of fixed width NumPy reads as they are.

Source of the format: PostgreSQL documentation, COPY, "Binary Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from heimdall_data.errors import CatalogueError
from heimdall_data.session_query import (
    STATION_PLACED,
    STATIONS,
    USABLE,
    belonging,
    on_earth,
    station_from_row,
)

if TYPE_CHECKING:
    import psycopg

    from heimdall_data.session_filter import SessionFilter
    from heimdall_data.session_query import Membership
    from heimdall_data.sessions import Station

__all__ = ["SessionColumns", "SourcePlace", "read_columns"]

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
