"""Checkpoints on disk: writing them whole, finding the newest, and the folders of an ensemble.

Within an epoch, one is written every so often, and when a signal of `training.stopping` comes. That
may be in the middle of a step, when half of the weights are new: its handler only takes note, and
training ends after the step. It may reach only one of several processes: they agree after each
step, and all stop at the same one.

Each member of an ensemble has a folder, `member-1` and on, with the checkpoints of any run and a
note of its final one, so that an interrupted run does not train it again. A training holds its
folder, so that two never write into one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from heimdall_models.checkpoint import read_checkpoint, whole_file, write_checkpoint
from heimdall_models.errors import TrainingError
from heimdall_models.training.averaging import AveragedWeights
from heimdall_models.training.batches import is_within_epoch
from heimdall_models.training.divergence import DIVERGED
from heimdall_models.training.stopping import heeded, is_impatient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import lightning.pytorch as pl
    from torch import Tensor

    from heimdall_models.training.options import TrainingOptions

LOGGER = logging.getLogger(__name__)
STEP = "step.ckpt"
"""The newest state within an epoch."""
WITH_TIMING = "with-timing.ckpt"
"""The best checkpoint with the network of times added; training cannot go on from it."""
CALIBRATED = "calibrated.ckpt"
"""What is shipped of the best checkpoint: calibrated on validation sessions, and without its
corrections of the posterior by levels if they do not help; likewise."""
TIMING_FOLDER = "timing"
"""Folder of the checkpoints of the network of times, below those of the spectrograms."""
ENSEMBLE = "ensemble.ckpt"
"""The members in one file, beside their folders."""
MEMBER = "member-"
NOTE = "finished.json"
LOCK = ".training.lock"
NOTHING, DUE = -1, 0
"""Smaller than any signal number, so that the maximum over processes is a signal if any came."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all; training goes on when the disk is full.

    Lightning would write to the system's temporary folder and copy to another disk: a run killed
    during the copy loses the previous checkpoint too.
    """

    def __init__(self) -> None:
        self.refused: dict[str, OSError] = {}
        """The error of a checkpoint that could not be written, by its path."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: object = None,
    ) -> None:
        """Write a checkpoint, or warn that it cannot be written; an earlier one then stays."""
        del storage_options
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, place)
            self.refused.pop(str(place), None)
        except (OSError, RuntimeError) as error:
            reason = self.refused[str(place)] = _os_error(error)
            LOGGER.warning(
                "%s",
                f"checkpoint {place} cannot be written ({reason.strerror or reason}); training "
                f"goes on, and earlier checkpoints stay: make room in {place.parent}",
            )

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: object = None,
        weights_only: bool | None = None,  # noqa: FBT001 - Lightning's
    ) -> dict[str, Any]:
        """Contents of a checkpoint, on the CPU; see `read_checkpoint`."""
        del map_location, weights_only
        return read_checkpoint(Path(path))


class BestCheckpoints(ModelCheckpoint):
    """Lightning's best checkpoints, without those that could not be written."""

    def _save_topk_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        before = {**self.state_dict(), "best_k_models": dict(self.best_k_models)}
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if trainer.strategy.broadcast(not refused(trainer).keys().isdisjoint(self.best_k_models)):
            self.load_state_dict(before)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        """Keep a checkpoint whose successor could not be written."""
        is_written = current not in refused(trainer)
        return is_written and super()._should_remove_checkpoint(trainer, previous, current)


def refused(trainer: pl.Trainer) -> dict[str, OSError]:
    """Errors of the checkpoints that could not be written, by their paths."""
    files = trainer.strategy.checkpoint_io
    return files.refused if isinstance(files, WholeCheckpoints) else {}


