"""A training from top to bottom: Lightning's trainer with its callbacks, the fit, its outcome."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from heimdall_models.calibration import shrunk_factor
from heimdall_models.checkpoint import read_checkpoint
from heimdall_models.errors import TrainingError
from heimdall_models.metrics import region_shares, served_metrics, sigma_factor
from heimdall_models.trained import Trained
from heimdall_models.training.averaging import AveragedWeights
from heimdall_models.training.batches import EpochSeeds, SessionBatches, make_loader
from heimdall_models.training.checkpoint_files import (
    CALIBRATED,
    WITH_TIMING,
    BestCheckpoints,
    StepCheckpoints,
    WholeCheckpoints,
    refused,
)
from heimdall_models.training.curves import (
    LEVELS_LOSS,
    NETWORK_LOSS,
    SIGMA_FACTOR,
    TEMPERATURE,
    UNCALIBRATED,
)
from heimdall_models.training.devices import (
    clear_memory_errors,
    end_together,
    fitting_batch_size,
    placement,
)
from heimdall_models.training.divergence import DivergenceGuard
from heimdall_models.training.history import EpochHistory, MetresBar, TrackerLogger
from heimdall_models.training.resume import RunKeeper, run_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from heimdall_models.module import LocalizationModule
    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, SessionDataset, TrainingParts

LOGGER = logging.getLogger(__name__)
N_CHECKPOINTS = 3
_OF_OPTIMIZER = ("optimizer_states", "lr_schedulers")
"""Entries of a checkpoint that training needs to go on."""

# Lightning's advertisements and its advice about worker counts are not about our run.
for _chatty in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module=r"lightning\..*", category=UserWarning)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")
# About channels-last weights on several processes; it costs almost nothing.
warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run ships, and its learning curves."""

    checkpoint: Path
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """`val/` metrics of the best epoch, by the contract's names."""
    more_curves: tuple[LearningCurve, ...] = ()
    """Curves of an ensemble's members, and of networks of times."""


