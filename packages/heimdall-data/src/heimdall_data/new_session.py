"""What ingestion is given: a session to be, with the bytes of its recordings.

The three values below are made by whoever has recordings (files on disk, the simulation)
and handed to `heimdall_data.ingest`, which checks them before it writes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from heimdall_data.sessions import Station

__all__ = ["NewRecording", "NewSession", "NewSource"]


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
