"""The catalogue in Postgres, for reading and for ingestion.

If the database cannot be opened at first, the address or the password is wrong, or no server
runs: that is an error at once. A server that has been reached before is waited for, since servers
are restarted, and so is one whose connections are all in use. No message or `repr` shows a
password.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import Counter
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from heimdall_features.addresses import ESCAPE, is_ambiguous, redacted
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout

from heimdall_data.catalogue.connection import Connection
from heimdall_data.catalogue.queries import (
    LEVELS_ALONE,
    REJECTED,
    STATIONS,
    UNPLACED,
    belonging,
    columns_present,
    rates_query,
    sessions_from_rows,
    sessions_query,
    unlocated_query,
)
from heimdall_data.catalogue.session import SessionFilter, Station
from heimdall_data.catalogue.table import SessionTable, read_columns
from heimdall_data.errors import CatalogueError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heimdall_data.catalogue.session import Session

# Behind a pooler such as pgbouncer, each transaction has another session of the server: nothing
# may be left in one, neither settings nor prepared statements. These override settings of the URL,
# the role and the environment: times in one form and zone are part of the keys of features.
_SETTINGS = """
SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL client_encoding = 'UTF8'
"""
_ATTEMPTS = 3
_CONNECT_S = 5
_MAY_PASS = ("08", "40", "53300", "57P")
"""SQLSTATEs of servers that restart or are full, and of conflicts; others are answers to stay."""
_LIMITS: dict[type[psycopg.Error], str] = {
    psycopg.errors.QueryCanceled: "statement_timeout",
    psycopg.errors.TransactionTimeout: "transaction_timeout",
    psycopg.errors.IdleInTransactionSessionTimeout: "idle_in_transaction_session_timeout",
    psycopg.errors.LockNotAvailable: "lock_timeout",
}
"""Postgres' settings that end a query, by the error that it ends with."""
_RETRY_S = 0.5
"""Between two attempts at a server without a free connection."""
_FULL = ("too many clients", "too many connections", "connection slots are reserved")
"""Postgres' messages about its limits of connections: of a server, of a role or database."""
_MAKE_ROOM = "raise max_connections or the role's limit, or use fewer --num_workers"
_log = logging.getLogger(__name__)
# The pool would warn of each attempt to reconnect; the error at the end is enough.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
_Found = TypeVar("_Found")


class _ConnectionLost(CatalogueError):
    """A connection ended while it was used; another may work."""


