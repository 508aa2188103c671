"""Checkpoints on disk: writing them whole, finding the newest, and the folders of an ensemble.

Lightning writes to the system's temporary folder and copies the file where that is another disk:
a run killed during the copy would lose the previous checkpoint too. Here, a checkpoint is written
beside its place and moved there.

Each member of an ensemble has a folder, `member-1` and on, with the checkpoints of any run and a
note of its final one, so that an interrupted run does not train it again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from heimdall_models.checkpoint import read_checkpoint, whole_file, write_checkpoint
from heimdall_models.errors import TrainingError
from heimdall_models.training.divergence import DIVERGED

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from typing import Any

    import lightning.pytorch as pl
    from torch import Tensor

__all__ = [
    "ENSEMBLE",
    "STEP",
    "WITH_TIMING",
    "BestCheckpoints",
    "WholeCheckpoints",
    "checkpoints_in",
    "finished_checkpoint",
    "member_folder",
    "newest_checkpoint",
    "newest_of_members",
    "note_finished",
    "refused",
    "require_fresh",
    "started_ensemble",
]

LOGGER = logging.getLogger(__name__)
STEP = "step.ckpt"
"""The newest state within an epoch."""
WITH_TIMING = "with-timing.ckpt"
"""The best checkpoint with the network of times added; training cannot go on from it."""
ENSEMBLE = "ensemble.ckpt"
"""The members in one file, beside their folders."""
MEMBER = "member-"
NOTE = "finished.json"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all; training goes on when the disk is full.

    Attributes:
        refused: The error of a checkpoint that could not be written, by its path.
    """

    def __init__(self) -> None:
        self.refused: dict[str, OSError] = {}

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: object = None,
    ) -> None:
        """Write a checkpoint, or warn that it cannot be written; an earlier one then stays."""
        del storage_options
        place = Path(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, place)
            self.refused.pop(str(place), None)
        except (OSError, RuntimeError) as error:
            reason = _os_error(error)
            self.refused[str(place)] = reason
            LOGGER.warning(
                "checkpoint %s cannot be written (%s); training goes on, and earlier checkpoints "
                "stay: make room in %s",
                place,
                reason.strerror or reason,
                place.parent,
            )

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: object = None,
        weights_only: bool | None = None,  # noqa: FBT001 - Lightning's
    ) -> dict[str, Any]:
        """Contents of a checkpoint, on the CPU; see `read_checkpoint`."""
        del map_location, weights_only
        return read_checkpoint(Path(path))


class BestCheckpoints(ModelCheckpoint):
    """Lightning's best checkpoints, without those that could not be written."""

    def _save_topk_checkpoint(
        self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        before = {**self.state_dict(), "best_k_models": dict(self.best_k_models)}
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if trainer.strategy.broadcast(not refused(trainer).keys().isdisjoint(self.best_k_models)):
            self.load_state_dict(before)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        """Keep a checkpoint whose successor could not be written."""
        is_written = current not in refused(trainer)
        return is_written and super()._should_remove_checkpoint(trainer, previous, current)


def refused(trainer: pl.Trainer) -> dict[str, OSError]:
    """Errors of the checkpoints that could not be written, by their paths."""
    files = trainer.strategy.checkpoint_io
    return files.refused if isinstance(files, WholeCheckpoints) else {}


def _os_error(error: OSError | RuntimeError) -> OSError:
    """The system's error, which torch's writer hides behind one of its own; or raise the error."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return found
        found = found.__cause__ or found.__context__
    raise error


def newest_checkpoint(folder: Path) -> Path:
    """The last of `checkpoints_in` a folder.

    Raises:
        TrainingError: There is none.
    """
    found = checkpoints_in(folder)
    if not found:
        raise TrainingError(f"no checkpoint to resume from in {folder}: give one with --checkpoint")
    return found[-1]


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder that training can go on from, oldest first.

    Excluded are states before a divergence, files with times or an ensemble, and the members of an
    ensemble below the folder.
    """
    good = (
        path
        for path in folder.rglob("*.ckpt")
        if path.name not in (DIVERGED, WITH_TIMING)
        and not path.name.endswith(ENSEMBLE)
        and not any(part.startswith(MEMBER) for part in path.relative_to(folder).parts[:-1])
    )
    return sorted(good, key=_written_ns)


def member_folder(folder: Path, number: int) -> Path:
    """Folder of the checkpoints of one member, counted from 1."""
    return folder / f"{MEMBER}{number}"


def note_finished(folder: Path, seed: int, checkpoint: Path) -> None:
    """Note in a member's folder the checkpoint that its training ended with."""
    note = {"seed": seed, "checkpoint": checkpoint.name}
    with whole_file(folder / NOTE) as file:
        file.write(f"{json.dumps(note)}\n".encode())


def finished_checkpoint(folder: Path, seed: int) -> Path | None:
    """The checkpoint that a member's training ended with; None if it did not end.

    Raises:
        TrainingError: The member was trained with another seed, or its checkpoint is gone.
    """
    path = folder / NOTE
    if not path.exists():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        found, checkpoint = note["seed"], folder / str(note["checkpoint"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} does not say what was trained: {error}") from error
    if found != seed:
        raise TrainingError(
            f"{folder} was trained with seed {found}, and this run's member has {seed}: resume "
            "with the same --seed, or give another --checkpoint_dir"
        )
    if not checkpoint.is_file():
        raise TrainingError(f"{checkpoint} is gone; delete {folder} to train this member again")
    return checkpoint


def require_fresh(folder: Path) -> None:
    """Refuse to train an ensemble among the members of an earlier one.

    Raises:
        TrainingError: There are some.
    """
    if any(path.parent.parent == folder for path in _of_members(folder)):
        raise TrainingError(
            f"{folder} has members of an earlier ensemble: go on with --resume_training, or give "
            "another --checkpoint_dir"
        )


def started_ensemble(folder: Path) -> Path:
    """Folder of the ensemble that `newest_of_members` belongs to."""
    return newest_of_members(folder).parent.parent


def newest_of_members(folder: Path) -> Path:
    """The newest checkpoint of any member of an ensemble in or below a folder.

    Raises:
        TrainingError: There is none.
    """
    newest = max(_of_members(folder), key=_written_ns, default=None)
    if newest is None:
        raise TrainingError(
            f"no ensemble to resume in {folder}: give --checkpoint_dir, or leave out "
            "--resume_training"
        )
    return newest


def _of_members(folder: Path) -> Iterator[Path]:
    return folder.rglob(f"{MEMBER}*/*.ckpt")


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
