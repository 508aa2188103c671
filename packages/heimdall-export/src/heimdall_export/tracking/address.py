"""Addresses of trackers and registries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine

TIMEOUT_S = 10
"""MLflow itself would try to connect for 100 s."""


def with_driver(uri: str) -> str:
    """The address with psycopg 3 for `postgresql://`, where SQLAlchemy would look for psycopg2."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def without_password(text: str) -> str:
    """A text whose addresses have no user and password."""
    return re.sub(r"://[^/\s'\"]*@", "://", text)


def database_engine(uri: str) -> Engine:
    """SQLAlchemy's engine of an address `sqlite:///` or `postgresql://`; it waits for 10 s."""
    from sqlalchemy import create_engine, make_url

    url = make_url(with_driver(uri))
    options = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": TIMEOUT_S}
    return create_engine(url, connect_args=options)
