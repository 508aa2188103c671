"""The process that trains for a task: alone on its device, and not outliving its worker.

It takes the task's lock and the devices' locks before any heavy library is loaded, so that
waiting costs next to nothing. Its standard input is a pipe that the worker holds open: when the
worker dies, however it dies, the pipe closes and the training ends as at SIGTERM, with a
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from heimdall_trainer.errors import is_expected
from heimdall_trainer.worker.devices import claimed_devices, device_locks, visible_gpus
from heimdall_trainer.worker.job_folder import JobFolder, Outcome, Progress
from heimdall_trainer.worker.payload import training_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig

    Train = Callable[[TrainingConfig, Connections, Callable[[Progress], None]], Mapping[str, Any]]

__all__ = ["BUSY", "run_job", "train_and_register"]

BUSY = 75
"""Exit status: another process trains for this task already."""
PATIENCE_S = 2.0
"""For a process of a worker that died to end; if it takes longer, the task comes again later."""


def run_job(path: Path, connections: Connections, train: Train | None = None) -> None:
    """Do what the task of a folder asks for, and leave the outcome in the folder.

    Args:
        path: The task's folder.
        connections: Where everything is.
        train: What trains; `train_and_register` unless given.

    Raises:
        SystemExit: With `BUSY`, or as a signal says.
        ValueError: Whatever the pipeline refuses; it is in the outcome, too.
    """
    folder = JobFolder(path)
    work = train or train_and_register
    if _is_helper():  # One of Lightning's further processes: its first one holds the locks.
        work(_configuration(folder), connections, lambda _: None)
        return
    _end_with_worker()
    with _alone(folder):
        if folder.outcome() is None:
            _do(folder, connections, work)


def _do(folder: JobFolder, connections: Connections, work: Train) -> None:
    try:
        config = _configuration(folder)
        devices = claimed_devices(config, visible_gpus(os.environ))
        with device_locks(connections.state_directory(), devices, _tells_waiting(folder)):
            summary = work(config, connections, folder.report)
    except Exception as error:
        folder.end(Outcome(error=_told(error)))
        raise
    folder.end(Outcome(summary=summary))


def _told(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line if is_expected(error) else f"unexpected {type(error).__name__}: {line}"


def _tells_waiting(folder: JobFolder) -> Callable[[str], None]:
    return lambda device: folder.report(Progress(stage=f"waiting for device {device}"))


@contextlib.contextmanager
def _alone(folder: JobFolder) -> Iterator[None]:
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        raise SystemExit(BUSY) from None
    with lock:
        yield


def _end_with_worker() -> None:
    """End as at SIGTERM when the pipe at standard input closes."""

    def watch() -> None:
        # Not `sys.stdin`, whose lock would be held while the interpreter ends.
        while os.read(0, 64):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end-with-worker").start()


def _is_helper() -> bool:
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _configuration(folder: JobFolder) -> TrainingConfig:
    """The task's configuration, with the checkpoints where the task's next run finds them."""
    job = folder.job()
    config = training_config(job.settings, export=job.export)
    given = config.checkpoint_dir
    own = folder.checkpoints if given is None else given / folder.task_id
    own.mkdir(parents=True, exist_ok=True)
    return replace(config, checkpoint_dir=own)


def _resumed(config: TrainingConfig) -> TrainingConfig:
    """The configuration, going on from a checkpoint of an earlier run of the task, if any."""
    from heimdall_trainer.checkpoint_files import checkpoints_in

    folder = config.checkpoint_dir
    if config.export_only or folder is None:
        return config
    begun = any(folder.glob("member-*/*.ckpt")) if config.ensemble > 1 else checkpoints_in(folder)
    return replace(config, checkpoint=(), resume_training=True) if begun else config


def train_and_register(
    config: TrainingConfig, connections: Connections, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """The pipeline, begun or gone on with; what `heimdall train --summary` would write."""
    from heimdall_trainer.closing import print_closing
    from heimdall_trainer.worker.reported_pipeline import ReportedPipeline

    outcome = ReportedPipeline(_resumed(config), connections, report).run()
    print_closing(outcome)
    return asdict(outcome.summary)
