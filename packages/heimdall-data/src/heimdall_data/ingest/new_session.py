"""What ingestion is given: a session to be, with the bytes of its recordings.

The three values below are made by whoever has recordings (files on disk, the simulation)
and handed to `heimdall_data.ingest.ingest`, which checks them before it writes anything.

The identities that ingestion gives: ids and object keys made of stable names.

The same recording has the same id and key every time, so that ingesting it twice finds the
first. Names come from outside and never reach a key as they are.

Source: name-based UUIDs, RFC 9562, section 5.5.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from heimdall_data.catalogue.session import Station

__all__ = [
    "NewRecording",
    "NewSession",
    "NewSource",
    "measurement_id",
    "object_key",
    "session_id",
    "source_id",
    "station_id",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSource:
    """A transmitter, at a known place if it is to be learnt from.

    The name is its identity: two sources with one name are one source.
    """

    name: str
    latitude_deg: float | None
    longitude_deg: float | None
    frequency_hz: float | None = None
    power_dbm: float | None = None
    source_type: str | None = None
    is_validated: bool = True
    error_margin_m: float = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecording:
    """What one station recorded: the object's bytes and what the catalogue says of them."""

    station: Station
    payload: bytes | None
    """The object as it is to be stored. None: the catalogue announces an object that is not
    there, as after an upload that failed; simulation uses it to make faults."""
    format: str
    """`npy`, `sigmf` or `kiwi_wav`."""
    sample_rate_hz: float
    n_samples: int
    frequency_hz: float
    metadata: bytes | None = None
    """The `.sigmf-meta` that goes beside a `.sigmf-data` payload; None for all else (a
    SigMF payload without it is a `.sigmf` archive)."""
    snr_db: float | None = None
    signal_strength_db: float | None = None
    frequency_offset_hz: float | None = None
    start: datetime | None = None
    """Aware; None means the session's start."""
    where: str = field(default="", compare=False)
    """The file, or the line of a manifest, that it comes from; for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """One transmission of one source, as several stations recorded it.

    Its identity is the source's name with the session's own name and start.
    """

    source: NewSource
    measurements: tuple[NewRecording, ...]
    name: str
    start: datetime
    duration_s: float | None = None
    status: str = "completed"
    approval_status: str = "approved"
    where: str = field(default="", compare=False)
    """The line of a manifest that it comes from; for messages."""


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
