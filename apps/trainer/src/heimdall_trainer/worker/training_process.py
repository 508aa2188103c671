"""The process that trains for a task: alone on its device, and not outliving its worker.

It takes the task's lock and the devices' locks before any heavy library is loaded, so that
waiting costs next to nothing. Its standard input is a pipe that the worker holds open: when the
worker dies, however it dies, the pipe closes and the training ends as at SIGTERM, with a
checkpoint.

Which devices a training takes, and that no other training has them.

A GPU goes by its serial name, so that `CUDA_VISIBLE_DEVICES=1` of one worker and `GPU-…` of
another are the same device. Locks are the operating system's, which frees them however their
holder ends, `kill -9` included.

The pipeline of `heimdall train`, saying how far it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Checkpoint

from heimdall_trainer.errors import is_expected
from heimdall_trainer.pipeline import TrainingPipeline
from heimdall_trainer.worker.job_folder import JobFolder, Outcome, Progress
from heimdall_trainer.worker.payload import training_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import lightning.pytorch as pl
    from heimdall_models.training.parts import RunMetrics

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

__all__ = [
    "BUSY",
    "ReportedPipeline",
    "claimed_devices",
    "device_locks",
    "run_job",
    "train_and_register",
    "visible_gpus",
]


CPU = ("cpu",)


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Serial names of the machine's NVIDIA GPUs that a process with this environment sees."""
    every = _installed_gpus()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return every
    found = (_gpu(word.strip(), every) for word in chosen.split(",") if word.strip())
    return tuple(name for name in found if name)


def _installed_gpus() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = (program, "--query-gpu=uuid", "--format=csv,noheader")
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()


def _gpu(word: str, every: Sequence[str]) -> str | None:
    if re.fullmatch(r"\d+", word):
        return every[int(word)] if int(word) < len(every) else None
    if word.startswith("-"):
        return None
    return next((name for name in every if name.startswith(word)), word)


def claimed_devices(config: TrainingConfig, gpus: Sequence[str]) -> tuple[str, ...]:
    """Names of all devices that Lightning would take for a configuration, sorted.

    Args:
        config: Its `accelerator` and `devices`.
        gpus: Those that the training process sees, in order.
    """
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not gpus):
        return CPU
    if config.accelerator not in ("auto", "gpu", "cuda"):
        return (config.accelerator,)
    chosen = re.findall(r"-?\d+", config.devices)
    if not chosen or chosen == ["-1"]:
        return tuple(sorted(gpus))
    if "," not in config.devices:
        return tuple(sorted(gpus[: int(chosen[0])]))
    return tuple(sorted({gpus[int(n)] for n in chosen if 0 <= int(n) < len(gpus)}))


@contextlib.contextmanager
def device_locks(
    state_directory: Path, devices: Sequence[str], waiting: Callable[[str], None]
) -> Iterator[None]:
    """Hold devices, each once on this machine and state directory.

    Args:
        state_directory: Where the locks are, in `locks`.
        devices: Their names, in one order everywhere, so that nobody waits in a circle.
        waiting: Told the name of a device that another training has, before waiting for it.

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


SECONDS_BETWEEN = 5.0
"""Between reports within an epoch."""


class ReportedPipeline(TrainingPipeline):
    """Tells `report` of every stage, of every epoch, and every few seconds within one."""

    def __init__(
        self, config: TrainingConfig, connections: Connections, report: Callable[[Progress], None]
    ) -> None:
        super().__init__(config, connections)
        self._report_to = report
        self._progress = Progress(stage="checking")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage begins; see `TrainingPipeline.stage`."""
        self.tell(replace(self._progress, stage=name))
        with super().stage(name):
            yield

    def create_trainer(self, tracker: RunMetrics | None = None) -> pl.Trainer:
        """Lightning's trainer, with one more callback."""
        if tracker is not None:
            self.tell(replace(self._progress, run_id=tracker.run_id))
        trainer = super().create_trainer(tracker)
        trainer.callbacks.append(EpochReports(self))  # type: ignore[attr-defined] # set in Trainer.__init__
        return trainer

    def tell(self, progress: Progress) -> None:
        """Report, and go on from there."""
        self._progress = progress
        self._report_to(progress)

    def tell_epochs(self, done: int, of: int, seconds_left: float | None, **more: Any) -> None:  # noqa: ANN401 - passed on
        """Report how much of the training is done."""
        self.tell(replace(self._progress, epoch=done, epochs=of, seconds_left=seconds_left, **more))


# A checkpoint to Lightning, which calls those after the module has logged the epoch's metrics.
class EpochReports(Checkpoint):
    """Reports epochs and the time that they would take to the end."""

    def __init__(self, pipeline: ReportedPipeline) -> None:
        self._pipeline = pipeline
        self._started_s = self._reported_s = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, maybe in the middle of a training that goes on."""
        del pl_module
        self._started_s, self._first_step = time.monotonic(), trainer.global_step
        self._tell(trainer, trainer.current_epoch)

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: object) -> None:
        """Report now and then."""
        del rest
        if time.monotonic() - self._reported_s >= SECONDS_BETWEEN:
            self._tell(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report an epoch with its metrics."""
        del pl_module
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        finite = {name: value for name, value in seen.items() if math.isfinite(value)}
        self._tell(trainer, trainer.current_epoch + 1, metrics=finite)

    def _tell(self, trainer: pl.Trainer, done: int, **more: object) -> None:
        if not trainer.is_global_zero:
            return
        self._reported_s = now = time.monotonic()
        steps = trainer.global_step - self._first_step
        left = None
        if steps:
            to_go = max(int(trainer.estimated_stepping_batches) - trainer.global_step, 0)
            left = round((now - self._started_s) / steps * to_go, 1)
        self._pipeline.tell_epochs(done, trainer.max_epochs or done, left, **more)


if TYPE_CHECKING:
    Train = Callable[[TrainingConfig, Connections, Callable[[Progress], None]], Mapping[str, Any]]

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
    from heimdall_models.training.checkpoint_files import checkpoints_in

    folder = config.checkpoint_dir
    if config.export_only or folder is None:
        return config
    begun = any(folder.glob("member-*/*.ckpt")) if config.ensemble > 1 else checkpoints_in(folder)
    return replace(config, checkpoint=(), resume_training=True) if begun else config


def train_and_register(
    config: TrainingConfig, connections: Connections, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """The pipeline, begun or gone on with; what `heimdall train --summary` would write."""
    from heimdall_trainer.console import print_closing

    outcome = ReportedPipeline(_resumed(config), connections, report).run()
    print_closing(outcome)
    return asdict(outcome.summary)
