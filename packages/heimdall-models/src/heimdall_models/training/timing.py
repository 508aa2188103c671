"""Training of the network of arrival times, beside that of spectrograms and after it.

A session is a few numbers a receiver, so all of them fit in memory, and training takes seconds
where the spectrograms take hours. Too few sessions are refused before those hours.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from heimdall_models.calibration import LEAST_SESSIONS
from heimdall_models.errors import TrainingError
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.module import TimingConfig, TimingModule
from heimdall_models.timing.receivers import receiver_sites
from heimdall_models.trained import Trained, save_with_timing
from heimdall_models.training.checkpoint_files import WITH_TIMING
from heimdall_models.training.curves import EpochRecord, LearningCurve
from heimdall_models.training.fit import pass_on_interrupts, validated
from heimdall_models.training.history import log_epoch

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from heimdall_models import Region
    from heimdall_models.timing.network import TimingNet
    from heimdall_models.training.fit import TrainedModel
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, SessionDataset, TrainingParts

LOGGER = logging.getLogger(__name__)
FEWEST_TIMED = 50
"""Sessions to train on; the network has some 1,700 weights and starts from geometry."""
LARGEST_BATCH = 128
SMALLEST_BATCH = 8
STEPS_PER_EPOCH = 10
"""Few sessions are divided into this many batches, smaller than the largest."""
GRADIENT_CLIP = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TimedSessions:
    """Map-style dataset of the sessions with an arrival time at two receivers or more."""

    arrivals: Tensor
    """float32 `(n, receivers, 5)`, as the arrival extractor returns them."""
    target: Tensor
    """float32 `(n, 2)`, plane units."""
    n_asked: int
    """Sessions with and without arrival times."""

    def __len__(self) -> int:
        return len(self.arrivals)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"arrivals": self.arrivals[index], "target": self.target[index]}

    @classmethod
    def of(cls, dataset: SessionDataset, region: Region) -> Self:
        """The timed sessions of a dataset that measures arrivals, without augmentation."""
        plain = dataset.subset(dataset.sessions)
        arrivals = np.stack([plain[index]["arrivals"] for index in range(len(plain))])
        timed = arrivals[..., 0].sum(axis=1) >= 2
        places = np.array([session.position_deg for session in plain.sessions])[timed]
        target = torch.from_numpy(region.to_plane(places)).float()
        return cls(torch.from_numpy(arrivals[timed]), target, len(plain))


class TimedParts(NamedTuple):
    """Sessions that the network of times learns from, and those that calibrate its ellipses."""

    train: TimedSessions
    validation: TimedSessions


def timed_parts(data: TrainingParts) -> TimedParts:
    """The timed sessions of the training and the validation part; the test part stays unseen.

    Raises:
        TrainingError: They are too few to learn from.
    """
    train = TimedSessions.of(data.train, data.region)
    if len(train) < FEWEST_TIMED:
        raise TrainingError(
            f"{len(train)} of {train.n_asked} training sessions have arrival times, and the "
            f"network of times learns from {FEWEST_TIMED} or more; record more with GNSS clocks, "
            "or use --features mel"
        )
    return TimedParts(train, TimedSessions.of(data.validation, data.region))


def train_timing(
    parts: TimedParts,
    data: TrainingParts,
    config: TrainingOptions,
    tracker: RunMetrics | None = None,
) -> tuple[TimingNet, LearningCurve]:
    """Train a network of times; calibrate it if the validation part has enough sessions.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        ModelError: A receiver is too far from the region.
    """
    pl.seed_everything(config.seed, workers=True, verbose=False)
    sites = receiver_sites(data.receivers)
    module = TimingModule(TimingConfig(seed=config.seed), data.region, sites)
    history = _TimingEpochs(tracker)
    trainer = pl.Trainer(
        max_epochs=config.timing_epochs,
        accelerator=config.accelerator,
        devices=1,
        callbacks=[history],
        logger=False,
        gradient_clip_val=GRADIENT_CLIP,
        deterministic="warn",
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    train: DataLoader[Any] = DataLoader(
        parts.train,  # type: ignore[arg-type] # map-style, without torch in its bases
        batch_size=min(LARGEST_BATCH, max(SMALLEST_BATCH, len(parts.train) // STEPS_PER_EPOCH)),
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
    )
    validation: DataLoader[Any] | None = None
    if len(parts.validation):
        validation = DataLoader(parts.validation, batch_size=LARGEST_BATCH)  # type: ignore[arg-type]
    with pass_on_interrupts(trainer):
        trainer.fit(module, train, validation)
    module.cpu()
    if len(parts.validation) >= LEAST_SESSIONS:
        module.calibrate(parts.validation.arrivals, parts.validation.target)
    else:
        LOGGER.warning(
            "%s",
            f"{len(parts.validation)} of {parts.validation.n_asked} validation sessions have "
            f"arrival times and calibration takes {LEAST_SESSIONS}; ellipses stay as training left "
            "them (raise --validation_split)",
        )
    best = history.epochs[-1].epoch  # The last epoch's weights are kept.
    curve = LearningCurve(name="arrival times", history=tuple(history.epochs), best_epoch=best)
    return module.net.eval(), curve


def with_timing(
    trained: TrainedModel,
    timing: tuple[TimingNet, LearningCurve],
    data: TrainingParts,
    config: TrainingOptions,
    calibration: str | None = None,
) -> TrainedModel:
    """The trained model with the network of times in its checkpoint and in its metrics.

    `calibration` is text with the receivers' delays, which the checkpoint keeps.
    """
    net, curve = timing
    path = trained.checkpoint.with_name(WITH_TIMING)
    save_with_timing(trained.checkpoint, net, receiver_sites(data.receivers), path, calibration)
    network = TimedServingNet(Trained.open(path).single.module.serving_net(), net).eval()
    metrics = {**trained.metrics, **validated(network, data.validation, config)}
    curves = (*trained.more_curves, curve)
    return replace(trained, checkpoint=path, metrics=metrics, more_curves=curves)


class _TimingEpochs(pl.Callback):
    """Logs each epoch in one line, and hands its losses to the tracker."""

    def __init__(self, tracker: RunMetrics | None) -> None:
        self.epochs: list[EpochRecord] = []
        self._tracker = tracker
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch, whose validation is done."""
        del pl_module
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._tracker:
            self._tracker.log_metrics(seen, step=trainer.current_epoch)
        record = EpochRecord(
            epoch=trainer.current_epoch,
            train_loss=seen.get("train/timing_loss", math.nan),
            val_loss=seen.get("val/timing_nll", math.nan),
            val_error_m_median=math.nan,
            learning_rate=math.nan,
        )
        self.epochs.append(record)
        losses = "".join(f"  {name} {value:6.3f}" for name, value in sorted(seen.items()))
        took_s, self._started_s = time.monotonic() - self._started_s, time.monotonic()
        log_epoch(trainer, f"{losses}  {took_s:4.1f} s", seconds=took_s, **seen)