def _os_error(error: OSError | RuntimeError) -> OSError:
    """The OSError among the causes of torch's error; without one, raise the error again."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return found
        found = found.__cause__ or found.__context__
    raise error


class StepCheckpoints(Checkpoint):
    """Writes `step.ckpt` within an epoch, as often as the options say, and ends at a signal."""

    def __init__(self, folder: Path, options: TrainingOptions, *, resumable: bool = True) -> None:
        self._path = folder / STEP
        self._resumable = resumable
        self._every_s = 60 * options.checkpoint_every_minutes or float("inf")
        self._every_steps = options.checkpoint_every_steps
        self._last_s = time.monotonic()
        self._received: list[int] = []
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the handling of signals."""
        del pl_module
        self._path = trainer.strategy.broadcast(self._path)
        self._last_s = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._note) for n in heeded()}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Write the state after the step if it is time or a signal came; see `_stop`."""
        del pl_module, outputs, batch, batch_idx
        by_steps = self._every_steps > 0 and trainer.global_step % self._every_steps == 0
        by_time = time.monotonic() - self._last_s >= self._every_s
        wanted = self._agree(trainer, is_due=by_steps or by_time)
        if wanted != NOTHING:
            self._last_s = time.monotonic()
            trainer.save_checkpoint(self._path)
            self._stop(trainer, wanted)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if a signal came; the resumed run validates anew."""
        del outputs, batch, batch_idx, dataloader_idx
        wanted = self._agree(trainer, is_due=False)
        if wanted == NOTHING:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set in Trainer.__init__
            if isinstance(callback, AveragedWeights):
                # During validation the module holds the average, which no checkpoint expects.
                callback.on_validation_epoch_end(trainer, pl_module)
        trainer.save_checkpoint(self._path)
        self._stop(trainer, wanted)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a run resumed after an epoch's last step start with validation."""
        del pl_module
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if is_last and is_within_epoch(trainer):
            _resume_at_validation(checkpoint["loops"]["fit_loop"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the checkpoint within an epoch; a late signal still counts."""
        del pl_module
        if trainer.is_global_zero:
            self._path.unlink(missing_ok=True)
        self._stop(trainer, self._agree(trainer, is_due=False))
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Restore the earlier handlers of signals."""
        del trainer, pl_module, exception
        self._give_back()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if is_impatient(self._received):
            # By the earlier handlers.
            self._give_back()
            signal.raise_signal(number)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _agree(self, trainer: pl.Trainer, *, is_due: bool) -> int:
        """A signal that any process received, else whether a checkpoint is due in the first."""
        due = DUE if is_due and trainer.is_global_zero else NOTHING
        mine = self._received[0] if self._received else due
        if trainer.world_size == 1:
            return mine
        flag = torch.tensor(mine, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(flag, reduce_op="max"))

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        """At a signal, end training: KeyboardInterrupt for Ctrl-C, exit status 143 for SIGTERM."""
        if number in (NOTHING, DUE):
            return
        if trainer.is_global_zero:
            LOGGER.error("%s", self._stop_message(trainer))
        self._give_back()
        # Whoever handles the next one may have to know of this one; but Lightning, which handles
        # SIGTERM, would send it to the other processes, and they stop by themselves.
        if number != signal.SIGTERM and callable(handler := signal.getsignal(number)):
            handler(number, None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def _stop_message(self, trainer: pl.Trainer) -> str:
        n_steps = trainer.global_step
        step = f"stopped in epoch {trainer.current_epoch + 1} after {n_steps} steps in all"
        if not self._resumable:
            return step
        found = checkpoints_in(self._path.parent)
        if not found:
            return f"{step}; nothing could be kept"
        where = "an earlier state" if str(self._path) in refused(trainer) else "the state"
        return (
            f"{step}; {where} is in {found[-1]}: --resume_training --checkpoint {found[-1]} goes on"
        )


def _resume_at_validation(fit_loop: dict[str, Any]) -> None:
    """Change the state after an epoch's last step so that Lightning goes on with validation.

    Lightning would take the epoch for finished and skip its validation. So the last batch is
    marked as complete, and an empty validation as begun.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    for which in ("total", "current"):
        batches[which]["completed"] = batches[which]["processed"]
        validation[which].update(ready=1, started=1, processed=0, completed=0)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder of checkpoints, which is made where it is missing, against other trainings.

    The lock is this process's alone: its children do not have it, and the system releases it when
    the process ends, even if it was killed. It holds between users too. A folder in which this user
    can make no file needs none. A process may hold a folder once.

    Raises:
        TrainingError: Another process holds the folder, or its lock cannot be opened; the message
            names it.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _opened_lock(path)
    except OSError as error:
        if os.access(folder, os.W_OK):
            if os.path.lexists(path):
                raise TrainingError(
                    f"{path} cannot be opened ({error.strerror}), so a training may be using the "
                    "folder: delete it if none does, or give another --checkpoint_dir"
                ) from error
            _warn_unlocked(folder, error)
        yield
        return
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
                raise TrainingError(
                    f"{folder} is in use by a training, {holder}: wait until it ends, or give "
                    "another --checkpoint_dir"
                ) from None
            _warn_unlocked(folder, error)
        with contextlib.suppress(OSError):  # only the name in the message above would be missing
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(descriptor)


def _opened_lock(path: Path) -> int:
    """Open a lock file, which every user may write when it is new, and which is never a link."""
    # Not `device_locks.locked`, whose lock a killed training's loaders would go on holding.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    with contextlib.suppress(OSError):  # a file system without permissions needs none
        os.fchmod(descriptor, 0o666)  # whatever the umask; to lock it, one must be able to write
    return descriptor


def _warn_unlocked(folder: Path, error: OSError) -> None:
    LOGGER.warning(
        "%s cannot be locked (%s): start no other training there", folder, error.strerror
    )


def newest_checkpoint(folder: Path) -> Path:
    """The last of `checkpoints_in` a folder; a TrainingError if there is none."""
    found = checkpoints_in(folder)
    if not found:
        raise TrainingError(f"no checkpoint to resume from in {folder}: give one with --checkpoint")
    return found[-1]


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder that training can go on from, oldest first.

    Excluded are states before a divergence, files that were calibrated, with times, or of an
    ensemble, and, below the folder, the members of an ensemble and the networks of times.
    """
    good = (
        path
        for path in folder.rglob("*.ckpt")
        if path.name not in (DIVERGED, WITH_TIMING, CALIBRATED)
        and not path.name.endswith(ENSEMBLE)
        and not any(
            part.startswith(MEMBER) or part == TIMING_FOLDER
            for part in path.relative_to(folder).parts[:-1]
        )
    )
    return sorted(good, key=lambda path: path.stat().st_mtime_ns)


def member_folder(folder: Path, number: int) -> Path:
    """Folder of the checkpoints of one member, counted from 1."""
    return folder / f"{MEMBER}{number}"


def note_finished(folder: Path, seed: int, checkpoint: Path) -> None:
    """Note in a member's folder the checkpoint that its training ended with."""
    note = {"seed": seed, "checkpoint": checkpoint.name}
    with whole_file(folder / NOTE) as file:
        file.write(f"{json.dumps(note)}\n".encode())


def finished_checkpoint(folder: Path, seed: int) -> Path | None:
    """The checkpoint that a member's training ended with; None if it did not end.

    Raises:
        TrainingError: The member was trained with another seed, or its checkpoint is gone.
    """
    path = folder / NOTE
    if not path.exists():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        found, checkpoint = note["seed"], folder / str(note["checkpoint"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} does not say what was trained: {error}") from error
    if found != seed:
        raise TrainingError(
            f"{folder} was trained with seed {found}, and this run's member has {seed}: resume "
            "with the same --seed, or give another --checkpoint_dir"
        )
    if not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} is gone; delete {folder} to train this member again")
    return checkpoint


def require_fresh(folder: Path) -> None:
    """Refuse, with a TrainingError, to train an ensemble among the members of an earlier one."""
    if any(path.parent.parent == folder for path in _of_members(folder)):
        raise TrainingError(
            f"{folder} has members of an earlier ensemble: go on with --resume_training, or give "
            "another --checkpoint_dir"
        )


def started_ensemble(folder: Path) -> Path:
    """Folder of the ensemble that `newest_of_members` belongs to."""
    return newest_of_members(folder).parent.parent


def newest_of_members(folder: Path) -> Path:
    """The newest checkpoint of any member in or below a folder; a TrainingError if none."""
    newest = max(_of_members(folder), key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        raise TrainingError(
            f"no ensemble to resume in {folder}: give --checkpoint_dir, or leave out "
            "--resume_training"
        )
    return newest


def _of_members(folder: Path) -> Iterator[Path]:
    return folder.rglob(f"{MEMBER}*/*.ckpt")
