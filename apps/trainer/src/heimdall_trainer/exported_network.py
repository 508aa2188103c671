"""The network that a checkpoint's model file holds: one or an ensemble, with times or without."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models.ensemble_checkpoint import Ensemble
from heimdall_models.ensembles import SAME_DB

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.resumption import require_receivers

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_models import EnsembleNet, ServingNet, TimedEnsembleNet, TimedServingNet
    from heimdall_models.ensemble_checkpoint import Member

    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = [
    "exported_network",
    "of_other_sessions",
    "require_same_features",
    "require_same_receivers",
    "warn_of_other_sessions",
]


def exported_network(
    checkpoint: Path, data: TrainingData
) -> ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet:
    """What to export of a checkpoint, in evaluation mode.

    Raises:
        ModelError: The checkpoint is not one of ours.
        TrainerError: The model listens to other receivers than the data has, or takes arrival
            times that the data has not.
    """
    ensemble = Ensemble.load(checkpoint)
    require_same_receivers(ensemble, data)
    require_receivers(checkpoint, data)
    return ensemble.network()


def require_same_features(config: TrainingConfig) -> None:
    """Refuse to export checkpoints of other features than they were trained on, or of several.

    Raises:
        TrainerError: `--features` and the checkpoints differ.
        ModelError: A checkpoint is not one of ours, or two cannot be merged.
    """
    ensemble = Ensemble.of(config.checkpoint)
    ensemble.network()
    first = ensemble.members[0]
    found = "mel" if first.timing is None else "mel+timing"
    if found != config.features:
        raise TrainerError(
            f"{first.name} was trained with --features {found}, and --features is "
            f"{config.features}; give --features {found}, or the checkpoint of another run"
        )


def require_same_receivers(ensemble: Ensemble, data: TrainingData) -> None:
    """Refuse networks that listen to other receivers than the data has, as far as they know.

    Raises:
        TrainerError: They are more or fewer, or stand elsewhere or in another order.
    """
    for member in ensemble.members:
        _require_same_number(member, data)
        _require_same_order(member, data)


def of_other_sessions(checkpoint: Path, data: TrainingData) -> list[str]:
    """Names of the networks in a checkpoint that were trained on others than the split's part.

    Their normalisation tells.

    Raises:
        ModelError: The checkpoint is not one of ours.
    """
    wanted = data.stats.mean
    return [
        member.name
        for member in Ensemble.load(checkpoint).members
        if (mean := member.module.standardize.mean.numpy()).shape != wanted.shape
        or not np.allclose(mean, wanted, rtol=0, atol=SAME_DB)
    ]


def warn_of_other_sessions(checkpoint: Path, data: TrainingData) -> None:
    """Say so where networks were trained on other sessions than the split's training part.

    Raises:
        ModelError: The checkpoint is not one of ours.
    """
    for name in of_other_sessions(checkpoint, data):
        print(
            f"warning: {name} was trained on other sessions than this split's; some of those that "
            "it is judged by may be among them (--seed, --split_by and the fractions make the "
            "split)",
            file=sys.stderr,
            flush=True,
        )


def _require_same_number(member: Member, data: TrainingData) -> None:
    n_receivers = member.module.config.n_receivers
    if n_receivers != len(data.receivers):
        names = ", ".join(station.name for station in data.receivers)
        raise TrainerError(
            f"the checkpoint listens to {n_receivers} receivers, and the data has "
            f"{len(data.receivers)} ({names}): give the --receivers it was trained with"
        )


def _require_same_order(member: Member, data: TrainingData) -> None:
    """A network of times knows where each of its receivers stands."""
    here = [station.name for station in data.receivers]
    if member.sites is not None and [site.name for site in member.sites] != here:
        names = " ".join(f"'{site.name}'" for site in member.sites)
        raise TrainerError(
            f"the checkpoint takes arrival times of other receivers than {', '.join(here)}, or of "
            f"these in another order: give --receivers {names}"
        )
