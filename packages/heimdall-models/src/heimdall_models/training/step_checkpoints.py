"""Checkpoints within an epoch: every so often, and when Ctrl-C or SIGTERM asks to stop.

A signal may come in the middle of a step, when half of the weights are new. So its handler only
takes note; after the step the checkpoint is written and training ends. A signal may reach only one
of several processes: they agree after each step, and all stop at the same one.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Checkpoint

from heimdall_models.training.averaging import AveragedWeights
from heimdall_models.training.batches import is_within_epoch
from heimdall_models.training.checkpoint_files import STEP, checkpoints_in, refused

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType
    from typing import Any

    import lightning.pytorch as pl

__all__ = ["StepCheckpoints"]

LOGGER = logging.getLogger(__name__)
STOPPING = (signal.SIGINT, signal.SIGTERM)
NOTHING, DUE = 0, 1
"""Less than the numbers of the signals, which take precedence."""


class StepCheckpoints(Checkpoint):
    """Writes `step.ckpt` within an epoch, and ends training at a signal.

    Args:
        folder: Where the checkpoint goes.
        every_minutes: Of training; 0 writes none by time.
        every_steps: The same in steps; 0 writes none by steps.
    """

    def __init__(self, folder: Path, every_minutes: float, every_steps: int = 0) -> None:
        self._path = folder / STEP
        self._every_s = 60 * every_minutes or float("inf")
        self._every_steps = every_steps
        self._last_s = time.monotonic()
        self._signal = NOTHING
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the handling of signals."""
        del pl_module
        self._path = trainer.strategy.broadcast(self._path)
        self._last_s = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._note) for n in STOPPING}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Write the state after the step if it is time, and stop if a signal came.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with its status, 143.
        """
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
        """Stop if a signal came, as `on_train_batch_end`; the resumed run validates anew."""
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
        """Remove the checkpoint within an epoch; a late signal counts, as `on_train_batch_end`."""
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
        if self._signal != NOTHING:
            # A second signal stops at once, by the earlier handlers.
            self._give_back()
            signal.raise_signal(number)
        self._signal = number

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _agree(self, trainer: pl.Trainer, *, is_due: bool) -> int:
        """A signal that any process received, else whether a checkpoint is due in the first."""
        mine = self._signal or (DUE if is_due and trainer.is_global_zero else NOTHING)
        if trainer.world_size == 1:
            return mine
        flag = torch.tensor(mine, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(flag, reduce_op="max"))

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        """End training if the number is that of a signal."""
        if number in (NOTHING, DUE):
            return
        if trainer.is_global_zero:
            LOGGER.error("%s", self._stop_message(trainer))
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def _stop_message(self, trainer: pl.Trainer) -> str:
        n_steps = trainer.global_step
        step = f"stopped in epoch {trainer.current_epoch + 1} after {n_steps} steps in all"
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
