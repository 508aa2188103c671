"""Connections to Postgres, of which those to the embedded server obey no ambient settings."""

from __future__ import annotations

import os
import threading
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

EMBEDDED = "heimdall-stack"
"""`application_name` in the address of the embedded server, by which it is told from others."""
_LOCK = threading.Lock()


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection for which libpq reads `PG*` variables, unless it is to the embedded server.

    `PGSERVICE`, `PGSSLMODE` and others are meant for other servers. Parameters of an address
    override most of them, but neither `PGSERVICE` nor `PGTZ`, so all are taken away meanwhile.
    """

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:  # noqa: ANN401
        """Connect, as `psycopg.Connection.connect` does."""
        is_embedded = conninfo_to_dict(conninfo).get("application_name") == EMBEDDED
        if not is_embedded:
            return super().connect(conninfo, **options)
        with _LOCK:
            ambient = [name for name in os.environ if name.startswith("PG")]
            before = {name: os.environ.pop(name) for name in ambient}
            try:
                return super().connect(conninfo, **options)
            finally:
                os.environ.update(before)
