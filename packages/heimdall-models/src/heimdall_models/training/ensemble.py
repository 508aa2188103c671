"""Training of several networks, and merging them into one model.

Members differ only in their random start, the order of their data and their dropout; the split,
the features and the normalisation are the same. The first has the run's own seed, and is the
network that would be trained alone.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from heimdall_models.errors import ModelError, TrainingError
from heimdall_models.trained import Trained, save_ensemble
from heimdall_models.training.batches import make_loader
from heimdall_models.training.checkpoint_files import (
    ENSEMBLE,
    checkpoints_in,
    finished_checkpoint,
    member_folder,
    note_finished,
)
from heimdall_models.training.curves import LearningCurve
from heimdall_models.training.fit import TrainedModel, validated
from heimdall_models.training.history import PartOfRun
from heimdall_models.training.resume import of_other_sessions, require_same_receivers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, TrainingParts
    from heimdall_models.training.timing import TimedParts

LOGGER = logging.getLogger(__name__)


def train_ensemble(
    member: Callable[[int, Path], Any],
    stage: Callable[[str], AbstractContextManager[None]],
    options: TrainingOptions,
    folder: Path,
    data: TrainingParts,
    timed: TimedParts | None = None,
    metrics: RunMetrics | None = None,
    *,
    resume: bool = False,
) -> TrainedModel:
    """Train the members one after another, and merge them; finished ones are not trained again.

    Args:
        member: Makes a training, with methods `train_spectrograms` and `train_times`, of one
            member from its seed and folder.
        stage: Context of a named step of the run.
        options: How many members, and the seed of the first.
        folder: Parent of their folders.
        data: The split.
        timed: Sessions for their networks of times, if they have one.
        metrics: Where metrics go: each member's after those of the one before.
        resume: Go on with a member that has begun.

    Raises:
        TrainingError: An earlier member has another seed or other sessions, or is gone.
        ModelError: Training diverged.
    """
    seeds = [member_seed(options.seed, number) for number in range(1, options.ensemble + 1)]
    for number, seed in enumerate(seeds, start=1):
        _require_same_sessions(member_folder(folder, number), seed, data)
    checkpoints, curves = [], []
    for number, seed in enumerate(seeds, start=1):
        own, name = member_folder(folder, number), f"member {number}"
        first_step = (number - 1) * _most_steps(options, data)
        part = PartOfRun(run=metrics, first_step=first_step) if metrics else None
        with stage(f"{name} of {options.ensemble}, seed {seed}"):
            one, finished = member(seed, own), finished_checkpoint(own, seed)
            if finished is None:
                begun = checkpoints_in(own) if resume else []
                trained = one.train_spectrograms(data, part, begun[-1] if begun else None)
                note_finished(own, seed, trained.checkpoint)
            else:
                trained = TrainedModel(checkpoint=finished)
            if timed is not None and Trained.open(trained.checkpoint).single.timing is None:
                trained = one.train_times(trained, timed, data, part)
                note_finished(own, seed, trained.checkpoint)
        checkpoints.append(trained.checkpoint)
        curves += [
            LearningCurve(name=name, history=trained.history, best_epoch=trained.best_epoch),
            *(replace(curve, name=f"{name}, {curve.name}") for curve in trained.more_curves),
        ]
    with stage("merging"):
        merged = merged_model(checkpoints, data, options, folder / ENSEMBLE, metrics)
    return replace(merged, more_curves=tuple(curves))


def member_seed(seed: int, number: int) -> int:
    """The seed of a member, counted from 1; the first has the run's."""
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return seed if number == 1 else own


def _require_same_sessions(folder: Path, seed: int, data: TrainingParts) -> None:
    """Refuse, before hours of training, members that cannot be merged with new ones."""
    begun = [finished_checkpoint(folder, seed), *reversed(checkpoints_in(folder))]
    found = next((path for path in begun if path is not None), None)
    if found is not None and of_other_sessions(Trained.open(found), data):
        raise TrainingError(
            f"{found} was trained on other sessions than this run's: the catalogue or the split "
            "has changed; give another --checkpoint_dir"
        )


def merged_model(
    checkpoints: Sequence[Path],
    data: TrainingParts,
    options: TrainingOptions,
    path: Path,
    metrics: RunMetrics | None = None,
) -> TrainedModel:
    """Networks or ensembles in checkpoints as one model, calibrated on the validation part.

    The ensemble's checkpoint is written to `path`, its metrics are logged after all members'.

    Raises:
        ModelError: A file is not a checkpoint of ours, or two cannot be merged.
        TrainingError: They listen to other receivers than the data has.
        OSError: The checkpoint cannot be written.
    """
    ensemble = Trained.merge(map(Trained.open, checkpoints))
    require_same_receivers(ensemble, data)
    network = ensemble.merged()
    try:
        network.calibrate(make_loader(data.validation, options))
    except ModelError as error:
        reason = f"{error} (raise --validation_split)"
        LOGGER.warning("ensemble disagreement is not calibrated: %s", reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_ensemble(ensemble, network, path)
    found = validated(network, data.validation, options)
    # In nats per axis and plane units, as the loss of a single network.
    found["val/loss"] = found["val/nll"] / 2 - math.log(data.region.scale_m / 1000)
    if metrics:
        metrics.log_metrics(found, step=len(checkpoints) * _most_steps(options, data))
    return TrainedModel(checkpoint=path, metrics=found)


def _most_steps(options: TrainingOptions, data: TrainingParts) -> int:
    """More than the steps at which a member logs anything."""
    return options.epochs * len(data.train) + 1
