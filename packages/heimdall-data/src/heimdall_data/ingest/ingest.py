"""Recordings into the object store and the catalogue, so that a failure shows nothing.

A session is checked before any of it is written; its objects are stored before its rows, and
the rows of a batch are one transaction. Until that ends the catalogue knows nothing of the
batch, and doing it all again finds the same ids and keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from heimdall_data.catalogue.queries import check_columns, columns_present
from heimdall_data.errors import BucketUnusable, ObjectUnreadable
from heimdall_data.ingest.checks import check_session
from heimdall_data.ingest.conflicts import (
    check_places,
    check_recordings,
    known_sessions,
    refuse_twins,
    twins,
)
from heimdall_data.ingest.manifest import Manifest
from heimdall_data.ingest.new_session import session_id
from heimdall_data.ingest.writing import size_of, store_objects, write_sessions
from heimdall_data.object_store.store import ObjectStore

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
    """What an ingestion did."""

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

    Ingesting a session again changes nothing, save that an object that is missing or differs
    is stored again.

    Args:
        catalogue: where the rows go; its tables are made where there are none.
        store: where the objects go; the bucket must exist.
        sessions: a sequence or a `Manifest` is checked whole before the first is written, and
            compared with the catalogue; so are a manifest's recordings with what is stored.
        workers: how many sessions are stored at the same time.
        progress: True for a bar on standard error, or what to call instead.
        total: how many sessions there are, for the bar; known where `sessions` has a length.

    Raises:
        IngestError: a session must not be written as it stands.
        CatalogueError: the database cannot be reached or written.
        StoreError: the object store cannot be reached or written, or lacks the bucket.
    """
    for session in _known_ahead(sessions):
        check_session(session)
    store.require_bucket()
    catalogue.create_schema()
    look_ahead(catalogue, store, sessions)
    if total is None and isinstance(sessions, Sized):
        total = len(sessions)
    with (
        tqdm(total=total, unit="session", desc="ingest", disable=progress is not True) as bar,
        ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool,
    ):
        run = _Run(catalogue, store, pool, bar.update if isinstance(progress, bool) else progress)
        try:
            return run.over(sessions)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def look_ahead(catalogue: Catalogue, store: ObjectStore, sessions: Iterable[NewSession]) -> int:
    """Compare sessions with what is stored, and write nothing.

    Args:
        catalogue: it may have no tables yet.
        store: what the catalogue knows is looked at there.
        sessions: as for `ingest`; of a stream nothing is known ahead.

    Returns:
        How many of them the catalogue has.

    Raises:
        ConflictError: a source, station or session is another in the catalogue, or a
            manifest's recording is in another session.
        CatalogueError: the database cannot be reached or read.
        StoreError: the object store cannot be reached.
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
        return len(known), twins(connection, files)

    n_known, suspected = catalogue.read(compared)
    refuse_twins(twin for twin in suspected if _is_stored(twin, store))
    return n_known


def _is_stored(twin: Twin, store: ObjectStore) -> bool:
    try:
        found = ObjectStore(store.settings, twin.bucket or store.bucket).stat(twin.key)
    except (BucketUnusable, ObjectUnreadable):
        return False  # nothing can be read there, and nobody learns from it
    return found is not None and twin.is_of(found.etag, found.size)


def _known_ahead(sessions: Iterable[NewSession]) -> Sequence[NewSession]:
    """What can be checked before anything is stored; of a stream, nothing."""
    if isinstance(sessions, Manifest):
        return sessions.announced
    return sessions if isinstance(sessions, Sequence) else ()


@dataclass(slots=True)
class _Batch:
    """Sessions whose objects are on their way."""

    sessions: list[NewSession]
    uploads: list[Future[Counter[str]]]


@dataclass(slots=True)
class _Run:
    """One call of `ingest`: while a batch's objects travel, the next is read and checked."""

    catalogue: Catalogue
    store: ObjectStore
    pool: ThreadPoolExecutor
    advance: Progress
    counts: Counter[str] = field(default_factory=Counter)

    def over(self, sessions: Iterable[NewSession]) -> IngestReport:
        previous: _Batch | None = None
        for members in _batches(sessions):
            batch = self._begin(members)
            if previous is not None:
                self._finish(previous)
            previous = batch
        if previous is not None:
            self._finish(previous)
        return IngestReport(**self.counts)

    def _begin(self, sessions: list[NewSession]) -> _Batch:
        with self.catalogue.transaction() as connection:
            known = known_sessions(connection, [session_id(session) for session in sessions])
            check_recordings(connection, [each for each in sessions if session_id(each) in known])
        uploads = [
            self.pool.submit(
                store_objects, self.store, session, compare=session_id(session) in known
            )
            for session in sessions
        ]
        return _Batch(sessions, uploads)

    def _finish(self, batch: _Batch) -> None:
        for upload in batch.uploads:
            self.counts += upload.result()
        with self.catalogue.transaction() as connection:
            n_added = write_sessions(connection, batch.sessions, self.store.bucket)
        # Another ingestion may have been first with some that were not known before.
        self.counts["sessions_added"] += n_added
        self.counts["sessions_known"] += len(batch.sessions) - n_added
        self.advance(len(batch.sessions))


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
