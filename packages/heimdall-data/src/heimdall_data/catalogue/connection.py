"""Connections to one Postgres, and what is said when there is none to be had.

A server that does not open at first is an error at once: the address or the password is
wrong, or it does not run. One that has opened before and goes away is waited for, since
servers are restarted. Passwords never show: not in a message, not in a `repr`.
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
# Each attempt to connect again would be a warning of its own; the error at the end says it all.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class CatalogueLost(CatalogueError):
    """The connection ended while it was used; another may do."""


class ConnectionPools:
    """A pool for each process that asks: threads share one, a forked child makes its own."""

    def __init__(self, url: str, patience_s: float) -> None:
        """Remember where the database is; nothing is opened yet.

        Args:
            url: `postgresql://user:password@host:port/database`.
            patience_s: how long a server that goes away is waited for.

        Raises:
            CatalogueError: the URL is none.
        """
        self.url = url
        self.patience_s = patience_s
        self._parts = _parts(url)
        self.has_opened = False
        """The address and the password were right once, here or in the process that made us."""
        self._pools: dict[int, ConnectionPool] = {}
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """Which database this is, in words without the password."""
        host, port = self._parts.get("host", "localhost"), self._parts.get("port", 5432)
        return f"database {self._parts.get('dbname', '')!r} on {host}:{port}"

    @property
    def user(self) -> str | None:
        """Who we are to the server."""
        return self._parts.get("user")

    def connection(self) -> AbstractContextManager[psycopg.Connection[tuple[Any, ...]]]:
        """A connection that works, for as long as the context lasts.

        Raises:
            CatalogueError: there is none to be had.
        """
        return self._pool().connection()

    def lost(self, error: psycopg.Error) -> CatalogueError:
        """What to say of a connection that ended, or was not to be had again."""
        if isinstance(error, PoolTimeout):
            return CatalogueError(
                f"{self.where} went away and did not come back within {self.patience_s:g} s; "
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
                if not self.has_opened:
                    self._require_open()
                pool = ConnectionPool(
                    self.url,
                    kwargs={"autocommit": True, "connect_timeout": _CONNECT_S},
                    configure=_as_we_read,
                    min_size=0,
                    max_size=_MOST_CONNECTIONS,
                    check=ConnectionPool.check_connection,
                    timeout=self.patience_s,
                    reconnect_timeout=self.patience_s,
                    open=True,
                )
                weakref.finalize(self, pool.close)
                self._pools[os.getpid()] = pool
            return self._pools[os.getpid()]

    def _require_open(self) -> None:
        """Connect once by ourselves: a pool would try again for long, and not say why."""
        try:
            psycopg.connect(self.url, connect_timeout=_CONNECT_S).close()
        except psycopg.OperationalError as error:
            # The chain is cut: what libpq tells may quote the connection string.
            raise CatalogueError(
                f"cannot open {self.where} as user {self.user!r} "
                f"({_reason(error)}); check HEIMDALL_DATABASE_URL and that the server runs"
            ) from None
        self.has_opened = True


def _as_we_read(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Say what a URL, a role or the environment may say otherwise.

    Times come as Python reads them, and of one instant in one zone: they are part of the keys
    of computed features.
    """
    connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET client_encoding = 'UTF8'")


def _parts(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise CatalogueError(
            "HEIMDALL_DATABASE_URL is not a connection string like "
            "postgresql://user:password@host:5432/database"
        ) from None


def first_line(error: psycopg.Error) -> str:
    """What Postgres says, without its details."""
    return str(error).strip().partition("\n")[0]


def _reason(error: psycopg.Error) -> str:
    """What libpq says, without the addresses it says it of and its advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    telling = next((line for line in lines if "failed: " in line), lines[0])
    return telling.rpartition("failed: ")[2].strip()
