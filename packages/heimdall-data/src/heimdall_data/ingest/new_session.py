"""The input of ingestion: a session with its recordings, its limits and its ids.

Files on disk and the simulation become such sessions. Ids and object keys are made from names,
so that ingesting a recording twice stores it once. Names come from outside, so keys contain
only their safe characters.

Source: name-based UUIDs, RFC 9562, section 5.5.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

from heimdall_features.names import composed, is_printable, shown

from heimdall_data.distance import is_near_deg
from heimdall_data.errors import IngestError
from heimdall_data.recordings.formats import FORMATS, STORED_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from heimdall_data.catalogue.session import Station
    from heimdall_data.ingest.recording_file import RecordingFile

APPROVALS = ("pending", "approved", "rejected")
DEFAULT_ERROR_MARGIN_M = 50.0
MAX_PROBLEMS = 20
"""The most problems that one error lists."""
SAME_PLACE_DEG = 0.001
"""Positions further apart than this are two places: about 100 m of latitude."""
_STATUS = ("pending", "in_progress", "completed", "failed")
_YEARS = range(1901, 2199)
"""The catalogue's readers allow a year more at either end, since time zones differ."""
_MAX_NAME = 600
"""An index of Postgres has no room for more, at 4 bytes a character."""
_MAX_KEY_NAME = 64
_NAMESPACE = uuid.UUID("b1f0c7b2-6b0e-5f0a-9a53-1d2c7c8f4e11")
_MAX_INTEGER = 2**31 - 1
"""The catalogue's integer columns are 32 bits wide."""
_LIMITS = {
    "latitude_deg": (-90, 90),
    "longitude_deg": (-180, 180),
    "altitude_m": (-1_000, 100_000),  # from below the Dead Sea to space
    "frequency_hz": (0, 3e12),  # radio, by the ITU's definition
    "sample_rate_hz": (1, _MAX_INTEGER),
    "n_samples": (1, _MAX_INTEGER),
    "error_margin_m": (0, 1e30),
    "power_dbm": (-1e30, 1e30),
    "snr_db": (-1e30, 1e30),
    "signal_strength_db": (-1e30, 1e30),
    "frequency_offset_hz": (-_MAX_INTEGER, _MAX_INTEGER),
}
"""Least and greatest value of numbers of sources, stations and recordings."""


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
    """A transmitter, identified by its name. Only one with a position is trained on."""

    name: str
    """Name, which identifies it."""
    latitude_deg: float | None
    """Degrees north, WGS84; None if it is unknown."""
    longitude_deg: float | None
    """Degrees east, WGS84; None if it is unknown."""
    frequency_hz: float | None = None
    """Nominal carrier."""
    power_dbm: float | None = None
    """Radiated power."""
    source_type: str | None = None
    """Kind of transmitter, such as `beacon`."""
    is_validated: bool = True
    """True if somebody has checked the position."""
    error_margin_m: float = DEFAULT_ERROR_MARGIN_M
    """Uncertainty of the position."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", composed(self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecording:
    """One station's recording: the object's bytes and its row in the catalogue."""

    station: Station
    """Station that recorded."""
    payload: bytes | None
    """The object to store, unless there is a file."""
    format: str
    """`npy`, `sigmf` or `kiwi_wav`."""
    sample_rate_hz: float
    """Rate to store; the catalogue rounds it to whole hertz."""
    n_samples: int
    """Complex samples."""
    frequency_hz: float
    """Frequency to which the receiver was tuned."""
    metadata: bytes | None = None
    """The `.sigmf-meta` beside a `.sigmf-data` payload; a SigMF payload without it is a
    `.sigmf` archive."""
    file: RecordingFile | None = None
    """Read when it is stored. Without file and payload only the row is written, as after a
    failed upload; the simulation makes such faults."""
    snr_db: float | None = None
    """Signal to noise, if it was measured."""
    signal_strength_db: float | None = None
    """Level, if it was measured."""
    frequency_offset_hz: float | None = None
    """Offset of the carrier from `frequency_hz`, if it was measured."""
    start: datetime | None = None
    """Aware; None means the session's start."""
    where: str = field(default="", compare=False)
    """Its file, or its line of a manifest; for messages."""

    def content(self) -> tuple[bytes | None, bytes | None]:
        """Return the bytes of payload and metadata, or those of the file (see there)."""
        return (self.payload, self.metadata) if self.file is None else self.file.content()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """One transmission of a source. The source's name, its own and its start identify it."""

    source: NewSource
    """Transmitter that was recorded."""
    measurements: tuple[NewRecording, ...]
    """Recordings, one for each station."""
    name: str
    """Name for people."""
    start: datetime
    """Aware time at which the recordings begin."""
    duration_s: float | None = None
    """Length, if it is known."""
    status: str = "completed"
    """`completed`, or another state of the catalogue, which is not trained on."""
    approval_status: str = "approved"
    """`approved`, or `pending` or `rejected`, which are not trained on."""
    where: str = field(default="", compare=False)
    """Its line of a manifest; for messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", composed(self.name))


def is_same_place(one_deg: Sequence[float | None], other_deg: Sequence[float | None]) -> bool:
    """Return True if two latitudes and longitudes are those of one place, or both unknown."""
    return all(
        one == other
        or (one is not None and other is not None and is_near_deg(one, other, SAME_PLACE_DEG))
        for one, other in zip(one_deg, other_deg, strict=True)
    )


def name_id(kind: str, *names: str) -> uuid.UUID:
    """Return the id of a thing that is not in the catalogue: `name_id("station", "Torino")`."""
    # The lengths keep ("ab", "c") apart from ("a", "bc").
    return uuid.uuid5(_NAMESPACE, kind + "".join(f"/{len(name)}:{name}" for name in names))


def session_id(session: NewSession) -> uuid.UUID:
    """Return the id of a session, which is also its task id in object keys."""
    start = session.start.astimezone(UTC).isoformat()
    return name_id("session", session.source.name, session.name, start)


def measurement_id(session: uuid.UUID, station: str) -> uuid.UUID:
    """Return the id of a station's recording in a session."""
    return name_id("measurement", str(session), station)


