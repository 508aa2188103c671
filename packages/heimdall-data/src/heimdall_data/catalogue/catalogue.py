"""The catalogue in Postgres, for reading and for ingestion.

Its SQL is in `queries`, `table` and `ingest`; nothing else speaks to Postgres. No message or
`repr` shows a password.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
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
    rates_query,
    rejected_query,
    sessions_from_rows,
    sessions_query,
    station_from_row,
)
from heimdall_data.catalogue.session import SessionFilter
from heimdall_data.catalogue.table import SessionTable, read_columns
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from heimdall_data.catalogue.queries import Membership
    from heimdall_data.catalogue.session import Session, Station

    Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = ["Catalogue"]

_ROWS_AT_ONCE = 10_000
_ATTEMPTS = 3
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class Catalogue:
    """One database with the contract's tables.

    It connects on first use, through a pool that threads share; a copy in another process opens
    its own connections. Reading waits for a server that goes away, starts again, and needs only
    SELECT on four tables.
    """

    def __init__(
        self,
        database_url: str,
        *,
        default_bucket: str = "heimdall-raw-iq",
        patience_s: float = 60.0,
    ) -> None:
        """Use a database; no connection is opened yet.

        Args:
            database_url: `postgresql://user:password@host:port/database`.
            default_bucket: Bucket of objects whose location names none.
            patience_s: How long to wait for a server that goes away.

        Raises:
            CatalogueError: The URL is invalid.
        """
        self._pools = ConnectionPools(database_url, patience_s)
        self._default_bucket = default_bucket

    def __repr__(self) -> str:
        return f"Catalogue({self.where})"

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
        """Description of the database, without the password."""
        return self._pools.where

    def close(self) -> None:
        """Close the connections, if there are any; the next use opens others."""
        self._pools.close()

    def create_schema(self) -> None:
        """Create the schema and its tables unless the database has them.

        Raises:
            CatalogueError: There are tables, and they lack a column that we read.
        """
        with self.transaction() as connection:
            # Two at once would both find nothing, and the second would fail.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall schema'))")
            if any(columns_present(connection).values()):
                self._membership(connection)
                return
            script = resources.files("heimdall_data").joinpath("schema.sql").read_text("utf-8")
            connection.execute(script)

    def sessions(
        self, only: SessionFilter | None = None, *, load_up_to: int = 20_000
    ) -> SessionTable:
        """Return the usable sessions with their measurements, by start.

        Args:
            only: Conditions on sessions and measurements.
            load_up_to: Up to this number, sessions are read at once (some 5 KB each); the
                measurements of more are read when a session is used.

        Raises:
            CatalogueError: The database cannot be reached or read, or lacks a column.
        """
        only = only or SessionFilter()

        def table(connection: Connection) -> SessionTable:
            membership = self._membership(connection)
            if names := [repr(name) for (name,) in connection.execute(UNPLACED)]:
                _log.warning(
                    "%s: recordings of stations without a possible position or name are left "
                    "out: %s; correct heimdall.websdr_stations",
                    self.where,
                    ", ".join(names),
                )
            columns = read_columns(connection, only, membership)
            read = partial(self.sessions_by_id, only, membership)
            if columns.ids.size > load_up_to:
                return SessionTable(columns, read)
            return SessionTable(columns, read, tuple(self._load(connection, only, membership)))

        return self.read(table)

    def rejected_counts(self) -> dict[str, int]:
        """Number of sessions that are not usable, by the first reason that applies."""

        def counts(connection: Connection) -> dict[str, int]:
            query = rejected_query(self._membership(connection))
            rows: list[tuple[str, int]] = connection.execute(query).fetchall()
            return dict(rows)

        return self.read(counts)

    def sample_rates_hz(self, only: SessionFilter | None = None) -> dict[float, int]:
        """Number of measurements of usable sessions at each stated sample rate, most first."""
        only = only or SessionFilter()

        def counts(connection: Connection) -> dict[float, int]:
            query = rates_query(only, self._membership(connection))
            rows = connection.execute(query, only.parameters())
            return {float(rate_hz): n for rate_hz, n in rows}

        return self.read(counts)

    def stations(self) -> list[Station]:
        """Return every station with a position, by name."""

        def found(connection: Connection) -> list[Station]:
            self._membership(connection)
            return [station_from_row(row) for row in connection.execute(STATIONS)]

        return self.read(found)

    def sessions_by_id(
        self, only: SessionFilter, membership: Membership, ids: Sequence[str]
    ) -> list[Session]:
        """Return those of the sessions with these ids that are still usable, by start."""
        return self.read(
            lambda connection: list(self._load(connection, only, membership, list(ids)))
        )

    def _load(
        self,
        connection: Connection,
        only: SessionFilter,
        membership: Membership,
        ids: list[str] | None = None,
    ) -> Iterator[Session]:
        # Every row will be fetched: the planner must not favour the first ones.
        connection.execute("SET LOCAL cursor_tuple_fraction = 1")
        query = sessions_query(only, membership, by_id=ids is not None)
        with connection.cursor("heimdall_sessions") as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            cursor.execute(query, only.parameters() | {"ids": ids})
            yield from sessions_from_rows(cursor, self._default_bucket)

    def read(self, query: Callable[[Connection], _Found]) -> _Found:
        """Call `query` in a read-only transaction that sees one state of the database.

        If the server goes away meanwhile, it is waited for and `query` is called again.

        Raises:
            CatalogueError: In place of the errors of Postgres.
        """
        attempts_left = _ATTEMPTS
        while True:
            try:
                with self.transaction() as connection:
                    connection.execute(_SNAPSHOT)
                    return query(connection)
            except CatalogueLost as error:
                attempts_left -= 1
                if not attempts_left:
                    raise
                _log.warning("%s; waiting for it to repeat the query", error)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, which is committed at the end or rolled back on an error.

        Raises:
            CatalogueError: In place of the errors of Postgres.
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
        """How this database assigns measurements to sessions; checks its columns too."""
        present = columns_present(connection)
        check_columns(present, self.where)
        if "recording_session_id" not in present["measurements"]:
            return "task"
        unclaimed = connection.execute(UNCLAIMED).fetchone()
        return "both" if unclaimed == (True,) else "column"
