"""What a checkpoint knows of its run: which one in MLflow, and how its batches are made.

A run that was stopped and goes on is one run. And in the middle of an epoch it can only go on with
the batches that it began with.

The network that a checkpoint's model file holds: one or an ensemble, with times or without.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.callbacks import Callback, EarlyStopping

from heimdall_models.ensembles import SAME_DB
from heimdall_models.errors import TrainingError
from heimdall_models.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any, Self

    import lightning.pytorch as pl

    from heimdall_models import EnsembleNet, ServingNet, TimedEnsembleNet, TimedServingNet
    from heimdall_models.config import LocalizationConfig
    from heimdall_models.trained import Member
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, TrainingParts

__all__ = [
    "RunIdentity",
    "RunKeeper",
    "batch_size_of",
    "exported_network",
    "of_other_sessions",
    "receivers_of",
    "require_receivers",
    "require_same_features",
    "require_same_network",
    "require_same_receivers",
    "run_of",
    "warn_of_other_sessions",
]


LOGGER = logging.getLogger(__name__)
RECORD = "heimdall_run"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Which run a checkpoint is of."""

    run_id: str | None
    """MLflow's; None of a run without."""
    seed: int
    batch_size: int
    """Of all processes together."""
    sessions: str
    """A hash of the training sessions in their order."""
    receivers: tuple[str, ...]
    """Names, in channel order."""

    @classmethod
    def of(cls, data: TrainingParts, config: TrainingOptions, run: RunMetrics | None) -> Self:
        """Of the run that is training."""
        ids = "\n".join(session.id for session in data.train.sessions)
        return cls(
            run_id=run.run_id if run else None,
            seed=config.seed,
            batch_size=config.batch_size,
            sessions=hashlib.sha256(ids.encode()).hexdigest(),
            receivers=tuple(station.name for station in data.receivers),
        )


def require_same_network(checkpoint: Path, network: LocalizationConfig) -> None:
    """Find out whether a checkpoint's weights fit what is to be trained, before data are read.

    Raises:
        ModelError: The file is absent, cut short, or no checkpoint.
        TrainingError: It is of another backbone, or has another form of ellipses.
    """
    begun = Trained.open(checkpoint).single.module.config
    for name in ("backbone", "tilted"):
        before, now = getattr(begun, name), getattr(network, name)
        if before != now:
            raise TrainingError(
                f"{checkpoint} was trained with {name} {before}, and this training has {now}: "
                "go on with the flags that it began with"
            )


def run_of(checkpoint: Path) -> str | None:
    """MLflow's id of the run that a checkpoint is of, if it is of one.

    Raises:
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    return Trained.open(checkpoint).members[0].run.run_id


def batch_size_of(checkpoint: Path) -> int | None:
    """How many sessions a step had in the run that a checkpoint is of, if it says so.

    Raises:
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    return Trained.open(checkpoint).members[0].run.batch_size


def receivers_of(checkpoint: Path) -> tuple[str, ...] | None:
    """Names of the receivers, in channel order; None where the checkpoint does not say.

    Raises:
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    return Trained.open(checkpoint).members[0].run.receivers


def require_receivers(checkpoint: Path, data: TrainingParts) -> None:
    """Refuse data of other receivers than a checkpoint's network listens to, as far as it says.

    Raises:
        TrainingError: They are others, or in another order.
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    heard = receivers_of(checkpoint)
    here = tuple(station.name for station in data.receivers)
    if heard is not None and heard != here:
        raise _told_apart(checkpoint.name, heard, here)


def _told_apart(name: str, heard: Sequence[str], here: Sequence[str]) -> TrainingError:
    """The error of a network that listens to others than the data's receivers."""
    wanted = " ".join(f"'{receiver}'" for receiver in heard)
    return TrainingError(
        f"{name} listens to {', '.join(heard)}, and the data has {', '.join(here)}: "
        f"give --receivers {wanted}"
    )


