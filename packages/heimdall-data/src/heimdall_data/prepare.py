"""Computation of the features of many sessions ahead of time, in threads.

Threads are faster than processes: the transforms and the network release the interpreter's
lock. On 2 cores 200 sessions of 3 receivers took 1.7 s in threads and 3.5 s in spawned
processes, which import everything again and need a guarded `__main__`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from heimdall_data.cache.disk import FeatureCache

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from heimdall_data.catalogue.session import Session
    from heimdall_data.session_features import FeatureSource
    from heimdall_data.session_reader import Listed

_Handle = TypeVar("_Handle")
_Result = TypeVar("_Result")
THREADS_PER_WORKER = 2
"""While one waits for the store, the other computes."""
SESSIONS_AHEAD_PER_THREAD = 16
SESSIONS_PER_LISTING = 10_000
"""Their objects' versions take some MB."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Result for one session."""

    session_id: str
    key: str | None
    """Cache key of its features; None if they are not cached."""
    reason: str | None
    """Reason why the session cannot be used; None if it can."""
    unusable: dict[str, str]
    """Reason by receiver whose recording is left out."""
    computed: bool
    """True if computed now, false if found in the cache."""
    n_clocks: int
    """Number of receivers with a locked clock."""
    no_arrivals: str
    """Reason if arrival times were asked for and there are none, or some that are impossible."""


Engine = Callable[["FeatureSource", "Sequence[Session]"], "Generator[Prepared]"]
"""Computes the features of sessions and yields their results in order."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Engine that computes in threads of this process."""

    workers: int | None = None
    """Number of cores to use; None takes all."""

    def __call__(self, source: FeatureSource, sessions: Sequence[Session]) -> Generator[Prepared]:
        """Yield the result of each session, in their order; errors as of `FeatureSource`."""
        if isinstance(source.cache, FeatureCache):
            source.cache.remove_abandoned()
        n_threads = THREADS_PER_WORKER * (self.workers or os.cpu_count() or 1)
        with (
            nullcontext() if source.shared is None else source.shared.gathering(),
            source.reader.threads(n_threads, "prepare") as pool,
        ):
            remaining = iter(sessions)
            parts = iter(lambda: list(islice(remaining, SESSIONS_PER_LISTING)), [])

            def submit(session: Session, listed: Listed) -> Future[Prepared]:
                key = source.listed_key(session, listed)
                if not source.is_packed(key):
                    return pool.submit(_prepare, source, session, listed, key)
                # Read here, as threads would wait for the interpreter's lock more than read.
                done: Future[Prepared] = Future()
                done.set_result(_prepare(source, session, listed, key))
                return done

            submitted = (
                submit(session, listed)
                for part in parts
                for listed in [source.fetch_and_list(part)]
                for session in part
            )
            ahead = SESSIONS_AHEAD_PER_THREAD * n_threads
            yield from in_order(submitted, Future.result, Future.cancel, ahead)


def in_order(
    submitted: Iterable[_Handle],
    result: Callable[[_Handle], _Result],
    cancel: Callable[[_Handle], object],
    ahead: int,
) -> Generator[_Result]:
    """Yield the result of each handle in order, with at most `ahead` more submitted.

    After an error, or if the caller stops early, those that were submitted are cancelled.
    """
    waiting: deque[_Handle] = deque()
    try:
        for handle in submitted:
            waiting.append(handle)
            if len(waiting) > ahead:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        for handle in waiting:
            cancel(handle)


def _prepare(source: FeatureSource, session: Session, listed: Listed, key: str | None) -> Prepared:
    found = source.features(session, key, listed)
    reason = None
    if not found.present.any():
        stations = ", ".join(m.station for m in session.measurements) or "no station"
        wanted = ", ".join(source.config.receivers)
        reason = reasons(found.unusable) or f"it has no recording of {wanted} (it has {stations})"
    return Prepared(
        session_id=session.id,
        key=found.key,
        reason=reason,
        unusable=found.unusable,
        computed=found.computed,
        n_clocks=int(found.clock_locked.sum()),
        no_arrivals=found.no_arrivals,
    )


def reasons(unusable: Mapping[str, str]) -> str:
    """Join the reasons why recordings of a session are left out."""
    return "; ".join(f"{station}: {reason}" for station, reason in unusable.items())
