"""Storing recordings in the object store and the catalogue, so that a failure shows nothing.

A session is checked before any of it is written; its objects are stored before its rows, and
the rows of a batch are one transaction. Until that ends the catalogue has nothing of the
batch, and doing it all again finds the same ids and keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_data.catalogue.queries import check_columns, columns_present
from heimdall_data.errors import BucketUnusable, ObjectUnreadable
from heimdall_data.ingest.conflicts import (
    check_places,
    check_recordings,
    find_twins,
    known_sessions,
    refuse_twins,
)
from heimdall_data.ingest.manifest import Manifest
from heimdall_data.ingest.new_session import check_session, session_id
from heimdall_data.ingest.writing import size_of, store_objects, write_sessions
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import psycopg

    from heimdall_data.catalogue.catalogue import Catalogue
    from heimdall_data.ingest.conflicts import Twin
    from heimdall_data.ingest.new_session import NewSession

    Connection = psycopg.Connection[tuple[Any, ...]]

__all__ = ["IngestReport", "Progress", "ingest", "look_ahead"]

Progress = Callable[[int], object]
"""Called with the number of sessions that were just finished."""

# A batch ends at whichever comes first; two are in memory at a time.
_BATCH_SESSIONS = 32
_BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """Counts of an ingestion."""

    sessions_added: int = 0
    sessions_known: int = 0
    """Sessions that the catalogue had already."""
    objects_stored: int = 0
    objects_unchanged: int = 0
    """Objects that were there with the same content, and were not sent again."""
    bytes_stored: int = 0


def ingest(
    catalogue: Catalogue,
    store: ObjectStore,
    sessions: Iterable[NewSession],
    *,
    workers: int = 8,
    progress: bool | Progress = True,
    total: int | None = None,
) -> IngestReport:
    """Store every session of `sessions`, which is read as it goes and never held whole.

    Ingesting a session again changes nothing, except that an object that is missing or differs
    is stored again.

    Args:
        catalogue: Gets the rows; its tables are made where there are none.
        store: Gets the objects; the bucket must exist.
        sessions: A sequence or a `Manifest` is checked whole before the first is written, and
            compared with the catalogue; so are a manifest's recordings with the stored ones.
        workers: Number of sessions that are stored at the same time.
        progress: True for a bar on standard error, or a function to call instead.
        total: Number of sessions, for the bar; known where `sessions` has a length.

    Raises:
        IngestError: A session must not be written as it stands.
        CatalogueError: The database cannot be reached or written.
        StoreError: The object store cannot be reached or written, or lacks the bucket.
    """
    for session in _known_ahead(sessions):
        check_session(session)
    store.require_bucket()
    catalogue.create_schema()
    look_ahead(catalogue, store, sessions)
    if total is None and isinstance(sessions, Sized):
        total = len(sessions)
    with (
        progress_bar("ingest", total, shown=progress is True) as bar,
        ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool,
    ):
        advance = bar if isinstance(progress, bool) else progress
        try:
            return _store_in_batches(catalogue, store, sessions, pool, advance)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def look_ahead(catalogue: Catalogue, store: ObjectStore, sessions: Iterable[NewSession]) -> int:
    """Compare sessions with the stored ones, and write nothing.

    Args:
        catalogue: It may have no tables yet.
        store: Holds the objects that the catalogue names.
        sessions: As for `ingest`; a stream is not compared.

    Returns:
        The number of sessions that the catalogue has.

    Raises:
        ConflictError: A source, station or session is another in the catalogue, or a
            manifest's recording is in another session.
        CatalogueError: The database cannot be reached or read.
        StoreError: The object store cannot be reached.
    """
    ahead = _known_ahead(sessions)

    def compared(connection: Connection) -> tuple[int, list[Twin]]:
        present = columns_present(connection)
        if not any(present.values()):
            return 0, []  # the first ingestion makes the tables
        check_columns(present, catalogue.where)
        check_places(connection, ahead)
        check_recordings(connection, ahead)
        known = known_sessions(connection, [session_id(session) for session in ahead])
        files = sessions.sessions if isinstance(sessions, Manifest) else ()
        return len(known), find_twins(connection, files)

    n_known, suspected = catalogue.read(compared)
    refuse_twins(twin for twin in suspected if _is_stored(twin, store))
    return n_known


def _is_stored(twin: Twin, store: ObjectStore) -> bool:
    try:
        found = ObjectStore(store.settings, twin.bucket or store.bucket).stat(twin.key)
    except (BucketUnusable, ObjectUnreadable):
        return False  # nothing can be read there, so that it is not trained on
    return found is not None and twin.is_of(found.etag, found.size)


def _known_ahead(sessions: Iterable[NewSession]) -> Sequence[NewSession]:
    """The sessions that can be checked before anything is stored; of a stream, none."""
    if isinstance(sessions, Manifest):
        return sessions.outlines
    return sessions if isinstance(sessions, Sequence) else ()


def _store_in_batches(
    catalogue: Catalogue,
    store: ObjectStore,
    sessions: Iterable[NewSession],
    pool: ThreadPoolExecutor,
    advance: Progress,
) -> IngestReport:
    """Store all sessions; while a batch's objects travel, the next is read and checked."""
    counts: Counter[str] = Counter()

    def begin(batch: list[NewSession]) -> list[Future[Counter[str]]]:
        ids = [session_id(session) for session in batch]
        with catalogue.transaction() as connection:
            known = known_sessions(connection, ids)
            check_recordings(connection, [each for each in batch if session_id(each) in known])
        return [
            pool.submit(store_objects, store, session, compare=identity in known)
            for session, identity in zip(batch, ids, strict=True)
        ]

    def finish(batch: list[NewSession], uploads: list[Future[Counter[str]]]) -> None:
        nonlocal counts
        for upload in uploads:
            counts += upload.result()
        with catalogue.transaction() as connection:
            n_added = write_sessions(connection, batch, store.bucket)
        # Another ingestion may have been first with some that were not known before.
        counts["sessions_added"] += n_added
        counts["sessions_known"] += len(batch) - n_added
        advance(len(batch))

    travelling: tuple[list[NewSession], list[Future[Counter[str]]]] | None = None
    for batch in _batches(sessions):
        uploads = begin(batch)
        if travelling is not None:
            finish(*travelling)
        travelling = batch, uploads
    if travelling is not None:
        finish(*travelling)
    return IngestReport(**counts)


def _batches(sessions: Iterable[NewSession]) -> Iterator[list[NewSession]]:
    """Checked sessions, a batch at a time, without repeating one inside a batch."""
    batch: dict[object, NewSession] = {}
    n_bytes = 0
    for session in sessions:
        check_session(session)
        batch[session_id(session)] = session
        n_bytes += size_of(session)
        if len(batch) >= _BATCH_SESSIONS or n_bytes >= _BATCH_BYTES:
            yield list(batch.values())
            batch, n_bytes = {}, 0
    if batch:
        yield list(batch.values())