class RunKeeper(Callback):
    """Notes in every checkpoint of which run it is, and goes on with checkpoints of ours alone.

    Args:
        identity: Of the run that is training.
    """

    def __init__(self, identity: RunIdentity) -> None:
        self._identity = identity

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the run."""
        del trainer, pl_module
        checkpoint[RECORD] = asdict(self._identity)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the checkpoint's run with ours.

        Raises:
            TrainingError: The checkpoint is of other receivers, or from within an epoch of other
                batches than ours.
        """
        del trainer, pl_module
        record = checkpoint.get(RECORD, {})
        heard = tuple(record.get("receivers", self._identity.receivers))
        if heard != self._identity.receivers:
            raise _told_apart("the checkpoint", heard, self._identity.receivers)
        differing = list(self._differing(record))
        if not differing:
            return
        said = " and ".join(differing)
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        if epoch["ready"] > epoch["processed"]:
            raise TrainingError(
                f"the checkpoint is from within an epoch, which goes on with the batches that it "
                f"began with, and they were made with {said}; give the same, or the checkpoint of "
                "an epoch's end"
            )
        LOGGER.warning(
            "before the checkpoint, training was with %s; the result will differ from that of an "
            "uninterrupted run",
            said,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where training had stopped because nothing improved."""
        del pl_module
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set in Trainer.__init__
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True

    def _differing(self, record: dict[str, Any]) -> Iterator[str]:
        for name, said in (("seed", "--seed"), ("batch_size", "--batch_size")):
            if name in record and record[name] != getattr(self._identity, name):
                yield f"{said} {record[name]}"
        if record.get("sessions", self._identity.sessions) != self._identity.sessions:
            yield "other training sessions"


def exported_network(
    checkpoint: Path, data: TrainingParts
) -> ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet:
    """What to export of a checkpoint, in evaluation mode.

    Raises:
        ModelError: The checkpoint is not one of ours.
        TrainingError: The model listens to other receivers than the data has, or takes arrival
            times that the data has not.
    """
    ensemble = Trained.open(checkpoint)
    require_same_receivers(ensemble, data)
    require_receivers(checkpoint, data)
    return ensemble.network()


def require_same_features(checkpoints: Sequence[Path], features: str) -> None:
    """Refuse to export checkpoints of other features than they were trained on, or of several.

    Raises:
        TrainingError: `--features` and the checkpoints differ.
        ModelError: A checkpoint is not one of ours, or two cannot be merged.
    """
    ensemble = Trained.merge(map(Trained.open, checkpoints))
    ensemble.network()
    first = ensemble.members[0]
    found = "mel" if first.timing is None else "mel+timing"
    if found != features:
        raise TrainingError(
            f"{first.name} was trained with --features {found}, and --features is "
            f"{features}; give --features {found}, or the checkpoint of another run"
        )


def require_same_receivers(ensemble: Trained, data: TrainingParts) -> None:
    """Refuse networks that listen to other receivers than the data has, as far as they know.

    Raises:
        TrainingError: They are more or fewer, or stand elsewhere or in another order.
    """
    for member in ensemble.members:
        _require_same_number(member, data)
        _require_same_order(member, data)


def of_other_sessions(checkpoint: Path, data: TrainingParts) -> list[str]:
    """Names of the networks in a checkpoint that were trained on others than the split's part.

    Their normalisation tells.

    Raises:
        ModelError: The checkpoint is not one of ours.
    """
    wanted = data.stats.mean
    return [
        member.name
        for member in Trained.open(checkpoint).members
        if (mean := member.module.standardize.mean.numpy()).shape != wanted.shape
        or not np.allclose(mean, wanted, rtol=0, atol=SAME_DB)
    ]


def warn_of_other_sessions(checkpoint: Path, data: TrainingParts) -> None:
    """Say so where networks were trained on other sessions than the split's training part.

    Raises:
        ModelError: The checkpoint is not one of ours.
    """
    for name in of_other_sessions(checkpoint, data):
        LOGGER.warning(
            "%s was trained on other sessions than this split's; some of those that it is judged "
            "by may be among them (--seed, --split_by and the fractions make the split)",
            name,
        )


def _require_same_number(member: Member, data: TrainingParts) -> None:
    n_receivers = member.module.config.n_receivers
    if n_receivers != len(data.receivers):
        names = ", ".join(station.name for station in data.receivers)
        raise TrainingError(
            f"the checkpoint listens to {n_receivers} receivers, and the data has "
            f"{len(data.receivers)} ({names}): give the --receivers it was trained with"
        )


def _require_same_order(member: Member, data: TrainingParts) -> None:
    """A network of times knows where each of its receivers stands."""
    here = [station.name for station in data.receivers]
    if member.sites is not None and [site.name for site in member.sites] != here:
        names = " ".join(f"'{site.name}'" for site in member.sites)
        raise TrainingError(
            f"the checkpoint takes arrival times of other receivers than {', '.join(here)}, or of "
            f"these in another order: give --receivers {names}"
        )
