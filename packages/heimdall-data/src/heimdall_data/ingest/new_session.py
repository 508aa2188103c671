"""The input of ingestion: a session with the bytes of its recordings, its limits and identity.

The three values are made by whoever has recordings (files on disk, the simulation) and given to
`ingest`, which checks them before it writes anything. Ids and object keys are made of names, so
that the same recording has the same ones every time and ingesting it twice finds the first.
Names come from outside and never reach a key as they are.

Source: name-based UUIDs, RFC 9562, section 5.5.
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from heimdall_data.catalogue.session import Station

__all__ = [
    "APPROVALS",
    "DEFAULT_ERROR_MARGIN_M",
    "MAX_PROBLEMS",
    "SAME_PLACE_DEG",
    "NewRecording",
    "NewSession",
    "NewSource",
    "ProblemsError",
    "check_moment",
    "check_session",
    "check_station",
    "measurement_id",
    "object_key",
    "session_id",
    "source_id",
    "station_id",
]

APPROVALS = ("pending", "approved", "rejected")
DEFAULT_ERROR_MARGIN_M = 50.0
MAX_PROBLEMS = 20
"""As many as are worth reading at once."""
SAME_PLACE_DEG = 0.001
"""Positions further apart than this are two places: about 100 m of latitude."""
_STATUS = ("pending", "in_progress", "completed", "failed")
_SUFFIXES = {"npy": ".npy", "kiwi_wav": ".wav", "sigmf": ".sigmf"}
# The catalogue's columns are 32 bits wide.
_MAX_INTEGER = 2**31 - 1
# From below the Dead Sea to where space begins.
_ALTITUDES_M = (-1_000, 100_000)
# The catalogue's readers take no session from outside of these years.
_YEARS = (1900, 2199)
# An index of Postgres holds no more, at 4 bytes a character.
_MAX_NAME = 600
_MAX_KEY_NAME = 64
# Where radio ends, by the ITU's definition.
_MAX_FREQUENCY_HZ = 3e12
_NAMESPACE = uuid.UUID("b1f0c7b2-6b0e-5f0a-9a53-1d2c7c8f4e11")


class ProblemsError(IngestError):
    """Several problems at once: the first `MAX_PROBLEMS`, and the number of the others."""

    def __init__(self, problems: Sequence[str], summary: str) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        """Each with its line, if it has one."""
        n_more = len(problems) - len(self.problems)
        more = f"\n... and {n_more} more" if n_more else ""
        super().__init__("\n".join(self.problems) + more)
        self.summary = summary


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
    error_margin_m: float = DEFAULT_ERROR_MARGIN_M


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecording:
    """One station's recording: the object's bytes and its row in the catalogue."""

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
    """Its file, or its line of a manifest; for messages."""


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
    """Its line of a manifest; for messages."""


def source_id(source: NewSource) -> uuid.UUID:
    """Return the id of a source that the catalogue does not know by name."""
    return _named("source", source.name)


def station_id(name: str) -> uuid.UUID:
    """Return the id of a station that the catalogue does not know by name."""
    return _named("station", name)


def session_id(session: NewSession) -> uuid.UUID:
    """Return the id of a session, which is its task id in object keys too."""
    start = session.start.astimezone(UTC).isoformat()
    return _named("session", session.source.name, session.name, start)


def measurement_id(session: uuid.UUID, station: str) -> uuid.UUID:
    """Return the id of a station's recording in a session."""
    return _named("measurement", str(session), station)


def _named(kind: str, *names: str) -> uuid.UUID:
    # The lengths keep ("ab", "c") apart from ("a", "bc").
    return uuid.uuid5(_NAMESPACE, kind + "".join(f"/{len(name)}:{name}" for name in names))


def object_key(session: uuid.UUID, recording: NewRecording) -> str:
    """Return the key of a recording's object: `sessions/{task id}/websdr_{station}` and a suffix.

    The station's name is cut to characters that are safe in a key, a path and a URL; one that
    had to be changed gets a digest of the whole name, so that no two keys meet.
    """
    name = recording.station.name
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:_MAX_KEY_NAME]
    if safe != name:
        safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    suffix = _SUFFIXES[recording.format] if recording.metadata is None else ".sigmf-data"
    return f"sessions/{session}/websdr_{safe}{suffix}"


def check_session(session: NewSession) -> None:
    """Refuse a session that the catalogue must not hold.

    Raises:
        IngestError: The message names the session, the part, the offending value and the remedy.
    """
    where = f"session {session.name[:80]!r} of source {session.source.name[:80]!r}"
    _check_name(session.name, f"{where}: its name")
    check_moment(session.start, where)
    _check_choice(session.status, _STATUS, f"{where}: status")
    _check_choice(session.approval_status, APPROVALS, f"{where}: approval_status")
    _check_source(session.source, where)
    if session.status == "completed" and not session.measurements:
        raise IngestError(f"{where} is completed and has no recording; add one, or set failed")
    for station, n in Counter(item.station.name for item in session.measurements).items():
        if n > 1:
            raise IngestError(f"{where} has {n} recordings of {station!r}; keep one")
    for recording in session.measurements:
        _check_recording(recording, f"{where}, station {recording.station.name!r}")


