"""Training of several networks and of what they say together.

Members differ in how they start, in the order of their data and in what dropout leaves out, and in
nothing else: the split, the features and the normalisation are the same. The first has the run's
own seed, and is the network that would be trained alone.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from heimdall_evaluation.report import LearningCurve
from heimdall_trainer.errors import TrainerError, UsageError

from heimdall_models import ModelError
from heimdall_models.trained import Trained, save_ensemble
from heimdall_models.training.checkpoint_files import (
    ENSEMBLE,
    finished_checkpoint,
    member_folder,
    note_finished,
)
from heimdall_models.training.fit import TrainedModel, checkpoints_in, make_loader, validated
from heimdall_models.training.history import LaterSteps
from heimdall_models.training.resume import (
    of_other_sessions,
    require_receivers,
    require_same_receivers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.pipeline import TrainingPipeline

    from heimdall_models import EnsembleNet, TimedEnsembleNet
    from heimdall_models.training.history import RunMetrics
    from heimdall_models.training.parts import TrainingData
    from heimdall_models.training.timing import TimedParts

__all__ = ["member_seed", "merged_model", "train_ensemble"]


def train_ensemble(
    pipeline: TrainingPipeline,
    folder: Path,
    data: TrainingData,
    timed: TimedParts | None,
    metrics: RunMetrics | None,
) -> TrainedModel:
    """Train the members one after another, and merge them.

    Args:
        pipeline: The run, which says how many; each member has a pipeline like it.
        folder: Where their folders are; members that are done there are taken as they are.
        data: The split.
        timed: What their networks of times learn from, if they have one.
        metrics: Where metrics go: each member's behind those of the one before.

    Raises:
        TrainerError: What was trained before is of another seed or of other sessions, or is gone.
        ModelError: Training diverged.
        UsageError: Several processes train.
    """
    if (n_processes := pipeline.create_trainer().world_size) > 1:
        raise UsageError(
            f"--ensemble trains its members in one process, and there are {n_processes}; train "
            "each with a --seed of its own and --devices, and merge them with --export_only "
            "--checkpoint A B"
        )
    configs = _member_configs(pipeline.config, folder)
    for number, config in enumerate(configs, start=1):
        _require_same_sessions(member_folder(folder, number), config, data)
    members = []
    for index, config in enumerate(configs):
        member = type(pipeline)(config, pipeline.connections)
        name = f"member {index + 1} of {pipeline.config.ensemble}, seed {config.seed}"
        later = LaterSteps(metrics, index * _most_steps(config, data)) if metrics else None
        there = member_folder(folder, index + 1)
        with pipeline.stage(name):
            members.append(_train_member(member, there, data, timed, later))
    checkpoints = [member.checkpoint for member in members]
    with pipeline.stage("merging"):
        merged = merged_model(checkpoints, data, pipeline.config, folder / ENSEMBLE, metrics)
    return replace(merged, more_curves=tuple(_curves(members)))


def _curves(members: Sequence[TrainedModel]) -> Iterator[LearningCurve]:
    """Of every member that was trained in this run, under names that tell them apart."""
    for number, member in enumerate(members, start=1):
        name = f"member {number}"
        yield LearningCurve(name=name, history=member.history, best_epoch=member.best_epoch)
        for curve in member.more_curves:
            yield replace(curve, name=f"{name}, {curve.name}")


def _member_configs(config: TrainingConfig, folder: Path) -> list[TrainingConfig]:
    """How each member of an ensemble is trained, into a folder of its own."""
    return [
        replace(
            config,
            ensemble=1,
            seed=member_seed(config.seed, number),
            checkpoint_dir=member_folder(folder, number),
        )
        for number in range(1, config.ensemble + 1)
    ]


def _require_same_sessions(folder: Path, config: TrainingConfig, data: TrainingData) -> None:
    """Find out before hours of training that what is there cannot be merged with what will be."""
    begun = [finished_checkpoint(folder, config.seed), *reversed(checkpoints_in(folder))]
    found = next((path for path in begun if path is not None), None)
    if found is not None and of_other_sessions(found, data):
        raise TrainerError(
            f"{found} was trained on other sessions than this run's, which are not those of then "
            "or are split in another way: give another --checkpoint_dir"
        )


def member_seed(seed: int, number: int) -> int:
    """The seed of a member, counted from 1; the first has the run's."""
    if number == 1:
        return seed
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _train_member(
    member: TrainingPipeline,
    folder: Path,
    data: TrainingData,
    timed: TimedParts | None,
    metrics: RunMetrics | None,
) -> TrainedModel:
    """One member; what of it was trained before is not trained again, and has no history."""
    seed = member.config.seed
    checkpoint = finished_checkpoint(folder, seed)
    if checkpoint is None:
        begun = checkpoints_in(folder) if member.config.resume_training else []
        trained = member.train_spectrograms(data, metrics, begun[-1] if begun else None)
        note_finished(folder, seed, trained.checkpoint)
    else:
        trained = TrainedModel(checkpoint=checkpoint)
    if timed is not None and Trained.open(trained.checkpoint).single.timing is None:
        trained = member.train_times(trained, timed, data, metrics)
        note_finished(folder, seed, trained.checkpoint)
    return trained


def merged_model(
    checkpoints: Sequence[Path],
    data: TrainingData,
    config: TrainingConfig,
    path: Path,
    metrics: RunMetrics | None = None,
) -> TrainedModel:
    """Several trained networks as one model, calibrated on the validation part.

    Args:
        checkpoints: Of single networks or of ensembles.
        data: Its validation part must be new to all of them.
        config: How batches are loaded.
        path: Where the ensemble's checkpoint goes.
        metrics: Where its `val/` metrics go, behind every step of a member's.

    Raises:
        ModelError: A checkpoint is none of ours, or two cannot be merged.
        TrainerError: They listen to other receivers than the data has.
        OSError: The checkpoint cannot be written.
    """
    ensemble = Trained.merge(map(Trained.open, checkpoints))
    require_same_receivers(ensemble, data)
    for checkpoint in checkpoints:
        require_receivers(checkpoint, data)
    network = ensemble.merged()
    _calibrate(network, data, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_ensemble(ensemble, network, path)
    found = _metrics(network, data, config)
    if metrics:
        metrics.log_metrics(found, step=len(checkpoints) * _most_steps(config, data))
    return TrainedModel(checkpoint=path, metrics=found)


def _most_steps(config: TrainingConfig, data: TrainingData) -> int:
    """More than the steps at which a member logs anything."""
    return config.epochs * len(data.train) + 1


def _calibrate(
    network: EnsembleNet | TimedEnsembleNet, data: TrainingData, config: TrainingConfig
) -> None:
    """Weigh the members' disagreement on the validation part, or say that it counts in full."""
    try:
        network.calibrate(make_loader(data.validation, config))
    except ModelError as error:
        print(
            f"warning: the members' disagreement counts in full, not as the validation part has "
            f"it: {error} (raise --validation_split)",
            file=sys.stderr,
            flush=True,
        )


def _metrics(
    network: EnsembleNet | TimedEnsembleNet, data: TrainingData, config: TrainingConfig
) -> dict[str, float]:
    """The contract's `val/` metrics; the loss is in nats per axis and plane units, as always."""
    found = validated(network, data.validation, config)
    scale_km = data.region.scale_m / 1000
    return {**found, "val/loss": found["val/nll"] / 2 - math.log(scale_km)}
