"""The catalogue in Postgres: the door to it, for reading and for ingestion.

Together with `session_query`, `session_rows` and `conflicts`, which hold its SQL, only this module
speaks to Postgres. Passwords never show: not in a message, not in a `repr`.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg

from heimdall_data.catalogue.connection import CatalogueLost, ConnectionPools, first_line
from heimdall_data.catalogue.queries import (
    STATIONS,
    UNCLAIMED,
    UNPLACED,
    check_columns,
    columns_present,
    not_used_query,
    rates_query,
    sessions_from_rows,
    sessions_query,
    station_from_row,
)
from heimdall_data.catalogue.session import SessionFilter
from heimdall_data.catalogue.table import SessionTable, read_columns
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from heimdall_data.catalogue.queries import Membership
    from heimdall_data.catalogue.session import Session, Station

    Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = ["Catalogue"]

_ROWS_AT_ONCE = 10_000
_FEW_SESSIONS = 20_000
"""Up to here sessions are read whole (some 5 KB each), and nothing is asked of Postgres later."""
_PATIENCE_S = 60.0
_ATTEMPTS = 3
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class _Readings:
    """Reads sessions by id, in any process."""

    catalogue: Catalogue
    only: SessionFilter
    membership: Membership

    def read(self, ids: Sequence[str]) -> list[Session]:
        """Those of these sessions that are still usable."""
        return self.catalogue.sessions_by_id(ids, self)


class Catalogue:
    """One database with the contract's tables.

    It connects on first use, through a pool that threads share. A server that goes away is
    waited for, and reading begins again. Reading needs no more than SELECT on four tables.
    """

    def __init__(
        self,
        database_url: str,
        *,
        default_bucket: str = "heimdall-raw-iq",
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Remember where the database is.

        Args:
            database_url: `postgresql://user:password@host:port/database`.
            default_bucket: where objects are whose location names no bucket.
            patience_s: how long a server that goes away is waited for.

        Raises:
            CatalogueError: the URL is none.
        """
        self._pools = ConnectionPools(database_url, patience_s)
        self._default_bucket = default_bucket

    def __repr__(self) -> str:
        return f"Catalogue({self.where})"

    def __reduce__(self) -> tuple[Callable[..., Catalogue], tuple[str, str, float, bool]]:
        """A copy in another process opens its own connections."""
        pools = self._pools
        return (_copy, (pools.url, self._default_bucket, pools.patience_s, pools.has_opened))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def where(self) -> str:
        """Which database this is, in words without the password."""
        return self._pools.where

    def close(self) -> None:
        """Close the connections, if there are any; the next use opens others."""
        self._pools.close()

    def create_schema(self) -> None:
        """Make the schema and its tables where there are none; what is there is left alone.

        Raises:
            CatalogueError: there are tables, and they lack a column that we read.
        """
        with self.transaction() as connection:
            # Two at once would both find nothing, and the second would fail.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall schema'))")
            if any(columns_present(connection).values()):
                self._membership(connection)
                return
            script = resources.files("heimdall_data").joinpath("schema.sql").read_text("utf-8")
            connection.execute(script)

    def sessions(self, only: SessionFilter | None = None) -> SessionTable:
        """Every usable session that `only` asks for, by start, with its measurements.

        Of more than some thousands, the measurements are read when they are asked for.

        Raises:
            CatalogueError: the database cannot be reached or read, or lacks a column.
        """
        only = only or SessionFilter()

        def table(connection: Connection) -> SessionTable:
            membership = self._membership(connection)
            self._say_unplaced(connection)
            columns = read_columns(connection, only, membership)
            readings = _Readings(self, only, membership)
            if columns.ids.size > _FEW_SESSIONS:
                return SessionTable(columns, readings)
            query = sessions_query(only, membership)
            loaded = tuple(self._sessions(connection, query, only.parameters()))
            return SessionTable(columns, readings, loaded)

        return self.read(table)

    def _say_unplaced(self, connection: Connection) -> None:
        names = [repr(name) for (name,) in connection.execute(UNPLACED)]
        if names:
            _log.warning(
                "%s: recordings of stations without a possible position or name are left out: %s; "
                "correct heimdall.websdr_stations",
                self.where,
                ", ".join(names),
            )

    def not_used(self) -> dict[str, int]:
        """How many sessions are no sample, by the first reason that makes them none."""

        def counts(connection: Connection) -> dict[str, int]:
            query = not_used_query(self._membership(connection))
            rows: list[tuple[str, int]] = connection.execute(query).fetchall()
            return dict(rows)

        return self.read(counts)

    def sample_rates_hz(self, only: SessionFilter | None = None) -> dict[float, int]:
        """How many measurements of usable sessions state each sample rate, most first."""
        only = only or SessionFilter()

        def counts(connection: Connection) -> dict[float, int]:
            query = rates_query(only, self._membership(connection))
            rows = connection.execute(query, only.parameters())
            return {float(rate_hz): n for rate_hz, n in rows}

        return self.read(counts)

    def stations(self) -> list[Station]:
        """Every station with a position, by name."""

        def found(connection: Connection) -> list[Station]:
            self._membership(connection)
            return [station_from_row(row) for row in connection.execute(STATIONS)]

        return self.read(found)

    def sessions_by_id(self, ids: Sequence[str], readings: _Readings) -> list[Session]:
        """Those of the usable sessions with these ids, by start."""
        query = sessions_query(readings.only, readings.membership, by_id=True)
        parameters = readings.only.parameters() | {"ids": list(ids)}
        return self.read(lambda connection: [*self._sessions(connection, query, parameters)])

    def _sessions(
        self, connection: Connection, query: str, parameters: Mapping[str, object]
    ) -> Iterator[Session]:
        # Every row will be fetched: the planner must not favour the first ones.
        connection.execute("SET LOCAL cursor_tuple_fraction = 1")
        with connection.cursor("heimdall_sessions") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(query, parameters)
            yield from sessions_from_rows(cursor, self._default_bucket)

    def read(self, ask: Callable[[Connection], _Found]) -> _Found:
        """What `ask` finds in one unchanging state of the database.

        A server that goes away while it answers is waited for and asked again.

        Raises:
            CatalogueError: in place of what Postgres says.
        """
        attempts_left = _ATTEMPTS
        while True:
            try:
                with self.transaction() as connection:
                    connection.execute(_SNAPSHOT)
                    return ask(connection)
            except CatalogueLost as error:
                attempts_left -= 1
                if not attempts_left:
                    raise
                _log.warning("%s; it is waited for, and asked again", error)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, which ends in all of it or none.

        Raises:
            CatalogueError: in place of what Postgres says.
        """
        try:
            with self._pools.connection() as connection, connection.transaction():
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise CatalogueError(
                f"{self.where}: {first_line(error)} for user {self._pools.user!r}; "
                "grant it, or use another user in HEIMDALL_DATABASE_URL"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise self._pools.lost(error) from error
        except psycopg.Error as error:
            raise CatalogueError(f"{self.where} refuses: {first_line(error)}") from error

    def _membership(self, connection: Connection) -> Membership:
        """How this database tells which session a measurement belongs to."""
        present = columns_present(connection)
        check_columns(present, self.where)
        if "recording_session_id" not in present["measurements"]:
            return "task"
        unclaimed = connection.execute(UNCLAIMED).fetchone()
        return "both" if unclaimed == (True,) else "column"


def _copy(url: str, default_bucket: str, patience_s: float, has_opened: bool) -> Catalogue:  # noqa: FBT001
    """A catalogue in another process, which waits for the server if the first one saw it."""
    copied = Catalogue(url, default_bucket=default_bucket, patience_s=patience_s)
    copied._pools.has_opened = has_opened
    return copied
