"""The identities that ingestion gives: ids and object keys made of stable names.

The same recording has the same id and key every time, so that ingesting it twice finds the
first. Names come from outside and never reach a key as they are.

Source: name-based UUIDs, RFC 9562, section 5.5.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heimdall_data.new_session import NewRecording, NewSession, NewSource

__all__ = ["measurement_id", "object_key", "session_id", "source_id", "station_id"]

_NAMESPACE = uuid.UUID("b1f0c7b2-6b0e-5f0a-9a53-1d2c7c8f4e11")
_MAX_NAME = 64
_SUFFIXES = {"npy": ".npy", "kiwi_wav": ".wav", "sigmf": ".sigmf"}


def source_id(source: NewSource) -> uuid.UUID:
    """The id of a source that the catalogue does not know by name."""
    return _named("source", source.name)


def station_id(name: str) -> uuid.UUID:
    """The id of a station that the catalogue does not know by name."""
    return _named("station", name)


def session_id(session: NewSession) -> uuid.UUID:
    """The id of a session, which is its task id in object keys too."""
    start = session.start.astimezone(UTC).isoformat()
    return _named("session", session.source.name, session.name, start)


def measurement_id(session: uuid.UUID, station: str) -> uuid.UUID:
    """The id of what `station` recorded in `session`."""
    return _named("measurement", str(session), station)


def object_key(session: uuid.UUID, recording: NewRecording) -> str:
    """The key of a recording's object: `sessions/{task id}/websdr_{station}` and a suffix."""
    suffix = _SUFFIXES[recording.format]
    if recording.metadata is not None:
        suffix = ".sigmf-data"
    return f"sessions/{session}/websdr_{_key_name(recording.station.name)}{suffix}"


def _named(kind: str, *names: str) -> uuid.UUID:
    # The lengths keep ("ab", "c") apart from ("a", "bc").
    return uuid.uuid5(_NAMESPACE, kind + "".join(f"/{len(name)}:{name}" for name in names))


def _key_name(name: str) -> str:
    """`name` in characters that are safe in a key, a path and a URL.

    A name that had to be changed gets a digest of what it was, so that two never meet.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:_MAX_NAME]
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
