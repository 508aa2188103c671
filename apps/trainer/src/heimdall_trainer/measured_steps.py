"""A few steps of a training, to know what an epoch will take."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from heimdall_models import AveragedWeights

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.run_overview import ModelSize
from heimdall_trainer.training import make_loader

if TYPE_CHECKING:
    from heimdall_trainer.pipeline import TrainingPipeline
    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["MeasuredSteps", "measure_steps"]

N_WARM = 2
"""Steps that are not counted: the first ones make buffers and choose kernels."""
N_STEPS = 12
N_VALIDATED = 4
ENOUGH_S = 20.0
"""No step begins after this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """What a training does to one device of this machine."""

    device: str
    n_steps: int
    step_s: float
    """One batch: loading, forward, backward and optimizer."""
    epoch_s: float
    """All batches of the training and the validation part."""
    memory_bytes: int
    """Most that was held: by the device, or by this process where that is the CPU."""
    size: ModelSize


def measure_steps(pipeline: TrainingPipeline, data: TrainingData) -> MeasuredSteps:
    """Train and validate on a few batches, on one device, and forget the network.

    Everything learns that will learn at last, which is when an epoch takes longest.

    Raises:
        TrainerError: Memory does not hold a batch, or its loss is not finite.
        ModelError: The network cannot be trained as it should be.
    """
    config = replace(pipeline.config, unfreeze_epoch=0, unfreeze_every=0)
    module = type(pipeline)(config, pipeline.connections).create_lightning_module(data)
    clock = StepClock()
    trainer = _trainer(config, clock)
    train, validation = make_loader(data.train, config), make_loader(data.validation, config)
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, train, validation)
    except torch.OutOfMemoryError:
        raise TrainerError(
            f"a batch of {config.batch_size} does not fit into the memory of "
            f"{trainer.strategy.root_device}: lower --batch_size, or try "
            "--gradient_checkpointing or --precision bf16-mixed"
        ) from None
    if not math.isfinite(clock.loss):
        raise TrainerError("the loss of a first batch is not finite: lower --learning_rate")
    return MeasuredSteps(
        device=str(trainer.strategy.root_device),
        n_steps=clock.n_steps,
        step_s=clock.step_s,
        epoch_s=clock.step_s * len(train) + clock.validation_step_s * len(validation),
        memory_bytes=_most_memory(trainer.strategy.root_device),
        size=ModelSize.of(module, averaged=bool(config.ema_decay)),
    )


def _trainer(config: TrainingConfig, clock: StepClock) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        limit_train_batches=N_WARM + N_STEPS,
        limit_val_batches=N_VALIDATED,
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=[clock, *([AveragedWeights(config.ema_decay)] if config.ema_decay else [])],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        deterministic="warn",
    )


def _most_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class StepClock(pl.Callback):
    """Times steps from the end of the warm-up, with the loading of their batches."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.loss = math.nan
        self._ends_s: list[float] = []
        self._validated_s = [0.0, 0.0]
        self._n_validated = 0

    @property
    def step_s(self) -> float:
        """Mean seconds of a step; of the second and later ones, if there are so few."""
        ends_s = self._ends_s[N_WARM:] if len(self._ends_s) > N_WARM + 1 else self._ends_s
        return (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)

    @property
    def validation_step_s(self) -> float:
        """Mean seconds of a batch's validation."""
        begun_s, ended_s = self._validated_s
        return (ended_s - begun_s) / max(self._n_validated, 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._ends_s.append(_now_s())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Note when the step ended, and end it all when that is enough."""
        del pl_module, batch
        self.loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self._ends_s.append(_now_s())
        self.n_steps = batch_idx + 1
        if self._ends_s[-1] - self._ends_s[0] > ENOUGH_S and self.n_steps > N_WARM:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the other clock."""
        del trainer, pl_module
        self._validated_s[0] = _now_s()

    def on_validation_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Count a batch."""
        self._n_validated += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the other clock."""
        del trainer, pl_module
        self._validated_s[1] = _now_s()


def _now_s() -> float:
    if torch.cuda.is_available():  # which goes on after the step has returned
        torch.cuda.synchronize()
    return time.monotonic()
