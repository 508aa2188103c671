"""Addresses of trackers, as they are used and as they may be shown."""

from __future__ import annotations

import re


def with_driver(uri: str) -> str:
    """The address with psycopg 3 for `postgresql://`, where SQLAlchemy would look for psycopg2."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def without_password(text: str) -> str:
    """A text whose addresses have no user and password."""
    return re.sub(r"://[^/\s'\"]*@", "://", text)
