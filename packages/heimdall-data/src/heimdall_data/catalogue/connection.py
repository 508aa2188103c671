"""Connections to one Postgres, and the errors for when there are none.

A server that does not open at first is an error at once: the address or the password is wrong,
or it does not run. One that has opened before and goes away is waited for, since servers are
restarted. No message or `repr` shows a password.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout

from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["CatalogueLost", "ConnectionPools", "first_line"]

_CONNECT_S = 5
_MOST_CONNECTIONS = 4
# The pool would warn of each attempt to reconnect; the error at the end is enough.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class CatalogueLost(CatalogueError):
    """A connection ended while it was used; another may work."""


class ConnectionPools:
    """A pool for each process: threads share one, a forked child makes its own."""

    def __init__(self, url: str, patience_s: float, *, has_opened: bool = False) -> None:
        """Use a database; no connection is opened yet.

        Args:
            url: `postgresql://user:password@host:port/database`.
            patience_s: How long to wait for a server that goes away.
            has_opened: The address and the password are known to be right.

        Raises:
            CatalogueError: The URL is invalid.
        """
        self._url = url
        self._patience_s = patience_s
        self._has_opened = has_opened
        self._pools: dict[int, ConnectionPool] = {}
        self._lock = threading.Lock()
        try:
            self._parts: dict[str, Any] = dict(conninfo_to_dict(url))
        except psycopg.ProgrammingError:
            raise CatalogueError(
                "HEIMDALL_DATABASE_URL is not a connection string like "
                "postgresql://user:password@host:5432/database"
            ) from None

    def __getstate__(self) -> tuple[str, float, bool]:
        """A copy in another process waits for the server if this one has seen it."""
        return (self._url, self._patience_s, self._has_opened)

    def __setstate__(self, state: tuple[str, float, bool]) -> None:
        url, patience_s, has_opened = state
        ConnectionPools.__init__(self, url, patience_s, has_opened=has_opened)

    @property
    def where(self) -> str:
        """Description of the database, without the password."""
        host, port = self._parts.get("host", "localhost"), self._parts.get("port", 5432)
        return f"database {self._parts.get('dbname', '')!r} on {host}:{port}"

    @property
    def user(self) -> str | None:
        """User name of our connections."""
        return self._parts.get("user")

    def connection(self) -> AbstractContextManager[psycopg.Connection[tuple[Any, ...]]]:
        """Context with a connection that works.

        Raises:
            CatalogueError: There is none to be had.
        """
        return self._pool().connection()

    def lost(self, error: psycopg.Error) -> CatalogueError:
        """Error for a connection that ended, or that could not be had again."""
        if isinstance(error, PoolTimeout):
            return CatalogueError(
                f"{self.where} went away and did not come back within {self._patience_s:g} s; "
                "check that the server runs, and start again"
            )
        return CatalogueLost(f"lost {self.where}: {first_line(error)}; check that the server runs")

    def close(self) -> None:
        """Close this process's connections; the next use opens others."""
        with self._lock:
            pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    def _pool(self) -> ConnectionPool:
        with self._lock:
            if os.getpid() not in self._pools:
                if not self._has_opened:
                    self._require_open()
                pool = ConnectionPool(
                    self._url,
                    kwargs={"autocommit": True, "connect_timeout": _CONNECT_S},
                    configure=_configure,
                    min_size=0,
                    max_size=_MOST_CONNECTIONS,
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
        try:
            psycopg.connect(self._url, connect_timeout=_CONNECT_S).close()
        except psycopg.OperationalError as error:
            # Without the addresses that libpq lists, and without its advice.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            line = next((line for line in lines if "failed: " in line), lines[0])
            # The chain is cut: libpq's own message may quote the connection string.
            raise CatalogueError(
                f"cannot open {self.where} as user {self.user!r} "
                f"({line.rpartition('failed: ')[2].strip()}); "
                "check HEIMDALL_DATABASE_URL and that the server runs"
            ) from None
        self._has_opened = True


def _configure(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Override settings of the URL, the role or the environment.

    Times must be readable by Python and in one zone: they are part of the keys of computed
    features.
    """
    connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET client_encoding = 'UTF8'")


def first_line(error: psycopg.Error) -> str:
    """Message of Postgres without its details."""
    return str(error).strip().partition("\n")[0]
