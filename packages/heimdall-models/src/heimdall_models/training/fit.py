"""Lightning's trainer for a run: callbacks, checkpoints, and the fit itself.

What a whole model is worth on the validation part, as it would be served.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from heimdall_models import AveragedWeights, DivergenceGuard, localization_metrics
from heimdall_models.errors import TrainingError
from heimdall_models.training.batches import EpochSeeds, SessionBatches, make_loader
from heimdall_models.training.checkpoint_files import (
    WITH_TIMING,
    BestCheckpoints,
    WholeCheckpoints,
    checkpoints_in,
    newest_checkpoint,
    remove_parts,
)
from heimdall_models.training.devices import ends_together, environment_plugins, placement, watched
from heimdall_models.training.history import EpochHistory, MetresBar, TrackerLogger
from heimdall_models.training.memory import sized, told_of_memory
from heimdall_models.training.resume import RunIdentity, RunKeeper
from heimdall_models.training.step_checkpoints import StepCheckpoints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from heimdall_models import LocalizationModule
    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, SessionDataset, TrainingParts

__all__ = [
    "WITH_TIMING",
    "TrainedModel",
    "checkpoints_in",
    "fit",
    "make_loader",
    "make_trainer",
    "newest_checkpoint",
    "seen_interrupts",
    "validated",
]


N_CHECKPOINTS = 3

# Lightning's advertisements and its advice about worker counts are not about our run.
for _chatty in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module=r"lightning\..*", category=UserWarning)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
# Of channels-last weights on several processes; it costs next to nothing.
warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The best checkpoint of a run and how the run went."""

    checkpoint: Path
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the best epoch's validation, by the contract's names."""
    more_curves: tuple[LearningCurve, ...] = ()
    """Of an ensemble's members, and of networks of times."""


def make_trainer(
    config: TrainingOptions, checkpoint_dir: Path, tracker: RunMetrics | None
) -> pl.Trainer:
    """A Lightning trainer that keeps the best checkpoints and stops when nothing improves.

    It averages the weights unless told not to, and stops where the gradients are not finite. It
    has a progress bar where standard error is a terminal.

    Args:
        config: Epochs, devices, precision, patience, clipping, averaging.
        checkpoint_dir: Where checkpoints go.
        tracker: Where metrics go; None keeps them in the process.
    """
    callbacks = [
        # Before those that write checkpoints, so that each has its own epoch.
        EpochHistory(),
        BestCheckpoints(
            checkpoint_dir,
            filename="epoch={epoch:03d}",
            auto_insert_metric_name=False,
            monitor="val/loss",
            save_top_k=N_CHECKPOINTS,
        ),
        # Of its own, because `save_last` above would keep the last one that was among the best.
        ModelCheckpoint(checkpoint_dir, filename="last", enable_version_counter=False),
        StepCheckpoints(
            checkpoint_dir, config.checkpoint_every_minutes, config.checkpoint_every_steps
        ),
        EarlyStopping("val/loss", patience=config.patience),
        DivergenceGuard(checkpoint_dir),
        *([AveragedWeights(config.ema_decay)] if config.ema_decay else []),
        *([MetresBar()] if sys.stderr.isatty() else []),
        *([LearningRateMonitor("epoch")] if tracker else []),
    ]
    return pl.Trainer(
        max_epochs=config.epochs,
        **placement(config),
        precision=config.precision,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *environment_plugins()],
        logger=TrackerLogger(tracker) if tracker else False,
        gradient_clip_val=config.gradient_clip or None,
        deterministic="warn",
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=checkpoint_dir,
    )


def fit(
    trainer: pl.Trainer,
    module: LocalizationModule,
    data: TrainingParts,
    config: TrainingOptions,
    resume_from: Path | None = None,
) -> TrainedModel:
    """Train to the end or until nothing improves.

    Raises:
        ModelError: Training diverged, or the backbone cannot be trained as it should be.
        KeyboardInterrupt: Ctrl-C; the state after the last step is kept.
        SystemExit: SIGTERM, likewise.
        TrainingError: Training ended without a checkpoint, lost a process, or has no room.
    """
    config = sized(config, module, trainer, len(data.train), resume_from)
    run = trainer.logger.run if isinstance(trainer.logger, TrackerLogger) else None
    batches = SessionBatches(data, config)
    trainer.callbacks += [  # type: ignore[attr-defined] # set in Trainer.__init__
        EpochSeeds(data.train, config.seed),
        RunKeeper(RunIdentity.of(data, config, run)),
    ]
    remove_parts(Path(trainer.default_root_dir))
    with told_of_memory(config), ends_together(trainer), seen_interrupts(trainer), watched(trainer):
        trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
    return _outcome(trainer)


@contextlib.contextmanager
def seen_interrupts(trainer: pl.Trainer) -> Iterator[None]:
    """Lightning answers Ctrl-C with exit status 1; callers must see the interrupt.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        yield
    except SystemExit as ended:
        if trainer.interrupted and ended.code == 1:
            raise KeyboardInterrupt from None
        raise


def _outcome(trainer: pl.Trainer) -> TrainedModel:
    saver = next(c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoints))
    files = trainer.strategy.checkpoint_io
    if not saver.best_model_path and isinstance(files, WholeCheckpoints) and files.refused:
        path, why = next(iter(files.refused.items()))
        raise TrainingError(
            f"training ended, and no checkpoint could be written: {path}: {why.strerror or why}; "
            "make room there or give another --checkpoint_dir, and train again"
        )
    if not saver.best_model_path:
        raise TrainingError(
            f"training ended after epoch {trainer.current_epoch} without a checkpoint: "
            "the validation loss was never finite; lower --learning_rate"
        )
    seen = next(c for c in trainer.callbacks if isinstance(c, EpochHistory))  # type: ignore[attr-defined]
    if not seen.epochs:  # It went on from its own end.
        return TrainedModel(checkpoint=Path(saver.best_model_path))
    # Of the checkpoint: a better epoch may have found a full disk.
    score = saver.best_model_score
    least = min(record.val_loss for record in seen.epochs) if score is None else float(score)
    best = min(range(len(seen.epochs)), key=lambda at: abs(seen.epochs[at].val_loss - least))
    return TrainedModel(
        checkpoint=Path(saver.best_model_path),
        history=tuple(seen.epochs),
        best_epoch=seen.epochs[best].epoch,
        metrics={name: v for name, v in seen.metrics[best].items() if name.startswith("val/")},
    )


@torch.inference_mode()
def validated(
    network: torch.nn.Module, dataset: SessionDataset, config: TrainingOptions
) -> dict[str, float]:
    """The contract's `val/` metrics of the whole model: those of training were of a part.

    Args:
        network: Takes features, and arrival times where the dataset measures them; gives
            positions, uncertainties, and perhaps correlations and more.
        dataset: The validation part.
        config: How batches are loaded.
    """
    said, truth_deg = [], []
    for batch in make_loader(dataset, config):
        inputs = [batch[name] for name in ("features", "arrivals") if name in batch]
        said.append(network(*inputs))
        truth_deg.append(batch["position_deg"])
    outputs = [torch.cat(part).numpy() for part in zip(*said, strict=True)]
    correlation = outputs[2] if len(outputs) > 2 else 0.0
    found = localization_metrics(outputs[0], outputs[1], torch.cat(truth_deg).numpy(), correlation)
    return {f"val/{name}": value for name, value in found.items()}
