"""The catalogue in Postgres: the door to it, for reading and for ingestion.

Together with `session_query` and `session_rows`, which hold its SQL, only this module speaks
to Postgres. Passwords never show: not in a message, not in a `repr`.
"""

from __future__ import annotations

import contextlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from heimdall_data.catalogue_columns import check_columns, columns_present
from heimdall_data.errors import CatalogueError
from heimdall_data.session_filter import SessionFilter
from heimdall_data.session_query import (
    STATIONS,
    not_used_query,
    sessions_from_rows,
    sessions_query,
    station_from_row,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from heimdall_data.sessions import Session, Station

__all__ = ["Catalogue"]

_CONNECT_S = 5
_ROWS_AT_ONCE = 10_000


class Catalogue:
    """One database with the contract's tables.

    It connects on first use and when the server has closed the connection. Reading needs no
    more than SELECT on four tables.
    """

    def __init__(self, database_url: str, *, default_bucket: str = "heimdall-raw-iq") -> None:
        """Remember where the database is.

        Args:
            database_url: `postgresql://user:password@host:port/database`.
            default_bucket: where objects are whose location names no bucket.

        Raises:
            CatalogueError: the URL is none.
        """
        self._url = database_url
        self._parts = _parts(database_url)
        self._default_bucket = default_bucket
        self._connection: psycopg.Connection | None = None

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
        """Which database this is, in words without the password."""
        host, port = self._parts.get("host", "localhost"), self._parts.get("port", 5432)
        return f"database {self._parts.get('dbname', '')!r} on {host}:{port}"

    def close(self) -> None:
        """Close the connection, if there is one; the next use opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def create_schema(self) -> None:
        """Make the schema and its tables where there are none; what is there is left alone.

        Raises:
            CatalogueError: there are tables, and they lack a column that we read.
        """
        with self.transaction() as connection:
            # Two at once would both find nothing, and the second would fail.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall schema'))")
            if any(columns_present(connection).values()):
                self._has_session_column(connection)
                return
            script = resources.files("heimdall_data").joinpath("schema.sql").read_text("utf-8")
            connection.execute(script)

    def sessions(self, only: SessionFilter | None = None) -> list[Session]:
        """Every usable session that `only` asks for, by start, with its measurements.

        Raises:
            CatalogueError: the database cannot be reached or read, or lacks a column.
        """
        only = only or SessionFilter()
        with self.transaction() as connection:
            query = sessions_query(only, by_column=self._has_session_column(connection))
            # Every row will be fetched: the planner must not favour the first ones.
            connection.execute("SET LOCAL cursor_tuple_fraction = 1")
            with connection.cursor("heimdall_sessions") as cursor:
                cursor.itersize = _ROWS_AT_ONCE
                cursor.execute(query, only.parameters())
                return list(sessions_from_rows(cursor, self._default_bucket))

    def not_used(self) -> dict[str, int]:
        """How many sessions are no sample, by the first reason that makes them none."""
        with self.transaction() as connection:
            query = not_used_query(by_column=self._has_session_column(connection))
            rows: list[tuple[str, int]] = connection.execute(query).fetchall()
            return dict(rows)

    def stations(self) -> list[Station]:
        """Every station with a position, by name."""
        with self.transaction() as connection:
            self._has_session_column(connection)
            return [station_from_row(row) for row in connection.execute(STATIONS)]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection in a transaction, which ends in all of it or none.

        Raises:
            CatalogueError: in place of what Postgres says.
        """
        try:
            connection = self._connected()
            with connection.transaction():
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise CatalogueError(
                f"{self.where}: {_first_line(error)} for user {self._parts.get('user')!r}; "
                "grant it, or use another user in HEIMDALL_DATABASE_URL"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise CatalogueError(
                f"lost {self.where}: {_first_line(error)}; check that the server runs"
            ) from error
        except psycopg.Error as error:
            raise CatalogueError(f"{self.where} refuses: {_first_line(error)}") from error

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(
                    self._url, connect_timeout=_CONNECT_S, autocommit=True
                )
            except psycopg.OperationalError as error:
                # The chain is cut: what libpq tells may quote the connection string.
                raise CatalogueError(
                    f"cannot open {self.where} as user {self._parts.get('user')!r} "
                    f"({_reason(error)}); check HEIMDALL_DATABASE_URL and that the server runs"
                ) from None
        return self._connection

    def _has_session_column(self, connection: psycopg.Connection) -> bool:
        present = columns_present(connection)
        check_columns(present, self.where)
        return "recording_session_id" in present["measurements"]


def _parts(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise CatalogueError(
            "HEIMDALL_DATABASE_URL is not a connection string like "
            "postgresql://user:password@host:5432/database"
        ) from None


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]


def _reason(error: psycopg.Error) -> str:
    """What libpq says, without the addresses it says it of and its advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    telling = next((line for line in lines if "failed: " in line), lines[0])
    return telling.rpartition("failed: ")[2].strip()