def _check_source(source: NewSource, where: str) -> None:
    _check_name(source.name, f"{where}: the source's name")
    if source.source_type is not None:
        _check_name(source.source_type, f"{where}: source_type")
    if source.latitude_deg is not None and source.longitude_deg is not None:
        _check_position(source.latitude_deg, source.longitude_deg, where)
    elif source.latitude_deg is not None or source.longitude_deg is not None:
        raise IngestError(
            f"{where} has latitude {source.latitude_deg} and longitude {source.longitude_deg}; "
            "give both, or neither where the position is not known"
        )
    if not (math.isfinite(source.error_margin_m) and source.error_margin_m >= 0):
        raise IngestError(
            f"{where}: error margin {source.error_margin_m} m is not a distance of 0 m or more"
        )
    _check_finite(where, source.frequency_hz, source.power_dbm)
    if source.frequency_hz is not None:
        _check_frequency(source.frequency_hz, f"{where}: the source's frequency")


def _check_recording(recording: NewRecording, where: str) -> None:
    check_station(recording.station, where)
    _check_choice(recording.format, tuple(_SUFFIXES), f"{where}: format")
    if recording.payload is not None and not recording.payload:
        raise IngestError(f"{where}: the recording is empty (0 bytes); leave it out")
    if recording.metadata is not None and recording.format != "sigmf":
        raise IngestError(
            f"{where}: metadata beside format {recording.format!r}; only sigmf has it"
        )
    if not 1 <= recording.sample_rate_hz <= _MAX_INTEGER:
        raise IngestError(
            f"{where}: sample rate {recording.sample_rate_hz} Hz is not in 1 to {_MAX_INTEGER} Hz"
        )
    if not 0 < recording.n_samples <= _MAX_INTEGER:
        raise IngestError(
            f"{where}: {recording.n_samples} samples; a recording has 1 to {_MAX_INTEGER}"
        )
    _check_frequency(recording.frequency_hz, f"{where}: frequency")
    if recording.start is not None:
        check_moment(recording.start, where)
    _check_finite(
        where, recording.snr_db, recording.signal_strength_db, recording.frequency_offset_hz
    )


def check_station(station: Station, where: str) -> None:
    """Refuse a station without a name, or at no place on the globe.

    Raises:
        IngestError: The message begins with `where`.
    """
    _check_name(station.name, f"{where}: the station's name")
    _check_position(station.latitude_deg, station.longitude_deg, where)
    low_m, high_m = _ALTITUDES_M
    if station.altitude_m is not None and not low_m <= station.altitude_m <= high_m:
        raise IngestError(
            f"{where}: altitude {station.altitude_m} m is not in {low_m} to {high_m} m"
        )


def check_moment(moment: datetime, where: str) -> None:
    """Refuse a time without a zone, or outside of the years of recordings.

    Raises:
        IngestError: The message begins with `where`.
    """
    if moment.tzinfo is None:
        raise IngestError(f"{where} starts at {moment}, without a time zone; add one")
    # A year less at either end, since another zone may have another year.
    if not _YEARS[0] < moment.year < _YEARS[1]:
        raise IngestError(
            f"{where} starts at {moment}, not in the years {_YEARS[0] + 1} to {_YEARS[1] - 1}; "
            f"correct the start"
        )


# Conditions are written so that NaN, which compares false, is refused.
def _check_position(latitude_deg: float, longitude_deg: float, where: str) -> None:
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise IngestError(
            f"{where}: position {latitude_deg}, {longitude_deg} is not a latitude in -90 to 90 "
            "and a longitude in -180 to 180 degrees; are they swapped?"
        )


def _check_frequency(frequency_hz: float, where: str) -> None:
    if not 0 <= frequency_hz <= _MAX_FREQUENCY_HZ:
        raise IngestError(
            f"{where} {frequency_hz} Hz is not a radio frequency, 0 to {_MAX_FREQUENCY_HZ:.0e} Hz"
        )


def _check_finite(where: str, *values: float | None) -> None:
    for value in values:
        if value is not None and not math.isfinite(value):
            raise IngestError(f"{where}: a value is {value}; leave unknown values out")


def _check_choice(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise IngestError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}")


def _check_name(value: str, where: str) -> None:
    if not value.strip() or "\x00" in value:
        raise IngestError(f"{where} is {value!r}; give it at least one visible character")
    if len(value) > _MAX_NAME:
        raise IngestError(
            f"{where} has {len(value)} characters ({value[:20]!r}...); at most {_MAX_NAME} fit"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # Of a file whose name is in an encoding of the last century.
        raise IngestError(f"{where} is {value!r}, which is not Unicode text; rename it") from error