def object_key(session: uuid.UUID, recording: NewRecording) -> str:
    """Return the key of a recording's object: `sessions/{task id}/websdr_{station}` and a suffix.

    Only safe characters of the name are kept; a changed name gets a digest, so that keys differ.
    """
    name = recording.station.name
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:_MAX_KEY_NAME]
    if safe != name:
        safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    is_pair = recording.metadata is not None or (recording.file and recording.file.is_pair)
    suffix = ".sigmf-data" if is_pair else STORED_SUFFIXES[recording.format]
    return f"sessions/{session}/websdr_{safe}{suffix}"


def check_session(session: NewSession) -> None:
    """Refuse a session that must not be in the catalogue.

    Raises:
        IngestError: The message names the session, the part, the value and the remedy.
    """
    source = session.source
    where = f"session {session.name[:80]!r} of source {source.name[:80]!r}"
    _check_name(session.name, f"{where}: its name")
    check_moment(session.start, where)
    _check_choice(session.status, _STATUS, f"{where}: status")
    _check_choice(session.approval_status, APPROVALS, f"{where}: approval_status")
    _check_name(source.name, f"{where}: the source's name")
    if source.source_type is not None:
        _check_name(source.source_type, f"{where}: source_type")
    _check_numbers(source, f"{where}: the source's")
    if (source.latitude_deg is None) != (source.longitude_deg is None):
        raise IngestError(
            f"{where} has latitude {source.latitude_deg} and longitude {source.longitude_deg}; "
            f"give both, or neither if the position is not known"
        )
    if session.status == "completed" and not session.measurements:
        raise IngestError(f"{where} is completed and has no recording; add one, or set failed")
    for station, n in Counter(item.station.name for item in session.measurements).items():
        if n > 1:
            raise IngestError(f"{where} has {n} recordings of {station!r}; keep one")
    for item in session.measurements:
        at = f"{where}, station {item.station.name!r}"
        check_station(item.station, at)
        _check_choice(item.format, FORMATS, f"{at}: format")
        if item.payload == b"":
            raise IngestError(f"{at}: the recording is empty (0 bytes); leave it out")
        _check_numbers(item, f"{at}:")
        if item.start is not None:
            check_moment(item.start, at)


def check_station(station: Station, where: str) -> None:
    """Refuse a station without a name or with an impossible position, by an `IngestError`."""
    _check_name(station.name, f"{where}: the station's name")
    _check_numbers(station, f"{where}: the station's")


def check_moment(moment: datetime, where: str) -> None:
    """Refuse a time without a zone, before 1901 or after 2198, by an `IngestError`."""
    if moment.tzinfo is None:
        raise IngestError(f"{where} starts at {moment}, without a time zone; add one")
    if moment.year not in _YEARS:
        raise IngestError(
            f"{where} starts at {moment}, not in the years {_YEARS[0]} to {_YEARS[-1]}; "
            f"correct the start"
        )


def _check_numbers(values: NewSource | NewRecording | Station, where: str) -> None:
    for name, (low, high) in _LIMITS.items():
        number = getattr(values, name, None)
        # NaN compares false, and is refused.
        if number is not None and not low <= number <= high:
            raise IngestError(f"{where} {name} is {number}; it must be in {low:g} to {high:g}")


def _check_choice(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise IngestError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}")


def _check_name(value: str, where: str) -> None:
    if not value.strip() or not is_printable(value) or len(value) > _MAX_NAME:
        problem = (
            f"{where} is {value[:80]!r}; it must be text of 1 to {_MAX_NAME} characters, without "
            "control and invisible ones"
        )
        raise IngestError(shown(problem))
