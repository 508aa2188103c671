"""Storing recordings in the object store and the catalogue, with nothing visible after a failure.

A session is checked before any of it is written. Its objects are stored before its rows, and the
rows of a batch are one transaction. Repeating an ingestion produces the same ids and keys.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from psycopg import sql

from heimdall_data.catalogue.queries import check_columns, columns_present
from heimdall_data.ingest.conflicts import (
    check_places,
    check_recordings,
    check_twins,
    known_sessions,
    named_places,
)
from heimdall_data.ingest.new_session import (
    check_session,
    measurement_id,
    name_id,
    object_key,
    session_id,
)
from heimdall_data.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from psycopg import Connection

    from heimdall_data.catalogue.catalogue import Catalogue
    from heimdall_data.ingest.new_session import NewSession
    from heimdall_data.object_store.store import ObjectStore

_WORKERS = 8
"""Number of sessions whose objects are stored at the same time."""
# A batch ends at whichever comes first; two are in memory at a time.
_BATCH_SESSIONS = 32
_BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """Counts of an ingestion. Known sessions and unchanged objects were there before."""

    sessions_added: int = 0
    sessions_known: int = 0
    objects_stored: int = 0
    objects_unchanged: int = 0
    bytes_stored: int = 0


def ingest(
    catalogue: Catalogue,
    store: ObjectStore,
    sessions: Iterable[NewSession],
    *,
    progress: bool = True,
    total: int | None = None,
) -> IngestReport:
    """Store every session of `sessions`, with at most two batches in memory.

    Ingesting a session again changes nothing, except that a missing or different object is
    stored again. Missing tables are created; the bucket must exist. A sequence is checked as a
    whole and compared with what is stored before the first session is written; a stream is
    checked in batches, and `total` is its number of sessions, for the bar on standard error.

    Raises:
        IngestError: A session must not be written as it is, or a file changed.
        CatalogueError: The database cannot be reached or written.
        StoreError: The object store cannot be reached or written, or lacks the bucket.
    """
    ahead = sessions if isinstance(sessions, Sequence) else ()
    for session in ahead:
        check_session(session)
    store.require_bucket()
    catalogue.create_schema()
    look_ahead(catalogue, store, ahead)
    with (
        progress_bar("ingest", total or len(ahead) or None, shown=progress) as advance,
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="ingest") as pool,
    ):
        try:
            return _store_in_batches(catalogue, store, sessions, pool, advance)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def look_ahead(catalogue: Catalogue, store: ObjectStore, sessions: Sequence[NewSession]) -> int:
    """Compare sessions with the stored ones, write nothing, and return how many are known.

    Raises:
        ConflictError: A source, station or session differs from the catalogue's, or a file is
            stored in another session.
        CatalogueError: The database cannot be reached or read.
        StoreError: The object store cannot be reached.
    """

    def known(connection: Connection) -> int | None:
        present = columns_present(connection)
        if not any(present.values()):
            return None  # the first ingestion creates the tables
        check_columns(present, catalogue.where)
        check_places(connection, sessions)
        check_recordings(connection, sessions)
        return len(known_sessions(connection, sessions))

    n_known = catalogue.read(known)
    if n_known is not None:
        check_twins(catalogue, store, sessions)
    return n_known or 0


def _store_in_batches(
    catalogue: Catalogue,
    store: ObjectStore,
    sessions: Iterable[NewSession],
    pool: ThreadPoolExecutor,
    advance: Callable[[int], object],
) -> IngestReport:
    """Store all sessions; while a batch's objects are sent, the next is read and checked."""
    counts: Counter[str] = Counter()
    batch: list[NewSession] = []
    uploads: list[Future[Counter[str]]] = []

    def finish() -> None:
        for upload in uploads:
            counts.update(upload.result())
        with catalogue.transaction() as connection:
            n_added = _write_sessions(connection, batch, store.bucket)
        # Another ingestion may have added some that were not known before.
        counts.update(sessions_added=n_added, sessions_known=len(batch) - n_added)
        advance(len(batch))

    for coming in _batches(sessions):
        with catalogue.transaction() as connection:
            known = known_sessions(connection, coming)
            check_recordings(connection, [each for each in coming if session_id(each) in known])
        sent = [
            pool.submit(_store_objects, store, session, compare=session_id(session) in known)
            for session in coming
        ]
        if batch:
            finish()
        batch, uploads = coming, sent
    if batch:
        finish()
    return IngestReport(**counts)


def _batches(sessions: Iterable[NewSession]) -> Iterator[list[NewSession]]:
    """Checked sessions in batches, each session once in a batch."""
    batch: dict[object, NewSession] = {}
    n_bytes = 0
    for session in sessions:
        check_session(session)
        batch[session_id(session)] = session
        n_bytes += sum(len(item.payload or b"") for item in session.measurements)
        if len(batch) >= _BATCH_SESSIONS or n_bytes >= _BATCH_BYTES:
            yield list(batch.values())
            batch, n_bytes = {}, 0
    if batch:
        yield list(batch.values())


