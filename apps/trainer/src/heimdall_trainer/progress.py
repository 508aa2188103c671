"""The progress bar of a terminal: loss, metres and the time that is left.

It is drawn on standard error, so that a log file of standard output has none of it.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from heimdall_trainer.run_log import duration

if TYPE_CHECKING:
    import lightning.pytorch as pl

__all__ = ["MetresBar"]

REFRESH_S = 0.5
"""A loss is read from its device so often at most, because reading waits for the device."""


class MetresBar(TQDMProgressBar):
    """Lightning's bar with this training's figures; one bar for all epochs."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = (0.0, 0.0)
        self._drawn_s = 0.0
        self._loss = ""

    def init_train_tqdm(self) -> Tqdm:
        """The bar of the epoch."""
        return _bar(position=0, leave=False)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of the epoch's validation, below."""
        return _bar(position=1, leave=False)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Start the clock."""
        super().on_train_start(trainer)
        self._begun = (time.monotonic(), float(trainer.current_epoch))

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Name the epoch, counted from 1 as in the log."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Draw the bar anew, unless it was just drawn."""
        now, last = time.monotonic(), batch_idx + 1 == self.total_train_batches
        if now - self._drawn_s < REFRESH_S and not last:
            return
        self._drawn_s = now
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._loss = f"{float(loss):.3f}"
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        del pl_module
        seen = trainer.callback_metrics
        shown: dict[str, int | str | float | dict[str, float]] = {"loss": self._loss}
        if "val/loss" in seen:
            shown["val"] = f"{float(seen['val/loss']):.3f}"
        if "val/error_m_median" in seen:
            shown["median"] = f"{float(seen['val/error_m_median']) / 1000:.1f} km"
        return shown | {"left": self._left(trainer)}

    def _left(self, trainer: pl.Trainer) -> str:
        """Time to the last epoch at the pace so far; training may stop sooner."""
        share = self.train_progress_bar.n / max(float(self.train_progress_bar.total or 1), 1.0)
        started_s, first_epoch = self._begun
        done = min(trainer.current_epoch + share, float(trainer.max_epochs or 0)) - first_epoch
        to_go = float(trainer.max_epochs or 0) - first_epoch - done
        return duration((time.monotonic() - started_s) * to_go / done) if done > 0 else "?"


def _bar(*, position: int, leave: bool) -> Tqdm:
    return Tqdm(
        position=position,
        leave=leave,
        dynamic_ncols=True,
        file=sys.stderr,
        smoothing=0,
        bar_format="{l_bar}{bar:20}| {n_fmt}/{total_fmt}{postfix}",
    )
