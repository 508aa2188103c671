"""The features of many sessions, computed ahead of time, with a progress bar.

Threads and not processes: the transforms and the network release the interpreter's lock, and
on 2 cores 200 sessions of 3 receivers took 1.7 s in threads and 3.5 s in spawned processes,
which import everything again. Nor need a caller's script guard its `__main__`.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from heimdall_data.session_features import FeatureSource
    from heimdall_data.sessions import Session

__all__ = ["Prepared", "prepare_sessions", "reasons"]

THREADS_PER_WORKER = 2
"""While one waits for the store, the other computes."""
AHEAD_PER_THREAD = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of a session."""

    session_id: str
    key: str | None
    """Of its features in the cache; None if there is no cache."""
    reason: str | None
    """Why the session cannot be used; None if it can."""
    unusable: dict[str, str]
    """By receiver, why its recording is left out."""
    computed: bool
    """And not found in the cache."""


def prepare_sessions(
    source: FeatureSource, sessions: Sequence[Session], *, workers: int | None, progress: bool
) -> list[Prepared]:
    """Fill the cache with the features of all sessions; what came of each, in their order.

    Raises:
        StoreError: The store cannot be reached, refuses us or lacks the bucket.
    """
    if source.cache is not None:
        source.cache.remove_abandoned()

    def prepare(session: Session) -> Prepared:
        key = None if source.cache is None else source.key(session)
        found = source.features(session, key)
        reason = None
        if not found.present.any():
            reason = reasons(found.unusable) or _absent(session, source.config.receivers)
        return Prepared(session.id, key, reason, found.unusable, found.computed)

    n_threads = THREADS_PER_WORKER * (workers or os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="prepare") as pool:
        results = _in_order(pool, prepare, sessions, ahead=AHEAD_PER_THREAD * n_threads)
        try:
            return list(
                tqdm(results, "features", len(sessions), unit="session", disable=not progress)
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(
    pool: ThreadPoolExecutor,
    prepare: Callable[[Session], Prepared],
    sessions: Iterable[Session],
    *,
    ahead: int,
) -> Iterator[Prepared]:
    """What came of each session; of a million, only some `ahead` are in memory at once."""
    waiting: deque[Future[Prepared]] = deque()
    for session in sessions:
        waiting.append(pool.submit(prepare, session))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def reasons(unusable: Mapping[str, str]) -> str:
    """In one line, why recordings of a session are left out."""
    return "; ".join(f"{station}: {reason}" for station, reason in unusable.items())


def _absent(session: Session, receivers: Iterable[str]) -> str:
    stations = ", ".join(m.station for m in session.measurements) or "no station"
    return f"none of the receivers {', '.join(receivers)} is in it ({stations})"
