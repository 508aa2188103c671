"""Computation of the features of many sessions on a Ray cluster, into the shared cache.

A task does for some sessions what `prepare.Threads` does, on any free node. It uses S3 alone, and
runs again elsewhere if its worker or node is killed, without repeating what was stored. Only this
process reads the catalogue; it keeps a bounded number of tasks in flight.

Needs the extra `heimdall-data[ray]`, here and on every node, in the same versions. Settings go
to the nodes as an object of Ray's, since Ray shows and logs arguments.
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
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Any

from heimdall_data.errors import DataError, EngineError, first_line
from heimdall_data.prepare import Threads, in_order
from heimdall_data.session_features import DECODING_VERSION

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from heimdall_data.catalogue.session import Session
    from heimdall_data.prepare import Prepared
    from heimdall_data.session_features import FeatureSource

MOST_SESSIONS_PER_TASK = 128
"""They fill most of a pack, which a task stores at its end; a killed worker loses seconds' work."""
TASKS_PER_CPU = 4
"""Tasks in flight, so that a cluster that grows has some to start."""
CONNECT_S = 5.0
OBJECT_STORE_BYTES = 100_000_000
"""For Ray started here, through which only results pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """An engine of `prepare` that computes on a Ray cluster."""

    address: str | None = None
    """`host:port` of a cluster, or `auto` for the one on this machine; None starts one here."""
    workers: int | None = None
    """Largest number of tasks at once; None uses the whole cluster."""
    attempts: int = 10
    """Attempts at a task whose worker is killed: a session may kill every worker."""

    def __call__(self, source: FeatureSource, sessions: Sequence[Session]) -> Generator[Prepared]:
        """Yield the result of each session, in their order; features are in the shared cache.

        Raises:
            EngineError: Ray is not installed or not reached, a node has other versions or
                cannot reach the store, or there is no writable shared cache.
        """
        shared = source.shared
        if shared is None or not shared.writes:
            raise EngineError(
                "a Ray cluster needs a shared cache to compute into, and none is given; set "
                "HEIMDALL_CACHE_S3 or --cache_s3 to s3://bucket/prefix"
            )
        refuse_secrets_in_command(shared.s3.access_key, shared.s3.secret_key)
        # Set before Ray is loaded. By default it reports on its users, and under `uv run` it makes
        # the nodes copy a working directory.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise EngineError(
                "--engine ray needs Ray, which is not installed; run "
                "`pip install heimdall-data[ray]` here and on every node"
            ) from error
        without_disk = copy(source)
        without_disk.cache = shared
        with self._connected(ray):
            n_tasks = self.workers or max(int(ray.cluster_resources().get("CPU", 0)), 1)
            ahead = n_tasks - 1 if self.workers else TASKS_PER_CPU * n_tasks
            task = ray.remote(num_cpus=1, max_retries=self.attempts - 1)(prepare_on_node)
            # In a list, as Ray would otherwise fetch and unpack it for each task.
            reference = [ray.put((without_disk, _versions(source)))]
            size = len(sessions) // (TASKS_PER_CPU * n_tasks)
            size = min(max(size, 1), MOST_SESSIONS_PER_TASK)
            remaining = iter(sessions)
            chunks = iter(lambda: list(islice(remaining, size)), [])
            submitted = (task.remote(reference, chunk) for chunk in chunks)
            with closing(in_order(submitted, partial(_result, ray), ray.cancel, ahead)) as results:
                for prepared in results:
                    yield from prepared

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:  # noqa: ANN401 - a module that may be missing
        """Context connected to the cluster; a connection that the caller has is used and kept."""
        if ray.is_initialized():
            yield
            return
        try:
            if self.address is None:
                ray.init(
                    "local",
                    num_cpus=self.workers,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    logging_level=logging.ERROR,  # silences a warning about safe defaults
                )
            else:
                _require_listener(self.address)
                ray.init(self.address, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"no connection to the Ray cluster {self.address or 'on this machine'} "
                f"({first_line(error)}); correct --ray_address"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def prepare_on_node(reference: list[Any], sessions: Sequence[Session]) -> list[Prepared]:
    """Task: compute some sessions; `reference` holds Ray's reference to source and versions."""
    try:
        source, versions = _work(*reference)
        # Features of another version would be stored under this version's keys unnoticed.
        if (found := _versions(source)) != versions:
            raise EngineError(f"it has {', '.join(found)}; install {', '.join(versions)}")
        return list(Threads(1)(source, sessions))
    except DataError as error:
        node = socket.gethostname()
        raise EngineError(f"node {node} of the Ray cluster cannot go on: {error}") from error


@lru_cache(maxsize=1)
def _work(reference: Any) -> tuple[FeatureSource, tuple[str, ...]]:  # noqa: ANN401 - Ray's
    """Source and versions, kept with the connections for all tasks of a worker."""
    import ray

    work: tuple[FeatureSource, tuple[str, ...]] = ray.get(reference)
    return work


def _versions(source: FeatureSource) -> tuple[str, ...]:
    """Versions of all that determines the features."""
    packages = [f"{name} {version(name)}" for name in ("heimdall-data", "heimdall-features")]
    configs = [config for config in (source.config, source.arrivals) if config is not None]
    settings = [f"settings {config.fingerprint:.8}" for config in configs]
    return (*packages, f"decoding {DECODING_VERSION}", *settings)


def _result(ray: Any, task: object) -> list[Prepared]:  # noqa: ANN401 - as above
    try:
        found: list[Prepared] = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, EngineError):
            raise cause from None
        raise EngineError(
            f"the Ray cluster gave up on a task ({type(cause).__name__}: {first_line(cause)}); "
            "see its logs, and that every node has heimdall-data[ray]"
        ) from error
    return found


def _require_listener(address: str) -> None:
    """Check that something listens, as Ray itself would wait for many minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit():
        raise ValueError(
            f"{address!r} is not of the form host:6379; a job runs on a machine of the cluster"
        )
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def refuse_secrets_in_command(*secrets: str) -> None:
    """Check the command line, which Ray shows in its dashboard, for secrets.

    Raises:
        EngineError: One of the secrets is in the command line.
    """
    if any(word == s or word.endswith(f"={s}") for s in secrets for word in sys.orig_argv):
        raise EngineError(
            "the command line has a password or key in it, and Ray shows it in its dashboard; set "
            "HEIMDALL_DATABASE_URL, HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY in the "
            "environment or a .env file instead"
        )
