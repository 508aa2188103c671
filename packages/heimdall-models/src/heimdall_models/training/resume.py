"""Agreement of a checkpoint with the run that goes on from it or exports it.

Within an epoch, a run can only go on with the batches that it began with; everywhere, with the
receivers that its network was trained on, in their order.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import Callback, EarlyStopping

from heimdall_models.checkpoint import RUN_RECORD
from heimdall_models.ensembles import SAME_DB
from heimdall_models.errors import TrainingError
from heimdall_models.trained import RunRecord, Trained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import lightning.pytorch as pl

    from heimdall_models.config import LocalizationConfig
    from heimdall_models.ensembles import EnsembleNet, TimedEnsembleNet
    from heimdall_models.serving import ServingNet, TimedServingNet
    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import RunMetrics, TrainingParts

LOGGER = logging.getLogger(__name__)


def run_record(data: TrainingParts, options: TrainingOptions, run: RunMetrics | None) -> RunRecord:
    """Record of the run that is training, for its checkpoints."""
    ids = "\n".join(session.id for session in data.train.sessions)
    return RunRecord(
        run_id=run.run_id if run else None,
        seed=options.seed,
        batch_size=options.batch_size,
        sessions=hashlib.sha256(ids.encode()).hexdigest(),
        receivers=_names(data),
    )


class RunKeeper(Callback):
    """Writes the run's record into its checkpoints, and refuses to go on from another run's."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record."""
        del trainer, pl_module
        checkpoint[RUN_RECORD] = asdict(self._record)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the checkpoint's run with this one.

        Raises:
            TrainingError: It is of other receivers, or from within an epoch of other batches.
        """
        del trainer, pl_module
        before, now = RunRecord.of(checkpoint), self._record
        _require_receivers("the checkpoint", before.receivers, now.receivers or ())
        differing = [
            f"--{name} {value}"
            for name in ("seed", "batch_size")
            if (value := getattr(before, name)) not in (None, getattr(now, name))
        ]
        if before.sessions not in (None, now.sessions):
            differing.append("other training sessions")
        if not differing:
            return
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        if epoch["ready"] > epoch["processed"]:
            raise TrainingError(
                "the checkpoint is from within an epoch, which must go on with the same batches; "
                f"it began with {' and '.join(differing)}: give the same, or the checkpoint of an "
                "epoch's end"
            )
        LOGGER.warning(
            "before the checkpoint, training was with %s; the result will differ from that of an "
            "uninterrupted run",
            " and ".join(differing),
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if training had already stopped because nothing improved."""
        del pl_module
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set in Trainer.__init__
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True


def require_same_network(checkpoint: Path, network: LocalizationConfig) -> None:
    """Refuse to go on from a checkpoint whose weights do not fit what is to be trained.

    Raises:
        ModelError: The file is not a checkpoint of a single network; see `Trained`.
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


def require_same_features(checkpoints: Sequence[Path], features: str) -> None:
    """Refuse to export checkpoints that take other features than `--features`, or a mix of them.

    Raises:
        TrainingError: `--features` and the checkpoints differ.
        ModelError: A checkpoint is not one of ours, or two cannot be merged.
    """
    trained = Trained.merge(map(Trained.open, checkpoints))
    trained.network()
    first = trained.members[0]
    found = "mel" if first.timing is None else "mel+timing"
    if found != features:
        raise TrainingError(
            f"{first.name} was trained with --features {found}, and --features is "
            f"{features}; give --features {found}, or the checkpoint of another run"
        )


def require_same_receivers(trained: Trained, data: TrainingParts) -> None:
    """Refuse networks of other receivers than the data has, as far as their files name them.

    Raises:
        TrainingError: They are more or fewer, others, or in another order.
    """
    here = _names(data)
    for member in trained.members:
        n_receivers = member.module.config.n_receivers
        if n_receivers != len(here):
            raise TrainingError(
                f"{member.name} listens to {n_receivers} receivers, and the data has {len(here)} "
                f"({', '.join(here)}): give the --receivers it was trained with"
            )
        _require_receivers(member.name, member.receivers, here)


def exported_network(
    trained: Trained, data: TrainingParts
) -> ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet:
    """`Trained.network` after `require_same_receivers`."""
    require_same_receivers(trained, data)
    return trained.network()


def of_other_sessions(trained: Trained, data: TrainingParts) -> list[str]:
    """Names of the networks whose normalisation is of other training sessions than the split's."""
    wanted = data.stats.mean
    return [
        member.name
        for member in trained.members
        if (mean := member.module.standardize.mean.numpy()).shape != wanted.shape
        or not np.allclose(mean, wanted, rtol=0, atol=SAME_DB)
    ]


def warn_of_other_sessions(trained: Trained, data: TrainingParts) -> None:
    """Warn of networks that were trained on other sessions than the split's training part."""
    for name in of_other_sessions(trained, data):
        LOGGER.warning(
            "%s was trained on other sessions than this split's, perhaps on some of those that it "
            "is evaluated on (--seed, --split_by and the fractions make the split)",
            name,
        )


def _names(data: TrainingParts) -> tuple[str, ...]:
    return tuple(station.name for station in data.receivers)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _require_receivers(name: str, trained: Sequence[str] | None, here: Sequence[str]) -> None:
    # Files of earlier versions may spell names decomposed, as macOS does.
    if trained is not None and [*map(_composed, trained)] != [*map(_composed, here)]:
        wanted = " ".join(f"'{receiver}'" for receiver in trained)
        raise TrainingError(
            f"{name} listens to {', '.join(trained)}, and the data has {', '.join(here)}: "
            f"give --receivers {wanted}"
        )
