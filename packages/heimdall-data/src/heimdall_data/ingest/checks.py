"""What a session must be before any of it is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from datetime import datetime

    from heimdall_data.catalogue.session import Station
    from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource

__all__ = ["MAX_TOLD", "check_moment", "check_session", "check_station"]


MAX_TOLD = 20


_STATUS = ("pending", "in_progress", "completed", "failed")
_APPROVAL = ("pending", "approved", "rejected")
_FORMATS = ("npy", "sigmf", "kiwi_wav")
# The catalogue's columns are 32 bits wide.
_MAX_RATE_HZ = 2**31 - 1
# From below the Dead Sea to where space begins.
_ALTITUDES_M = (-1_000, 100_000)
# The catalogue's readers take no session from outside of these years.
_YEARS = (1900, 2199)
# An index of Postgres holds no more, at 4 bytes a character.
_MAX_NAME = 600
# Where radio ends, by the ITU's definition.
_MAX_FREQUENCY_HZ = 3e12


def check_session(session: NewSession) -> None:
    """Refuse a session that the catalogue must not hold.

    Raises:
        IngestError: it names the session, the part, the offending value and the remedy.
    """
    where = f"session {session.name[:80]!r} of source {session.source.name[:80]!r}"
    _check_name(session.name, f"{where}: its name")
    check_moment(session.start, where)
    _check_choice(session.status, _STATUS, f"{where}: status")
    _check_choice(session.approval_status, _APPROVAL, f"{where}: approval_status")
    _check_source(session.source, where)
    if session.status == "completed" and not session.measurements:
        raise IngestError(f"{where} is completed and has no recording; add one, or say failed")
    names = [recording.station.name for recording in session.measurements]
    for recording in session.measurements:
        station = recording.station.name
        if names.count(station) > 1:
            raise IngestError(f"{where} has {names.count(station)} recordings of {station!r}")
        _check_recording(recording, f"{where}, station {station!r}")


def _check_source(source: NewSource, where: str) -> None:
    _check_name(source.name, f"{where}: the source's name")
    if source.source_type is not None:
        _check_name(source.source_type, f"{where}: source_type")
    if (source.latitude_deg is None) != (source.longitude_deg is None):
        raise IngestError(
            f"{where} has latitude {source.latitude_deg} and longitude {source.longitude_deg}; "
            "give both, or neither where the position is not known"
        )
    if source.latitude_deg is not None and source.longitude_deg is not None:
        _check_position(source.latitude_deg, source.longitude_deg, where)
    if not (math.isfinite(source.error_margin_m) and source.error_margin_m >= 0):
        raise IngestError(
            f"{where}: error margin {source.error_margin_m} m is not a distance of 0 m or more"
        )
    for quantity in (source.frequency_hz, source.power_dbm):
        _check_finite(quantity, where)
    if source.frequency_hz is not None and not 0 <= source.frequency_hz <= _MAX_FREQUENCY_HZ:
        raise IngestError(
            f"{where}: the source's frequency {source.frequency_hz} Hz is no frequency of radio, "
            f"0 to {_MAX_FREQUENCY_HZ:.0e} Hz"
        )


def check_station(station: Station, where: str) -> None:
    """Refuse a station without a name, or at no place on the globe.

    Raises:
        IngestError: it begins with `where`.
    """
    _check_name(station.name, f"{where}: the station's name")
    _check_position(station.latitude_deg, station.longitude_deg, where)
    altitude_m = station.altitude_m
    if altitude_m is not None and not _ALTITUDES_M[0] <= altitude_m <= _ALTITUDES_M[1]:
        raise IngestError(
            f"{where}: altitude {altitude_m} m is not in {_ALTITUDES_M[0]} to {_ALTITUDES_M[1]} m"
        )


def _check_recording(recording: NewRecording, where: str) -> None:
    check_station(recording.station, where)
    _check_choice(recording.format, _FORMATS, f"{where}: format")
    if recording.payload is not None and not recording.payload:
        raise IngestError(f"{where}: the recording is empty (0 bytes); leave it out")
    if recording.metadata is not None and recording.format != "sigmf":
        raise IngestError(
            f"{where}: metadata beside format {recording.format!r}; only sigmf has it"
        )
    if not 1 <= recording.sample_rate_hz <= _MAX_RATE_HZ:
        raise IngestError(
            f"{where}: sample rate {recording.sample_rate_hz} Hz is not in 1 to {_MAX_RATE_HZ} Hz"
        )
    if not 0 < recording.n_samples <= _MAX_RATE_HZ:
        raise IngestError(f"{where}: {recording.n_samples} samples; a recording has at least one")
    if not 0 <= recording.frequency_hz <= _MAX_FREQUENCY_HZ:
        raise IngestError(
            f"{where}: frequency {recording.frequency_hz} Hz is no frequency of radio, "
            f"0 to {_MAX_FREQUENCY_HZ:.0e} Hz"
        )
    if recording.start is not None:
        check_moment(recording.start, where)
    for quantity in (recording.snr_db, recording.signal_strength_db, recording.frequency_offset_hz):
        _check_finite(quantity, where)


def _check_position(latitude_deg: float, longitude_deg: float, where: str) -> None:
    # Written so that NaN, which compares false, is refused.
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise IngestError(
            f"{where}: position {latitude_deg}, {longitude_deg} is not a latitude in -90 to 90 "
            "and a longitude in -180 to 180 degrees; are they swapped?"
        )


def _check_finite(value: float | None, where: str) -> None:
    if value is not None and not math.isfinite(value):
        raise IngestError(f"{where}: a value is {value}; leave unknown values out")


def _check_choice(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise IngestError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}")


def check_moment(moment: datetime, where: str) -> None:
    """Refuse a time without a zone, or one that no recording can be of.

    Raises:
        IngestError: it begins with `where`.
    """
    if moment.tzinfo is None:
        raise IngestError(f"{where} starts at {moment}, without a time zone; add one")
    # A day less at either end, since another zone may have another year.
    if not _YEARS[0] < moment.year < _YEARS[1]:
        raise IngestError(
            f"{where} starts at {moment}, which is not in the years {_YEARS[0] + 1} to "
            f"{_YEARS[1] - 1}; correct the start"
        )


def _check_name(value: str, where: str) -> None:
    if not value.strip() or "\x00" in value:
        raise IngestError(f"{where} is {value!r}; give it at least one visible character")
    if len(value) > _MAX_NAME:
        raise IngestError(
            f"{where} has {len(value)} characters ({value[:20]!r}...); {_MAX_NAME} are the most"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # Of a file whose name is in an encoding of the last century.
        raise IngestError(f"{where} is {value!r}, which is no Unicode text; rename it") from error