def make_trainer(
    options: TrainingOptions,
    checkpoint_dir: Path,
    tracker: RunMetrics | None,
    *,
    resumable: bool = True,
) -> pl.Trainer:
    """A Lightning trainer that keeps the best checkpoints and stops when nothing improves.

    It averages the weights, stops at gradients that are not finite, and has a progress bar if
    standard error is a terminal. Metrics go to the tracker, if there is one. Who interrupts it is
    told the flags that go on, unless the command has none.
    """
    callbacks = [
        # Before those that write checkpoints, so that each contains its own epoch.
        EpochHistory(),
        BestCheckpoints(
            checkpoint_dir,
            filename="epoch={epoch:03d}",
            auto_insert_metric_name=False,
            monitor="val/loss",
            save_top_k=N_CHECKPOINTS,
        ),
        # Because `save_last` above would keep the last one that was among the best.
        ModelCheckpoint(checkpoint_dir, filename="last", enable_version_counter=False),
        StepCheckpoints(checkpoint_dir, options, resumable=resumable),
        EarlyStopping("val/loss", patience=options.patience),
        DivergenceGuard(checkpoint_dir),
        *([AveragedWeights(options.ema_decay)] if options.ema_decay else []),
        *([MetresBar()] if sys.stderr.isatty() else []),
        *([LearningRateMonitor("epoch")] if tracker else []),
    ]
    # Lightning would put a Slurm job back into the queue, and go on from checkpoints of its own.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return pl.Trainer(
        max_epochs=options.epochs,
        **placement(options),
        precision=options.precision,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *slurm],
        logger=TrackerLogger(tracker) if tracker else False,
        gradient_clip_val=options.gradient_clip or None,
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
    options: TrainingOptions,
    resume_from: Path | None = None,
) -> TrainedModel:
    """Train to the end or until nothing improves; calibrate what comes of it.

    Raises:
        ModelError: Training diverged, or the backbone cannot be trained as it should be.
        KeyboardInterrupt: Ctrl-C; the state after the last step is kept.
        SystemExit: Another signal of `training.stopping`, likewise.
        TrainingError: Training ended without a checkpoint, lost a process, or ran out of memory,
            or cannot go on from that file.
    """
    if resume_from is not None and resume_from.name in (CALIBRATED, WITH_TIMING):
        raise TrainingError(
            f"training cannot go on from {resume_from}, which is a finished model; give "
            "--checkpoint last.ckpt beside it, or none"
        )
    device = trainer.strategy.root_device
    # Not on a CPU: the process would be killed before it could report a lack of memory.
    if options.auto_batch_size and device.type != "cpu":
        size = Trained.open(resume_from).single.run.batch_size if resume_from else None
        if size is None:
            n = trainer.world_size
            share = replace(options, batch_size=max(options.batch_size // n, 1))
            size = n * fitting_batch_size(module, share, device, len(data.train) // n)
        LOGGER.info("batches of %d sessions", size)
        options = replace(options, batch_size=size)
    run = trainer.logger.run if isinstance(trainer.logger, TrackerLogger) else None
    trainer.callbacks += [  # type: ignore[attr-defined] # set in Trainer.__init__
        EpochSeeds(data.train, options.seed),
        RunKeeper(run_record(data, options, run)),
    ]
    # What was being written when an earlier run was killed.
    for part in Path(trainer.default_root_dir).glob(".*.ckpt.*.part"):
        part.unlink(missing_ok=True)
    with clear_memory_errors(options), end_together(trainer), pass_on_interrupts(trainer):
        batches = SessionBatches(data, options)
        trainer.fit(module, datamodule=batches, ckpt_path=resume_from, weights_only=True)
    outcome = _outcome(trainer)
    if not trainer.is_global_zero:
        return outcome
    stopper = trainer.early_stopping_callback
    if stopper is not None and (stopped := stopper.stopped_epoch):
        LOGGER.info(
            "stopped after epoch %d of %d: no better since epoch %d",
            stopped + 1,
            options.epochs,
            stopped + 1 - stopper.wait_count,
        )
    return calibrated(outcome, data, options, run=run, step=trainer.global_step)


def calibrated(
    trained: TrainedModel,
    data: TrainingParts,
    options: TrainingOptions,
    *,
    run: RunMetrics | None = None,
    step: int = 0,
) -> TrainedModel:
    """The best epoch or, where validation prefers it, the posterior by levels alone, calibrated.

    So that regions hold their shares of the validation sessions most nearly, ellipses get a factor
    on their sigmas, and mixtures another temperature of levels, which hardly moves sessions whose
    levels fit nowhere. Then the smaller loss is chosen. The result is in a checkpoint of its own,
    beside the best; if it cannot be written, the best is returned as it is. Metrics are the
    result's; `run` gets those of `training.curves`.
    """
    module = Trained.open(trained.checkpoint).single.module
    heads = module.net.heads
    if not heads.posterior.has_learned:
        return trained
    networks = {LEVELS_LOSS: module.levels_net(), NETWORK_LOSS: module.serving_net()}

    def answers(name: str) -> tuple[list[NDArray[Any]], NDArray[np.float64]]:
        return answered(networks[name], data.validation, options, takes=("features",))

    before = {name: answers(name) for name in networks}
    if heads.n_components == 1:
        fitted, buffer = SIGMA_FACTOR, heads.sigma_factor
        values = {name: float(buffer) * sigma_factor(*before[name]) for name in networks}
        after = {
            name: ([position, values[name] / float(buffer) * sigma, *rest], truth_deg)
            for name, ((position, sigma, *rest), truth_deg) in before.items()
        }
    else:
        fitted, buffer = TEMPERATURE, heads.posterior.temperature
        factors, at_first, values, after = np.exp(np.linspace(-0.6, 0.6, 9)), float(buffer), {}, {}
        for name, (_, truth_deg) in before.items():
            shares = []
            for factor in factors:
                buffer.fill_(at_first * factor)
                shares.append(region_shares(*answers(name)))
            values[name] = at_first * shrunk_factor(factors, np.array(shares), len(truth_deg))
            buffer.fill_(values[name])
            after[name] = answers(name)
    metrics = {name: _metrics(*after[name]) for name in networks}
    for found in metrics.values():
        # In nats per axis and plane units, as in training.
        found["val/loss"] = found["val/nll"] / 2 - math.log(data.region.scale_m / 1000)
    losses = {name: found["val/loss"] for name, found in metrics.items()}
    chosen = min(losses, key=losses.__getitem__)
    buffer.fill_(values[chosen])
    if chosen == LEVELS_LOSS:
        heads.forget()
    contents = read_checkpoint(trained.checkpoint) | {"state_dict": module.state_dict()}
    path = trained.checkpoint.with_name(CALIBRATED)
    files = WholeCheckpoints()
    files.save_checkpoint({k: v for k, v in contents.items() if k not in _OF_OPTIMIZER}, path)
    if files.refused:
        LOGGER.warning("the model is the best epoch's, not calibrated")
        return trained
    told = losses | {fitted: values[chosen]}
    told |= {
        f"{name}{UNCALIBRATED}": value
        for name, value in _metrics(*before[chosen]).items()
        if name.startswith("val/coverage")
    }
    if run:
        run.log_metrics(told, step=step)
    return replace(trained, checkpoint=path, metrics={**trained.metrics, **metrics[chosen], **told})


@contextlib.contextmanager
def pass_on_interrupts(trainer: pl.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C, which Lightning turns into exit status 1."""
    try:
        yield
    except SystemExit as ended:
        if trainer.interrupted and ended.code == 1:
            raise KeyboardInterrupt from None
        raise


def best_checkpoint(trainer: pl.Trainer, saver: BestCheckpoints) -> Path:
    """The best checkpoint of an ended training; a TrainingError if there is none."""
    if not saver.best_model_path:
        for path, error in refused(trainer).items():
            raise TrainingError(
                f"training ended, and no checkpoint could be written: {path}: "
                f"{error.strerror or error}; make room or give another --checkpoint_dir"
            )
        raise TrainingError(
            f"training ended after epoch {trainer.current_epoch} without a checkpoint: "
            "the validation loss was never finite; lower --learning_rate"
        )
    return Path(saver.best_model_path)


def _outcome(trainer: pl.Trainer) -> TrainedModel:
    saver = next(c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoints))
    path = best_checkpoint(trainer, saver)
    seen = next(c for c in trainer.callbacks if isinstance(c, EpochHistory))  # type: ignore[attr-defined]
    if not seen.epochs:  # It went on from its own end.
        return TrainedModel(checkpoint=path)
    # The epoch of the checkpoint: the disk may have been full at a better one.
    losses = [record.val_loss for record in seen.epochs]
    score = saver.best_model_score
    least = min(losses) if score is None else float(score)
    best = min(range(len(losses)), key=lambda at: abs(losses[at] - least))
    return TrainedModel(
        checkpoint=path,
        history=tuple(seen.epochs),
        best_epoch=seen.epochs[best].epoch,
        metrics={name: v for name, v in seen.metrics[best].items() if name.startswith("val/")},
    )


def validated(
    network: torch.nn.Module, dataset: SessionDataset, options: TrainingOptions
) -> dict[str, float]:
    """The contract's `val/` metrics of a network to export, on the validation part."""
    return _metrics(*answered(network, dataset, options))


@torch.inference_mode()
def answered(
    network: torch.nn.Module,
    dataset: SessionDataset,
    options: TrainingOptions,
    *,
    takes: Sequence[str] = ("features", "arrivals"),
) -> tuple[list[NDArray[Any]], NDArray[np.float64]]:
    """Outputs of a network to export, and the true positions in degrees, `(n, 2)`.

    `takes` are the network's inputs, of those that the sessions have.
    """
    answers, truth_deg = [], []
    for batch in make_loader(dataset, options):
        inputs = [batch[name] for name in takes if name in batch]
        answers.append(network(*inputs))
        truth_deg.append(batch["position_deg"])
    outputs = [torch.cat(part).numpy() for part in zip(*answers, strict=True)]
    return outputs, torch.cat(truth_deg).numpy()


def _metrics(outputs: list[NDArray[Any]], truth_deg: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of a network's outputs by their names on validation."""
    return {f"val/{name}": value for name, value in served_metrics(outputs, truth_deg).items()}
