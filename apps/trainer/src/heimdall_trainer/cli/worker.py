"""`heimdall worker`: trains what a job queue asks for, one task at a time."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from filelock import FileLock, Timeout

from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import TrainerError, UsageError

if TYPE_CHECKING:
    from heimdall_trainer.worker.service import TrainingService

__all__ = ["serve", "worker"]

NOWHERE = Connections()


def worker(
    *,
    broker_url: Annotated[str | None, Parameter(env_var="CELERY_BROKER_URL")] = None,
    result_backend: Annotated[str | None, Parameter(env_var="CELERY_RESULT_BACKEND")] = None,
    queue: str = "heimdall",
    name: str = "heimdall",
    lease: float = 120.0,
    job: Annotated[Path | None, Parameter(show=False)] = None,
    connections: Connections = NOWHERE,
) -> None:
    """Train and export for a job queue: tasks heimdall.train and heimdall.export of Celery.

    One task at a time, and one training at a time on each device of the machine. SIGTERM hands a
    running task back to the queue, with a checkpoint that it goes on from.

    Parameters
    ----------
    broker_url
        Where tasks come from, such as redis://… or amqp://… .
    result_backend
        Where results go; the broker when unset, if it is Redis, else answers to who asked.
    queue
        Name of the queue.
    name
        Of this worker, before @ and the machine's name; each on a machine needs its own.
    lease
        Seconds after which Redis gives the task of a worker that fell silent to another one.
    """
    if job is not None:
        from heimdall_trainer.worker.training_process import run_job

        run_job(job, connections)
        return
    if not broker_url:
        raise TrainerError(
            "no broker is configured (CELERY_BROKER_URL): set it to the address of the queue, such "
            "as redis://localhost:6379/0 or amqp://localhost"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UsageError(f"--name is {name!r}; it must be letters, digits, dots, - and _")
    if not 1 <= lease < float("inf"):
        raise UsageError(f"--lease is {lease}; it must be a number of seconds of at least 1")
    try:
        from heimdall_trainer.worker.attendant import Attendant
        from heimdall_trainer.worker.service import ServiceConfig, TrainingService
    except ModuleNotFoundError as error:
        if error.name not in ("celery", "kombu"):
            raise
        raise TrainerError(
            "the worker needs Celery, which is not installed: install heimdall-trainer[worker]"
        ) from error
    _check_addresses(broker_url, result_backend)
    check_connections(connections)
    is_redis = broker_url.startswith(("redis", "valkey", "sentinel"))
    config = ServiceConfig(
        broker_url=broker_url,
        result_backend=result_backend or (broker_url if is_redis else "rpc://"),
        state_directory=connections.state_directory(),
        queue=queue,
        lease_s=lease,
    )
    command = (sys.executable, "-m", "heimdall_trainer", "worker", "--job")
    attendant = Attendant(command, os.environ | connections.environment())
    serve(TrainingService(config, attendant), name)


def _check_addresses(broker_url: str, result_backend: str | None) -> None:
    """Refuse an invalid address without repeating it: it may hold a password."""
    from celery.app.backends import by_url
    from celery.exceptions import ImproperlyConfigured
    from kombu.transport import resolve_transport

    variable = "CELERY_BROKER_URL"
    try:
        for address in broker_url.split(";"):
            resolve_transport(address.partition("://")[0].partition("+")[0])
            _require_port(address)
        if result_backend:
            variable = "CELERY_RESULT_BACKEND"
            by_url(result_backend)
            _require_port(result_backend)
    except (ValueError, KeyError, ImportError, ImproperlyConfigured):
        raise TrainerError(
            f"{variable} is not an address that Celery can use here: write it as "
            "redis://host:6379/0, or install the library that its scheme needs"
        ) from None


def _require_port(address: str) -> None:
    """Raise ValueError for a port that is no number; lists of hosts are left to the library."""
    if "," not in address:
        _ = urlsplit(address).port


def serve(service: TrainingService, name: str) -> None:
    """Run the worker of a service until it is stopped.

    Raises:
        UsageError: A worker of this name runs on this machine already.
        SystemExit: The worker failed.
    """
    folder = service.service.state_directory / "workers"
    folder.mkdir(exist_ok=True, mode=0o700)
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            worker = service.Worker(
                hostname=f"{name}@{socket.gethostname()}",
                statedb=str(folder / f"{name}.revoked"),
                loglevel="INFO",
                task_events=True,
                no_color=True,
            )
            worker.start()
            if worker.exitcode:
                raise SystemExit(worker.exitcode)
    except Timeout:
        raise UsageError(
            f"a worker called {name!r} runs on this machine already; give this one another --name"
        ) from None
