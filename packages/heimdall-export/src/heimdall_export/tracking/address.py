"""Addresses of trackers and registries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Engine

TIMEOUT_S = 10
"""MLflow itself would try to connect for 100 s."""


def with_driver(uri: str) -> str:
    """The address with psycopg 3 for `postgresql://`, where SQLAlchemy would look for psycopg2."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def without_password(text: str) -> str:
    """A text whose addresses have no user and password."""
    return re.sub(r"://[^/\s'\"]*@", "://", text)


def _prepare_nothing(
    dialect: Dialect, _record: object, _arguments: object, options: dict[str, Any]
) -> None:
    """Connect without prepared statements, which psycopg 3 leaves in a session of the server.

    Behind a pooler such as pgbouncer, the next transaction has another session.
    """
    if dialect.driver == "psycopg":
        options.setdefault("prepare_threshold", None)


def database_engine(uri: str) -> Engine:
    """SQLAlchemy's engine of an address `sqlite:///` or `postgresql://`; it waits for 10 s.

    From then on, no engine of this process prepares statements: MLflow makes its own.
    """
    from sqlalchemy import Engine, create_engine, event, make_url

    if not event.contains(Engine, "do_connect", _prepare_nothing):
        event.listen(Engine, "do_connect", _prepare_nothing)
    url = make_url(with_driver(uri))
    options = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": TIMEOUT_S}
    return create_engine(url, connect_args=options)
