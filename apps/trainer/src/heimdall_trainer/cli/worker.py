"""`heimdall worker`: train what a job queue asks for, one task at a time."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from cyclopts.validators import Number

from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import TrainerError, UsageError, without_passwords

NOWHERE = Connections()


def worker(
    *,
    broker_url: Annotated[str | None, Parameter(env_var="CELERY_BROKER_URL")] = None,
    result_backend: Annotated[str | None, Parameter(env_var="CELERY_RESULT_BACKEND")] = None,
    queue: str = "heimdall",
    name: str = "heimdall",
    lease: Annotated[float, Parameter(validator=Number(gte=1, lte=86_400))] = 120.0,
    allow: Annotated[
        tuple[Path, ...],
        Parameter(env_var="HEIMDALL_WORKER_ALLOW", consume_multiple=True, negative=""),
    ] = (),
    job: Annotated[Path | None, Parameter(show=False)] = None,
    connections: Connections = NOWHERE,
) -> None:
    """Train and export for a job queue: tasks heimdall.train and heimdall.export of Celery.

    One task at a time, and one training at a time on each device of the machine. SIGTERM hands a
    running task back to the queue, with a checkpoint that it goes on from.

    Parameters
    ----------
    broker_url
        Address of the tasks' queue, such as redis://… or amqp://… .
    result_backend
        Address for results; when unset the broker, if it is Redis, else only the sender gets them.
    queue
        Name of the queue.
    name
        Name of this worker, before @ and the machine's name; each on a machine needs its own.
    lease
        Seconds after which Redis gives the task of a silent worker to another one.
    allow
        Folders that tasks may read and write, such as a shared disk for checkpoints. Without it a
        task writes into its own folder alone, and reads those of other tasks.
    """
    if job is not None:
        from heimdall_trainer.worker.training_process import run_job

        run_job(job, connections, _train)
        return
    if not broker_url:
        raise TrainerError(
            "no broker is configured (CELERY_BROKER_URL): set it to the address of the queue, such "
            "as redis://localhost:6379/0 or amqp://localhost"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise UsageError(f"--name is {name!r}; it must be letters, digits, dots, - and _")
    if find_spec("celery") is None:
        raise TrainerError(
            "the worker needs Celery, which is not installed: install heimdall-trainer[worker]"
        )
    from celery.exceptions import ImproperlyConfigured

    from heimdall_trainer.worker.service import TrainingService

    _check_addresses(broker_url, result_backend)
    check_connections(connections)
    service = TrainingService(
        broker_url=broker_url,
        result_backend=result_backend,
        state_directory=connections.state_directory(),
        command=(sys.executable, "-m", "heimdall_trainer", "worker", "--job"),
        environment=os.environ | connections.environment(),
        queue=queue,
        lease_s=lease,
        allowed=allow,
    )
    try:
        _ = service.backend
    except (ValueError, ImportError, NameError, ImproperlyConfigured) as error:
        raise TrainerError(
            f"Celery cannot keep results there ({without_passwords(str(error))}): correct "
            "CELERY_RESULT_BACKEND, or CELERY_BROKER_URL where it is not set"
        ) from None
    service.serve(name)


def _train(config: TrainingConfig, connections: Connections) -> None:
    """Run `heimdall train`, from an earlier run's checkpoint if there is one."""
    from heimdall_models.training.checkpoint_files import checkpoints_in

    from heimdall_trainer.cli.train import train

    folder = config.checkpoint_dir
    if folder is not None and not config.export_only:
        members = config.ensemble > 1
        if any(folder.glob("member-*/*.ckpt")) if members else checkpoints_in(folder):
            config = replace(config, checkpoint=(), resume_training=True)
    train(config=config, connections=connections)


def _check_addresses(broker_url: str, result_backend: str | None) -> None:
    """Refuse an invalid address without repeating it: it may hold a password."""
    from celery.app.backends import by_url
    from celery.exceptions import ImproperlyConfigured
    from heimdall_features.addresses import ESCAPE, is_ambiguous
    from kombu.transport import resolve_transport

    addresses = [("CELERY_BROKER_URL", each) for each in broker_url.split(";")]
    if result_backend:
        addresses.append(("CELERY_RESULT_BACKEND", result_backend))
    for variable, address in addresses:
        parts = address.split(";")
        if any(is_ambiguous(part) if "://" in part else "@" in part for part in parts):
            raise TrainerError(f"{variable} cannot be taken apart: {ESCAPE}")
        try:
            if variable == "CELERY_BROKER_URL":
                resolve_transport(address.partition("://")[0].partition("+")[0])
            else:
                by_url(address)
            if "," not in address:  # The library checks lists of hosts.
                _ = urlsplit(address).port
        except (ValueError, KeyError, ImportError, NameError, ImproperlyConfigured):
            raise TrainerError(
                f"{variable} is not an address that Celery can use here: write it as "
                "redis://host:6379/0, or install the library that its scheme needs"
            ) from None
