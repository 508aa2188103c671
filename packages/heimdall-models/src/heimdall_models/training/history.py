"""Record of a training run: its epochs, their log lines, its metrics in MLflow, a progress bar."""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers.logger import Logger

from heimdall_models.training.curves import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import lightning.pytorch as pl

    from heimdall_models.training.parts import RunMetrics

LOGGER = logging.getLogger(__name__)
REFRESH_S = 0.5
"""Shortest time between two readings of the loss, each of which waits for the device."""


def duration(seconds: float) -> str:
    """A length of time as people read it: `4.1 s`, `3:20 min`, `2:03:20 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


@dataclass(frozen=True, kw_only=True)
class PartOfRun:
    """Metrics of a part of a run: of an ensemble's member, or of a resumed training."""

    run: RunMetrics
    first_step: int = 0
    """Step of the run at which the part begins."""
    known: Container[tuple[str, int]] = ()
    """Names and steps of metrics that the run has already; they are not logged again."""

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return self.run.run_id

    @property
    def run_name(self) -> str:
        """Name of the run."""
        return self.run.run_name

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the new metrics of a step of this part."""
        step += self.first_step
        new = {name: value for name, value in metrics.items() if (name, step) not in self.known}
        if new:
            self.run.log_metrics(new, step)


# A checkpoint to Lightning, which calls those after the module has logged the epoch's metrics.
class EpochHistory(Checkpoint):
    """Keeps the metrics of each epoch, and logs them in one line."""

    def __init__(self) -> None:
        self.epochs: list[EpochRecord] = []
        self.metrics: list[dict[str, float]] = []
        self._steps: list[int] = []
        self._n_before = 0
        self._begun_s = self._started_s = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far, for a run that goes on."""
        epochs = [asdict(record) for record in self.epochs]
        return {"epochs": epochs, "metrics": list(self.metrics), "steps": list(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the epochs of a checkpoint."""
        self.epochs = [EpochRecord(**record) for record in state_dict.get("epochs", ())]
        self.metrics = list(state_dict.get("metrics", ()))
        self._steps = list(state_dict.get("steps", ()))
        self._n_before = len(self.epochs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the run's clock, and log the epochs that a killed run may not have logged."""
        del pl_module
        self._begun_s = self._started_s = time.monotonic()
        for record, seen, step in zip(self.epochs, self.metrics, self._steps, strict=True):
            for logger in trainer.loggers:
                logger.log_metrics({**seen, "epoch": record.epoch}, step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's clock."""
        del trainer, pl_module
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep and log the epoch, whose validation is done."""
        del pl_module
        seen = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train/", "val/"))
        }
        record = EpochRecord(
            epoch=trainer.current_epoch,
            train_loss=seen.get("train/loss", math.nan),
            val_loss=seen.get("val/loss", math.nan),
            val_error_m_median=seen.get("val/error_m_median", math.nan),
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
        )
        self.epochs.append(record)
        self.metrics.append(seen)
        self._steps.append(trainer.global_step - 1)
        if not trainer.is_global_zero:
            return
        now_s = time.monotonic()
        # To the last epoch at the pace so far; training may stop sooner.
        pace_s = (now_s - self._begun_s) / (len(self.epochs) - self._n_before)
        to_go = 0 if trainer.should_stop else (trainer.max_epochs or 0) - record.epoch - 1
        log_epoch(
            trainer,
            f"  train {record.train_loss:6.3f}  val {record.val_loss:6.3f}"
            f"  median {record.val_error_m_median / 1000:4.1f} km"
            f"  {duration(now_s - self._started_s)}  left <= {duration(pace_s * to_go)}",
            seconds=now_s - self._started_s,
            seconds_left=pace_s * to_go,
            learning_rate=record.learning_rate,
            **seen,
        )


def log_epoch(trainer: pl.Trainer, line: str, **figures: float) -> None:
    """Log the end of an epoch, counted from 1: for people a line, for programs its figures."""
    epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
    event = {"event": "epoch", "figures": {"epoch": epoch, "epochs": epochs, **figures}}
    LOGGER.info("%s", f"epoch {epoch:3d}/{epochs}{line}", extra=event)


class TrackerLogger(Logger):
    """Lightning's logger that hands metrics to a run."""

    def __init__(self, tracker: RunMetrics) -> None:
        super().__init__()
        self.run = tracker

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "mlflow"

    @property
    def version(self) -> str:
        """MLflow's id of the run."""
        return self.run.run_id

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Do nothing: the pipeline logs the whole configuration once."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Hand Lightning's metrics of a step to the run."""
        self.run.log_metrics(metrics, step=step or 0)


class MetresBar(TQDMProgressBar):
    """Lightning's bar with this training's figures, on standard error; one bar for all epochs."""

    def __init__(self) -> None:
        super().__init__()
        self._begun, self._drawn_s, self._loss = (0.0, 0), 0.0, ""

    def init_train_tqdm(self) -> Tqdm:
        """The bar of the epoch."""
        return _bar(position=0)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of the epoch's validation, below."""
        return _bar(position=1)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        """Start the clock."""
        super().on_train_start(trainer)
        self._begun = (time.monotonic(), trainer.current_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Name the epoch, counted from 1 as in the log; Lightning would count from 0 first."""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.train_progress_bar.set_description(epoch, refresh=False)
        self.train_progress_bar.reset(self.total_train_batches)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the validation, without Lightning's number of a loader."""
        del trainer, pl_module, batch, batch_idx
        if self.has_dataloader_changed(dataloader_idx):
            self.val_progress_bar.set_description("validation", refresh=False)
            self.val_progress_bar.reset(self.total_val_batches_current_dataloader)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Draw the bar again, unless it was just drawn."""
        now_s, is_last = time.monotonic(), batch_idx + 1 == self.total_train_batches
        if now_s - self._drawn_s < REFRESH_S and not is_last:
            return
        self._drawn_s = now_s
        self._loss = f"{float(outputs['loss'] if isinstance(outputs, dict) else outputs):.3f}"
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures after the bar; the time left is to the last epoch at the pace so far."""
        del pl_module
        shown: dict[str, int | str | float | dict[str, float]] = {"loss": self._loss}
        if "val/error_m_median" in (seen := trainer.callback_metrics):
            shown["median"] = f"{float(seen['val/error_m_median']) / 1000:.1f} km"
        started_s, first_epoch = self._begun
        n_epochs = trainer.max_epochs or 0
        share = self.train_progress_bar.n / max(self.train_progress_bar.total or 1, 1)
        done = min(trainer.current_epoch + share, n_epochs) - first_epoch
        pace_s = (time.monotonic() - started_s) / done if done > 0 else math.nan
        left_s = pace_s * (n_epochs - first_epoch - done)
        return shown | {"left": duration(left_s) if done > 0 else "?"}


def _bar(*, position: int) -> Tqdm:
    return Tqdm(
        position=position,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
        smoothing=0,
        delay=1e-9,  # Nothing is drawn before the first description.
        bar_format="{l_bar}{bar:10}| {n_fmt}/{total_fmt}{postfix}",
    )
