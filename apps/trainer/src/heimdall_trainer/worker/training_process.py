"""The process that trains for a task: alone on its devices, and not outliving its worker.

Its standard input is a pipe that the worker holds open: when the worker dies, however it dies, the
pipe closes and the training ends as at SIGTERM, with a checkpoint.

A GPU is named by its serial name, so that `CUDA_VISIBLE_DEVICES=1` of one worker and `GPU-…` of
another are the same device. Locks are the operating system's, which frees them however their
holder ends, `kill -9` included.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from heimdall_trainer.errors import describe
from heimdall_trainer.worker.job_folder import BUSY, JobFolder, Outcome, Progress
from heimdall_trainer.worker.payload import training_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

    Report = Callable[[Progress], None]
    Train = Callable[[TrainingConfig, Connections, Report], Mapping[str, Any]]

__all__ = ["claimed_devices", "device_locks", "run_job", "train_and_register", "visible_gpus"]

LOGGERS = ("heimdall_trainer.run", "heimdall_models")
"""Loggers of the events of a run."""
PATIENCE_S = 2.0
"""For a process of a worker that died to end; if it takes longer, the task comes again later."""


def run_job(path: Path, connections: Connections, train: Train | None = None) -> None:
    """Carry out the order in a task's folder, and write the outcome into the folder.

    Args:
        path: The task's folder.
        connections: Addresses of all servers.
        train: Trains; `train_and_register` unless given.

    Raises:
        SystemExit: With `BUSY`, or for a signal.
        ValueError: An error of the pipeline; it is in the outcome, too.
    """
    folder = JobFolder(path)
    train = train or train_and_register
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # A further process of Lightning's, whose first one holds the locks.
        train(_configuration(folder), connections, lambda _: None)
        return
    threading.Thread(target=_end_with_worker, daemon=True, name="end-with-worker").start()
    try:
        lock = FileLock(folder.lock).acquire(timeout=PATIENCE_S)
    except Timeout:
        raise SystemExit(BUSY) from None
    with lock:
        if folder.outcome() is not None:
            return
        try:
            config = _configuration(folder)
            devices = claimed_devices(config, visible_gpus(os.environ))
            with device_locks(
                connections.state_directory(),
                devices,
                lambda device: folder.report(Progress(stage=f"waiting for device {device}")),
            ):
                summary = train(config, connections, folder.report)
        except Exception as error:
            folder.end(Outcome(error=describe(error)))
            raise
        folder.end(Outcome(summary=summary))


def _end_with_worker() -> None:
    """End as at SIGTERM when the pipe at standard input closes."""
    # Not `sys.stdin`, whose lock would be held while the interpreter ends.
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _configuration(folder: JobFolder) -> TrainingConfig:
    """The task's configuration, with checkpoints where its next run finds them."""
    job = folder.job()
    config = training_config(job.settings, export=job.export)
    given = config.checkpoint_dir
    own = folder.checkpoints if given is None else given / folder.task_id
    own.mkdir(parents=True, exist_ok=True)
    return replace(config, checkpoint_dir=own)


def train_and_register(
    config: TrainingConfig, connections: Connections, report: Report
) -> dict[str, Any]:
    """Run the pipeline, from an earlier run's checkpoint if there is one.

    Returns:
        The contents of `heimdall train --summary`.
    """
    from heimdall_models.training.checkpoint_files import checkpoints_in

    from heimdall_trainer.console import print_closing
    from heimdall_trainer.pipeline import TrainingPipeline

    folder = config.checkpoint_dir
    if folder is not None and not config.export_only:
        members = config.ensemble > 1
        if any(folder.glob("member-*/*.ckpt")) if members else checkpoints_in(folder):
            config = replace(config, checkpoint=(), resume_training=True)
    handler = _ProgressHandler(report)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        outcome = TrainingPipeline(config, connections).run()
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    print_closing(outcome)
    return asdict(outcome.summary)


class _ProgressHandler(logging.Handler):
    """Reports of progress, made of the events of a run."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._progress = Progress(stage="checking")

    def emit(self, record: logging.LogRecord) -> None:
        event, figures = getattr(record, "event", ""), getattr(record, "figures", {})
        more: dict[str, Any] = {}
        if event == "stage" and figures["state"] == "begun":
            more = {"stage": figures["stage"]}
        elif event == "run":
            more = {"run_id": figures["run_id"]}
        elif event == "epoch" and "seconds_left" in figures:
            metrics = {
                name: value
                for name, value in figures.items()
                if "/" in name and math.isfinite(value)
            }
            more = {name: figures[name] for name in ("epoch", "epochs")}
            more |= {"seconds_left": round(figures["seconds_left"], 1), "metrics": metrics}
        if more:
            self._progress = replace(self._progress, **more)
            self._report(self._progress)


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Serial names of the machine's NVIDIA GPUs that a process with this environment sees."""
    program = shutil.which("nvidia-smi")
    installed: tuple[str, ...] = ()
    if program is not None:
        query = (program, "--query-gpu=uuid", "--format=csv,noheader")
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        installed = tuple(answer.stdout.split()) if answer.returncode == 0 else ()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return installed
    found: list[str] = []
    for word in filter(None, map(str.strip, chosen.split(","))):
        if word.isdecimal():
            found += installed[int(word) : int(word) + 1]
        elif not word.startswith("-"):
            found.append(next((name for name in installed if name.startswith(word)), word))
    return tuple(found)


def claimed_devices(config: TrainingConfig, gpus: Sequence[str]) -> tuple[str, ...]:
    """Names of all devices that Lightning takes for a configuration, sorted.

    Args:
        config: Its `accelerator` and `devices`.
        gpus: Those that the training process sees, in order.
    """
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not gpus):
        return ("cpu",)
    if config.accelerator not in ("auto", "gpu", "cuda"):
        return (config.accelerator,)
    chosen = [int(number) for number in re.findall(r"-?\d+", config.devices)]
    if not chosen or chosen == [-1]:
        return tuple(sorted(gpus))
    if "," not in config.devices:
        return tuple(sorted(gpus[: chosen[0]]))
    return tuple(sorted({gpus[n] for n in chosen if 0 <= n < len(gpus)}))


@contextlib.contextmanager
def device_locks(
    state_directory: Path, devices: Sequence[str], waiting: Callable[[str], None]
) -> Iterator[None]:
    """Hold devices, each once on this machine and state directory.

    Args:
        state_directory: Its folder `locks` has the locks.
        devices: Their names, in one order everywhere, so that there is no deadlock.
        waiting: Called with a device that another training holds, before waiting for it.

    Raises:
        OSError: A lock cannot be made.
    """
    folder = state_directory / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as held:
        for device in devices:
            lock = FileLock(folder / f"device-{re.sub(r'[^A-Za-z0-9.-]', '_', device)}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting(device)
                lock.acquire()
            held.callback(lock.release)
        yield
