"""Features of many sessions, computed on a Ray cluster into the shared cache.

The work is that of `prepare.Threads`, in tasks of some sessions. A task goes to whichever node
is free, reads recordings and writes entries over S3 alone, and runs again elsewhere when its
worker or its node is killed; what it had stored is found. This process alone reads the
catalogue, and keeps a bounded number of tasks in flight.

Needs the extra `heimdall-data[ray]`, here and on every node, in the same versions. Settings go
to the nodes as an object and not as words: Ray shows and logs words.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from heimdall_data.cache.disk import FeatureCache
from heimdall_data.errors import DataError, EngineError
from heimdall_data.prepare import Threads, in_order
from heimdall_data.session_features import DECODING_VERSION

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.catalogue.session import Session
    from heimdall_data.prepare import Prepared
    from heimdall_data.session_features import FeatureSource

__all__ = ["RayEngine", "refuse_secrets_in_command"]

MOST_SESSIONS_PER_TASK = 16
"""A second's work or so: little is lost with a worker, and Ray's own milliseconds are few."""
TASKS_PER_CPU = 4
"""In flight: the cluster always has some to begin, and may double meanwhile."""
ATTEMPTS = 10
"""Of a task: a session that kills each worker must not go round for ever."""
CONNECT_S = 5.0
OBJECT_STORE_BYTES = 100_000_000
"""Of the Ray that is started here; what passes through it is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """Computes on a Ray cluster; see `prepare.Engine`."""

    address: str | None = None
    """`host:port` of a cluster, or `auto` for the one on this machine; None starts one here."""
    workers: int | None = None
    """Most tasks at once; None takes what the cluster has."""

    def __call__(self, source: FeatureSource, sessions: Sequence[Session]) -> Generator[Prepared]:
        """What came of each session, in their order; its features are in the shared cache.

        Raises:
            EngineError: Ray is not installed or not reached, a node lacks what it needs or
                cannot reach the store, or there is no shared cache that is written to.
        """
        shared = _shared(source)
        refuse_secrets_in_command(shared.s3.access_key, shared.s3.secret_key)
        ray = _ray()
        without_disk = copy(source)
        without_disk.cache = shared
        with self._connected(ray):
            n_tasks = self.workers or max(int(ray.cluster_resources().get("CPU", 0)), 1)
            ahead = n_tasks - 1 if self.workers else TASKS_PER_CPU * n_tasks
            task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(prepare_on_node)
            # In a list, as Ray would else fetch and unpack it anew for each task.
            there = [ray.put(_Work(without_disk, _versions(source)))]
            chunks = _chunks(sessions, len(sessions) // (TASKS_PER_CPU * n_tasks))
            submitted = (task.remote(there, chunk) for chunk in chunks)
            with closing(in_order(submitted, partial(_result, ray), ray.cancel, ahead)) as results:
                for prepared in results:
                    yield from prepared

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:  # noqa: ANN401 - a module that may be missing
        """A connection of ours ends, and its tasks with it; that of our caller stays."""
        if ray.is_initialized():
            yield
            return
        try:
            self._connect(ray)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"no connection to the Ray cluster {self.address or 'on this machine'} "
                f"({_first_line(error)}); correct --ray_address"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:  # noqa: ANN401 - as above
        if self.address is None:
            ray.init(
                "local",
                num_cpus=self.workers,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.ERROR,  # it warns that it has made itself safe
            )
            return
        _require_listener(self.address)
        ray.init(self.address, logging_level=logging.WARNING)


@dataclass(frozen=True)
class _Work:
    """What every task is told."""

    source: FeatureSource
    versions: tuple[str, ...]


@dataclass(frozen=True)
class _Refusal:
    """Why a node cannot do its part."""

    node: str
    reason: str


def prepare_on_node(there: list[Any], sessions: Sequence[Session]) -> list[Prepared] | _Refusal:
    """The task: what came of some sessions, by the work whose reference is `there`."""
    try:
        work = _work(*there)
        _refuse_other_versions(work)
        return list(Threads(1)(work.source, sessions))
    except DataError as error:
        return _Refusal(socket.gethostname(), str(error))


@lru_cache(maxsize=1)
def _work(reference: Any) -> _Work:  # noqa: ANN401 - Ray's
    """One for all tasks of a worker, with its connections."""
    import ray

    work: _Work = ray.get(reference)
    return work


def _versions(source: FeatureSource) -> tuple[str, ...]:
    """Of what decides the features."""
    packages = [f"{name} {version(name)}" for name in ("heimdall-data", "heimdall-features")]
    configs = [config for config in (source.config, source.arrivals) if config is not None]
    settings = [f"settings {config.fingerprint:.8}" for config in configs]
    return (*packages, f"decoding {DECODING_VERSION}", *settings)


def _refuse_other_versions(work: _Work) -> None:
    """Another version's features under this one's keys would be no fault that anyone notices."""
    if (found := _versions(work.source)) != work.versions:
        raise EngineError(f"it has {', '.join(found)}; install {', '.join(work.versions)}")


def _result(ray: Any, task: object) -> list[Prepared]:  # noqa: ANN401 - as above
    try:
        found: list[Prepared] | _Refusal = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise EngineError(
            f"the Ray cluster gave up on a task ({type(cause).__name__}: {_first_line(cause)}); "
            "see its logs, and that every node has heimdall-data[ray]"
        ) from error
    if isinstance(found, _Refusal):
        raise EngineError(f"node {found.node} of the Ray cluster cannot go on: {found.reason}")
    return found


def _chunks(sessions: Sequence[Session], n_wanted: int) -> Iterator[list[Session]]:
    remaining = iter(sessions)
    size = min(max(n_wanted, 1), MOST_SESSIONS_PER_TASK)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _shared(source: FeatureSource) -> SharedCache:
    cache = source.cache
    shared = cache.shared if isinstance(cache, FeatureCache) else cache
    if shared is None or not shared.writes:
        raise EngineError(
            "a Ray cluster computes into a bucket that all trainers read, and none is given; set "
            "HEIMDALL_CACHE_S3 or --cache_s3 to s3://bucket/prefix"
        )
    return shared


def _ray() -> Any:  # noqa: ANN401 - a module that may be missing
    # Both before Ray is loaded. It reports on its users unless told not to, and makes the nodes
    # copy a working directory where `uv run` started us.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "--engine ray needs Ray, which is not installed; run "
            "`pip install heimdall-data[ray]` here and on every node"
        ) from error
    return ray


def _require_listener(address: str) -> None:
    """Ray itself waits for many minutes where nobody listens."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit():
        raise ValueError(
            f"{address!r} is not of the form host:6379; a job runs on a machine of the cluster"
        )
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def refuse_secrets_in_command(*secrets: str) -> None:
    """Refuse to become a driver of Ray, which shows its command line in its dashboard.

    Raises:
        EngineError: One of the secrets is in the command line.
    """
    if any(word == s or word.endswith(f"={s}") for s in secrets for word in sys.orig_argv):
        raise EngineError(
            "Ray shows the command line in its dashboard, and there is a password or key in it; "
            "set HEIMDALL_DATABASE_URL, HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY in the "
            "environment or a .env file instead"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
