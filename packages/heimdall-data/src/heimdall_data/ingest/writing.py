"""The objects and the rows of sessions: objects one by one, rows in one transaction a batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from psycopg import sql

from heimdall_data.catalogue.queries import columns_present
from heimdall_data.ingest.conflicts import check_places, named_places
from heimdall_data.ingest.new_session import (
    measurement_id,
    object_key,
    session_id,
    source_id,
    station_id,
)

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg import Connection

    from heimdall_data.catalogue.session import Station
    from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
    from heimdall_data.object_store.store import ObjectStore

__all__ = ["size_of", "store_objects", "write_sessions"]


def _objects_of(session: NewSession) -> Iterator[tuple[str, bytes]]:
    """Key and content of every object of the session."""
    identity = session_id(session)
    for recording in session.measurements:
        key = object_key(identity, recording)
        if recording.payload is not None:
            yield key, recording.payload
        if recording.metadata is not None:
            yield key.removesuffix("-data") + "-meta", recording.metadata


def size_of(session: NewSession) -> int:
    """Return the number of bytes of all objects of the session."""
    return sum(len(content) for _, content in _objects_of(session))


def store_objects(store: ObjectStore, session: NewSession, *, compare: bool) -> Counter[str]:
    """Store the session's objects; return counts under the names of `IngestReport`.

    Args:
        store: The bucket.
        session: The session.
        compare: Skip objects that are there with the same content (one more request).
    """
    there: dict[str, str] = {}
    if compare:
        prefix = f"sessions/{session_id(session)}/"
        there = {found.key: found.etag for found in store.list(prefix)}
    done: Counter[str] = Counter()
    for key, content in _objects_of(session):
        # The entity tag of an object that was sent in one piece; any other is sent again.
        if there.get(key) == hashlib.md5(content, usedforsecurity=False).hexdigest():
            done["objects_unchanged"] += 1
        else:
            store.put(key, content)
            done["objects_stored"] += 1
            done["bytes_stored"] += len(content)
    return done


def write_sessions(connection: Connection, sessions: Sequence[NewSession], bucket: str) -> int:
    """Write the rows of `sessions`, whose objects are in `bucket` already.

    Rows that are there stay: a session keeps its approval, which may be a person's decision.

    Returns:
        The number of sessions that were not there yet.

    Raises:
        ConflictError: A name is in the catalogue at another place.
    """
    new_sources = {session.source.name: session.source for session in sessions}
    # The backend gives other ids than we do, and its names need not be unique: ask first.
    known = {name for name, *_ in named_places(connection, "known_sources", [*new_sources])}
    _insert(
        connection,
        "known_sources",
        [_source_row(source) for name, source in new_sources.items() if name not in known],
    )
    new_stations = {
        item.station.name: item.station for session in sessions for item in session.measurements
    }
    _insert(
        connection, "websdr_stations", [_station_row(station) for station in new_stations.values()]
    )
    sources, stations = (
        {name: identity for name, identity, *_ in named_places(connection, table, [*names])}
        for table, names in (("known_sources", new_sources), ("websdr_stations", new_stations))
    )
    # After writing: another ingestion may have been first with a name.
    check_places(connection, sessions)
    n_added = _insert(
        connection,
        "recording_sessions",
        [_session_row(session, sources[session.source.name]) for session in sessions],
    )
    rows = [
        _measurement_row(session, recording, stations[recording.station.name], bucket)
        for session in sessions
        for recording in session.measurements
    ]
    if "recording_session_id" not in columns_present(connection)["measurements"]:
        for row in rows:
            del row["recording_session_id"]
    _insert(connection, "measurements", rows)
    return n_added


def _insert(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows that are not there yet, and count them. Their keys name the columns.

    The order is always the same: of two ingestions that share some rows, one waits for the
    other, and never both.
    """
    if not rows:
        return 0
    rows = sorted(rows, key=itemgetter("id"))
    names = list(rows[0])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier("heimdall", table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Placeholder, names)),
    )
    cursor = connection.cursor()
    cursor.executemany(statement, rows)
    return cursor.rowcount


def _source_row(source: NewSource) -> dict[str, Any]:
    return {
        "id": source_id(source),
        "name": source.name,
        "frequency_hz": _rounded(source.frequency_hz),
        "latitude": source.latitude_deg,
        "longitude": source.longitude_deg,
        "power_dbm": source.power_dbm,
        "source_type": source.source_type,
        "is_validated": source.is_validated,
        "error_margin_meters": source.error_margin_m,
    }


def _station_row(station: Station) -> dict[str, Any]:
    return {
        "id": station_id(station.name),
        "name": station.name,
        "latitude": station.latitude_deg,
        "longitude": station.longitude_deg,
        "altitude_asl": _rounded(station.altitude_m),
        "is_active": True,
    }


def _session_row(session: NewSession, source: uuid.UUID) -> dict[str, Any]:
    identity = session_id(session)
    duration_s = session.duration_s or max(
        (item.n_samples / item.sample_rate_hz for item in session.measurements), default=None
    )
    return {
        "id": identity,
        "known_source_id": source,
        "session_name": session.name,
        "session_start": session.start,
        "session_end": session.start + timedelta(seconds=duration_s) if duration_s else None,
        "duration_seconds": duration_s,
        "celery_task_id": str(identity),
        "status": session.status,
        "approval_status": session.approval_status,
    }


def _measurement_row(
    session: NewSession, recording: NewRecording, station: uuid.UUID, bucket: str
) -> dict[str, Any]:
    identity = session_id(session)
    return {
        "id": measurement_id(identity, recording.station.name),
        "timestamp": recording.start or session.start,
        "websdr_station_id": station,
        "recording_session_id": identity,
        "frequency_hz": _rounded(recording.frequency_hz),
        "signal_strength_db": recording.signal_strength_db,
        "snr_db": recording.snr_db,
        "frequency_offset_hz": _rounded(recording.frequency_offset_hz),
        "iq_data_location": f"s3://{bucket}/{object_key(identity, recording)}",
        "iq_data_format": recording.format,
        "iq_sample_rate": _rounded(recording.sample_rate_hz),
        "iq_samples_count": recording.n_samples,
        "duration_seconds": recording.n_samples / recording.sample_rate_hz,
    }


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
