"""The pipeline of `heimdall train`, saying how far it is."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Checkpoint

from heimdall_trainer.pipeline import TrainingPipeline
from heimdall_trainer.worker.job_folder import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    import lightning.pytorch as pl

    from heimdall_trainer.callbacks import RunMetrics
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["ReportedPipeline"]

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