class Catalogue:
    """One database with the contract's tables.

    It connects on first use, through a pool that threads share; a copy in another process opens
    its own connections. Reading needs only SELECT on four tables. Every method raises
    `CatalogueError` if the database cannot be reached or read, or lacks a column that we read.
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
        if "://" in database_url and is_ambiguous(database_url):
            raise CatalogueError(f"HEIMDALL_DATABASE_URL cannot be taken apart: {ESCAPE}")
        try:
            parts: dict[str, Any] = dict(conninfo_to_dict(database_url))
        except psycopg.ProgrammingError:
            raise CatalogueError(
                "HEIMDALL_DATABASE_URL is not a connection string like "
                "postgresql://user:password@host:5432/database"
            ) from None
        host, port = parts.get("host", "localhost"), parts.get("port", 5432)
        self.where = f"database {parts.get('dbname', '')!r} on {host}:{port}"
        """Description of the database, without the password."""
        self._user = parts.get("user")
        self._url = database_url
        self.default_bucket = default_bucket
        self._patience_s = patience_s
        self._has_opened = False
        self._pools: dict[int, ConnectionPool[Connection]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """A copy in another process waits for the server if this one has reached it."""
        return vars(self) | {"_pools": {}, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's connections; the next use opens others."""
        with self._lock:
            pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    def create_schema(self) -> None:
        """Create the schema and its tables unless the database has them."""
        with self.transaction() as connection:
            # Two at once would both find nothing, and the second would fail.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall schema'))")
            if any(columns_present(connection).values()):
                belonging(connection, self.where)
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
        """
        only = only or SessionFilter()

        def table(connection: Connection) -> SessionTable:
            members = belonging(connection, self.where)
            if names := [repr(name) for (name,) in connection.execute(UNPLACED)]:
                _log.warning(
                    "%s: recordings of stations without a valid position or name are left "
                    "out: %s; correct heimdall.websdr_stations",
                    self.where,
                    ", ".join(names),
                )
            alone: dict[str, int] = dict(connection.execute(f"{members}{LEVELS_ALONE}"))
            if alone:
                _log.warning(
                    "%s: %d measurements have signal_strength_db and no recording (%s); they are "
                    "left out, because nothing tells what their levels are relative to: see "
                    "docs/data.md",
                    self.where,
                    sum(alone.values()),
                    ", ".join(f"{name} {n}" for name, n in alone.items()),
                )
            columns = read_columns(connection, only, members)
            spelt = Counter(station.name for station in columns.stations)
            if twice := [repr(name) for name, n in spelt.items() if n > 1]:
                _log.warning(
                    "%s: stations of one name in two spellings (Unicode NFC and NFD) count as "
                    "one: %s; correct heimdall.websdr_stations",
                    self.where,
                    ", ".join(twice),
                )
            read = partial(self._sessions_by_id, only, members)
            if columns.ids.size > load_up_to:
                return SessionTable(columns, read)
            return SessionTable(columns, read, tuple(self._load(connection, only, members)))

        return self.read(table)

    def unlocated_sessions(
        self, only: SessionFilter | None = None, ids: Sequence[str] | None = None
    ) -> tuple[Session, ...]:
        """Return the completed sessions of sources without a position, by start.

        They need not be approved, and must not be rejected.

        Args:
            only: Conditions on sessions and measurements.
            ids: Ids of sessions, UUIDs: these alone, whether their sources have positions or not.
        """
        only = only or SessionFilter()

        def found(connection: Connection) -> tuple[Session, ...]:
            members = belonging(connection, self.where)
            query = unlocated_query(only, members, by_id=ids is not None)
            chosen = None if ids is None else list(ids)
            rows = connection.execute(query, only.parameters() | {"ids": chosen})
            return tuple(sessions_from_rows(rows, self.default_bucket))

        return self.read(found)

    def rejected_counts(self) -> dict[str, int]:
        """Number of sessions that are not usable, by the first reason that applies."""
        return self.read(
            lambda connection: dict(
                connection.execute(f"{belonging(connection, self.where)}{REJECTED}")
            )
        )

    def sample_rates_hz(self, only: SessionFilter | None = None) -> dict[float, int]:
        """Number of measurements of usable sessions at each stated sample rate, most first."""
        only = only or SessionFilter()
        return self.read(
            lambda connection: dict(
                connection.execute(
                    rates_query(only, belonging(connection, self.where)), only.parameters()
                )
            )
        )

    def stations(self) -> list[Station]:
        """Return every station with a position, by name."""

        def found(connection: Connection) -> list[Station]:
            belonging(connection, self.where)
            stations = (Station(*row) for _, *row in connection.execute(STATIONS))
            return list({station.name: station for station in stations}.values())

        return self.read(found)

    def _sessions_by_id(
        self, only: SessionFilter, members: str, ids: Sequence[str]
    ) -> list[Session]:
        """Those of the sessions with these ids that are still usable, by start."""
        return self.read(lambda connection: [*self._load(connection, only, members, list(ids))])

    def _load(
        self,
        connection: Connection,
        only: SessionFilter,
        members: str,
        ids: list[str] | None = None,
    ) -> Iterator[Session]:
        # Every row will be fetched: the planner must not favour the first ones.
        connection.execute("SET LOCAL cursor_tuple_fraction = 1")
        query = sessions_query(only, members, by_id=ids is not None)
        with connection.cursor("heimdall_sessions") as cursor:
            cursor.itersize = 10_000
            cursor.execute(query, only.parameters() | {"ids": ids})
            yield from sessions_from_rows(cursor, self.default_bucket)

    def read(self, query: Callable[[Connection], _Found]) -> _Found:
        """Call `query` in a read-only transaction that sees one state of the database.

        If the server goes away meanwhile, it is waited for and `query` is called again.
        """
        attempt = 1
        while True:
            try:
                with self.transaction() as connection:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    return query(connection)
            except _ConnectionLost as error:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1
                _log.warning("%s; waiting for it to repeat the query", error)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, which is committed at the end or rolled back on an error."""
        try:
            with self._pool().connection() as connection, connection.transaction():
                connection.execute(_SETTINGS)
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise CatalogueError(
                f"{self.where}: {first_line(error)} for user {self._user!r}; "
                "grant it, or use another user in HEIMDALL_DATABASE_URL"
            ) from error
        except PoolTimeout as error:
            reason = self._refusal()
            if reason is None or _is_full(reason):
                raise CatalogueError(
                    f"{self.where} had no free connection within {self._patience_s:g} s "
                    f"({reason or 'this process uses all of its own'}); {_MAKE_ROOM}"
                ) from error
            raise CatalogueError(
                f"{self.where} went away and did not come back within {self._patience_s:g} s "
                f"({reason}); check that the server runs, and start again"
            ) from error
        except tuple(_LIMITS) as error:
            remedy = (
                f"raise {_LIMITS[type(error)]} of user {self._user!r}, or choose fewer sessions"
            )
            if "user request" in str(error):
                remedy = "an administrator did, so start again"
            raise CatalogueError(
                f"{self.where} stopped a query before its end ({first_line(error)}); {remedy}"
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if error.sqlstate is not None and not error.sqlstate.startswith(_MAY_PASS):
                raise CatalogueError(f"{self.where} refuses: {first_line(error)}") from error
            raise _ConnectionLost(
                f"lost {self.where}: {first_line(error)}; check that the server runs"
            ) from error
        except psycopg.Error as error:
            raise CatalogueError(f"{self.where} refuses: {first_line(error)}") from error

    def _pool(self) -> ConnectionPool[Connection]:
        """This process's connections, which a forked child must not use."""
        with self._lock:
            if os.getpid() not in self._pools:
                if not self._has_opened:
                    self._require_open()
                pool = ConnectionPool(
                    self._url,
                    connection_class=Connection,
                    kwargs={
                        "autocommit": True,
                        "connect_timeout": _CONNECT_S,
                        "prepare_threshold": None,
                    },
                    min_size=0,
                    max_size=4,
                    check=ConnectionPool.check_connection,
                    timeout=self._patience_s,
                    reconnect_timeout=self._patience_s,
                    open=True,
                )
                weakref.finalize(self, pool.close)
                self._pools[os.getpid()] = pool
            return self._pools[os.getpid()]

    def _require_open(self) -> None:
        """Connect once without a pool, which would try for long and hide the reason."""
        deadline_s = time.monotonic() + self._patience_s
        has_waited = False
        while (reason := self._refusal()) is not None:
            is_full = _is_full(reason)
            if is_full and time.monotonic() < deadline_s:
                if not has_waited:
                    _log.warning("%s: %s; waiting for a free connection", self.where, reason)
                has_waited = True
                time.sleep(_RETRY_S)
                continue
            remedy = "check HEIMDALL_DATABASE_URL and that the server runs"
            if ambient := sorted(name for name in os.environ if name.startswith("PG")):
                remedy += f"; {', '.join(ambient)} of the environment count too"
            raise CatalogueError(
                f"cannot open {self.where} as user {self._user!r} ({reason}); "
                f"{_MAKE_ROOM if is_full else remedy}"
            )
        self._has_opened = True

    def _refusal(self) -> str | None:
        """Reason why a connection cannot be opened now; None if it can."""
        try:
            Connection.connect(self._url, connect_timeout=_CONNECT_S).close()
        except psycopg.OperationalError as error:
            # Without the addresses that libpq lists, and without its advice. No chain: libpq's own
            # message may quote the connection string.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            line = next((line for line in lines if "failed: " in line), lines[0])
            return redacted(line.rpartition("failed: ")[2].strip(), self._url)
        return None


def _is_full(reason: str) -> bool:
    return any(text in reason for text in _FULL)
