"""The features of many sessions, computed ahead of time, with a progress bar.

Threads and not processes: the transforms and the network release the interpreter's lock, and
on 2 cores 200 sessions of 3 receivers took 1.7 s in threads and 3.5 s in spawned processes,
which import everything again. Nor need a caller's script guard its `__main__`.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from heimdall_data.cache.disk import FeatureCache
from heimdall_data.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from heimdall_data.catalogue.session import Session
    from heimdall_data.session_features import FeatureSource

__all__ = ["Engine", "Prepared", "Threads", "in_order", "prepare_sessions", "reasons"]

_Handle = TypeVar("_Handle")
_Result = TypeVar("_Result")
THREADS_PER_WORKER = 2
"""While one waits for the store, the other computes."""
AHEAD_PER_THREAD = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of a session."""

    session_id: str
    key: str | None
    """Of its features in the cache; None if there is none, or they are not for keeping."""
    reason: str | None
    """Why the session cannot be used; None if it can."""
    unusable: dict[str, str]
    """By receiver, why its recording is left out."""
    computed: bool
    """And not found in the cache."""
    n_clocks: int = 0
    """How many receivers have a locked clock."""
    no_arrivals: str = ""
    """Why there are no arrival times, if they were asked for."""


Engine = Callable[["FeatureSource", "Sequence[Session]"], "Generator[Prepared]"]
"""Gives what came of each session, in their order."""


def prepare_sessions(
    source: FeatureSource, sessions: Sequence[Session], engine: Engine, *, progress: bool
) -> list[Prepared]:
    """Fill the cache with the features of all sessions; what came of each, in their order.

    Raises:
        StoreError: The store cannot be reached, refuses us or lacks the bucket.
        EngineError: The engine cannot do it.
    """
    prepared = []
    with (
        contextlib.closing(engine(source, sessions)) as results,
        progress_bar("features", len(sessions), shown=progress) as advance,
    ):
        for result in results:
            prepared.append(result)
            advance(1)
    return prepared


@dataclass(frozen=True, slots=True)
class Threads:
    """Computes in threads of this process."""

    workers: int | None = None
    """On how many cores; None takes all."""

    def __call__(self, source: FeatureSource, sessions: Sequence[Session]) -> Generator[Prepared]:
        """What came of each session, in their order.

        Raises:
            StoreError: The store cannot be reached, refuses us or lacks the bucket.
        """
        if isinstance(source.cache, FeatureCache):
            source.cache.remove_abandoned()
        n_threads = THREADS_PER_WORKER * (self.workers or os.cpu_count() or 1)
        with source.reader.threads(n_threads, "prepare") as pool:
            submitted = (pool.submit(_prepared, source, session) for session in sessions)
            ahead = AHEAD_PER_THREAD * n_threads
            yield from in_order(submitted, Future.result, Future.cancel, ahead)


def in_order(
    submitted: Iterable[_Handle],
    result: Callable[[_Handle], _Result],
    cancel: Callable[[_Handle], object],
    ahead: int,
) -> Generator[_Result]:
    """The result of each; of a million, only some `ahead` are submitted at once.

    An error, and a caller that wants no more, cancels those.
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


def _prepared(source: FeatureSource, session: Session) -> Prepared:
    found = source.features(session)
    reason = None
    if not found.present.any():
        reason = reasons(found.unusable) or _absent(session, source.config.receivers)
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
    """In one line, why recordings of a session are left out."""
    return "; ".join(f"{station}: {reason}" for station, reason in unusable.items())


def _absent(session: Session, receivers: Iterable[str]) -> str:
    stations = ", ".join(m.station for m in session.measurements) or "no station"
    return f"none of the receivers {', '.join(receivers)} is in it ({stations})"