def _store_objects(store: ObjectStore, session: NewSession, *, compare: bool) -> Counter[str]:
    """Store the objects, with `compare` only if they changed; count as in `IngestReport`."""
    listed = store.list(f"sessions/{session_id(session)}/") if compare else ()
    there = {found.key: found.etag for found in listed}
    done: Counter[str] = Counter()
    for item in session.measurements:
        key = object_key(session_id(session), item)
        keys = key, key.removesuffix("-data") + "-meta"
        for name, content in zip(keys, item.content(), strict=True):
            if content is None:
                continue
            # The entity tag of an object that was sent in one piece; any other is sent again.
            if there.get(name) == hashlib.md5(content, usedforsecurity=False).hexdigest():
                done["objects_unchanged"] += 1
            else:
                store.put(name, content)
                done.update(objects_stored=1, bytes_stored=len(content))
    return done


def _write_sessions(connection: Connection, sessions: Sequence[NewSession], bucket: str) -> int:
    """Write the rows of sessions with stored objects; return the number of new sessions.

    Existing rows stay: a session keeps its approval, which may be a person's decision.
    """
    sources = {session.source.name: session.source for session in sessions}
    recordings = [(session, item) for session in sessions for item in session.measurements]
    stations = {item.station.name: item.station for _, item in recordings}
    # The backend gives other ids than we do, and its names need not be unique: ask first.
    known_sources, known_stations = (
        {name for name, *_ in named_places(connection, table, [*names])}
        for table, names in (("known_sources", sources), ("websdr_stations", stations))
    )
    new_sources = [
        {
            "id": name_id("source", name),
            "name": name,
            "frequency_hz": _rounded(source.frequency_hz),
            "latitude": source.latitude_deg,
            "longitude": source.longitude_deg,
            "power_dbm": source.power_dbm,
            "source_type": source.source_type,
            "is_validated": source.is_validated,
            "error_margin_meters": source.error_margin_m,
        }
        for name, source in sources.items()
        if name not in known_sources
    ]
    _insert(connection, "known_sources", new_sources)
    new_stations = [
        {
            "id": name_id("station", name),
            "name": name,
            "latitude": station.latitude_deg,
            "longitude": station.longitude_deg,
            "altitude_asl": _rounded(station.altitude_m),
            "is_active": True,
        }
        for name, station in stations.items()
        if name not in known_stations
    ]
    _insert(connection, "websdr_stations", new_stations)
    source_ids, station_ids = (
        {name: identity for name, identity, *_ in named_places(connection, table, [*names])}
        for table, names in (("known_sources", sources), ("websdr_stations", stations))
    )
    # After writing, since another ingestion may have used a name first.
    check_places(connection, sessions)
    rows = []
    for session in sessions:
        lengths_s = [item.n_samples / item.sample_rate_hz for item in session.measurements]
        duration_s = session.duration_s or max(lengths_s, default=None)
        row = {
            "id": session_id(session),
            "known_source_id": source_ids[session.source.name],
            "session_name": session.name,
            "session_start": session.start,
            "session_end": session.start + timedelta(seconds=duration_s) if duration_s else None,
            "duration_seconds": duration_s,
            "celery_task_id": str(session_id(session)),
            "status": session.status,
            "approval_status": session.approval_status,
        }
        rows.append(row)
    n_added = _insert(connection, "recording_sessions", rows)
    measurements = [
        {
            "id": measurement_id(session_id(session), item.station.name),
            "timestamp": item.start or session.start,
            "websdr_station_id": station_ids[item.station.name],
            "recording_session_id": session_id(session),
            "frequency_hz": _rounded(item.frequency_hz),
            "signal_strength_db": item.signal_strength_db,
            "snr_db": item.snr_db,
            "frequency_offset_hz": _rounded(item.frequency_offset_hz),
            "iq_data_location": f"s3://{bucket}/{object_key(session_id(session), item)}",
            "iq_data_format": item.format,
            "iq_sample_rate": _rounded(item.sample_rate_hz),
            "iq_samples_count": item.n_samples,
            "duration_seconds": item.n_samples / item.sample_rate_hz,
        }
        for session, item in recordings
    ]
    if "recording_session_id" not in columns_present(connection)["measurements"]:
        for row in measurements:
            del row["recording_session_id"]
    _insert(connection, "measurements", measurements)
    return n_added


def _insert(connection: Connection, table: str, rows: Sequence[dict[str, Any]]) -> int:
    """Insert the rows that are not there yet, and count them. Their keys name the columns."""
    if not rows:
        return 0
    # Always in the same order, so that two ingestions never wait for each other.
    rows = sorted(rows, key=itemgetter("id"))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier("heimdall", table),
        sql.SQL(", ").join(map(sql.Identifier, rows[0])),
        sql.SQL(", ").join(map(sql.Placeholder, rows[0])),
    )
    cursor = connection.cursor()
    cursor.executemany(statement, rows)
    return cursor.rowcount


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
