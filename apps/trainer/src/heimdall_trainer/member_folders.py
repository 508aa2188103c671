"""Where the members of an ensemble are while it is trained, and which of them are done.

Every member has a folder of its own, `member-1` and on, with the checkpoints of any run. What a
member has come to is noted beside them, so that a run that was interrupted does not train it again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "ENSEMBLE",
    "finished_checkpoint",
    "is_in_member",
    "member_folder",
    "newest_of_members",
    "note_finished",
    "require_fresh",
    "started_ensemble",
]

ENSEMBLE = "ensemble.ckpt"
"""The members in one file, beside their folders."""
PREFIX = "member-"
NOTE = "finished.json"


def member_folder(folder: Path, number: int) -> Path:
    """Where the member of this number, counted from 1, keeps its checkpoints."""
    return folder / f"{PREFIX}{number}"


def is_in_member(path: Path) -> bool:
    """Whether a relative path leads through a member's folder."""
    return any(part.startswith(PREFIX) for part in path.parts[:-1])


def note_finished(folder: Path, seed: int, checkpoint: Path) -> None:
    """Note in a member's folder what its training came to."""
    note = {"seed": seed, "checkpoint": checkpoint.name}
    write_whole(folder / NOTE, json.dumps(note) + "\n")


def finished_checkpoint(folder: Path, seed: int) -> Path | None:
    """The checkpoint that a member's training came to; None if it did not end.

    Raises:
        TrainerError: The member was trained with another seed, or its checkpoint is gone.
    """
    path = folder / NOTE
    if not path.exists():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        found, checkpoint = note["seed"], folder / str(note["checkpoint"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path} does not say what was trained: {error}") from error
    if found != seed:
        raise TrainerError(
            f"{folder} was trained with seed {found}, and this run's member has {seed}: resume "
            "with the same --seed, or give another --checkpoint_dir"
        )
    if not checkpoint.is_file():
        raise TrainerError(f"{checkpoint} is gone; delete {folder} to train this member again")
    return checkpoint


def require_fresh(folder: Path) -> None:
    """Refuse to train an ensemble among the members of an earlier one.

    Raises:
        TrainerError: There are some.
    """
    if any(path.parent.parent == folder for path in _checkpoints(folder)):
        raise TrainerError(
            f"{folder} has members of an earlier ensemble: go on with --resume_training, or give "
            "another --checkpoint_dir"
        )


def started_ensemble(folder: Path) -> Path:
    """The ensemble in or below a folder whose training wrote a checkpoint last.

    Raises:
        TrainerError: There is none.
    """
    return newest_of_members(folder).parent.parent


def newest_of_members(folder: Path) -> Path:
    """The checkpoint of any member in or below a folder that was written last.

    Raises:
        TrainerError: There is none.
    """
    newest = max(_checkpoints(folder), key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        raise TrainerError(
            f"no ensemble to resume in {folder}: give --checkpoint_dir, or leave out "
            "--resume_training"
        )
    return newest


def _checkpoints(folder: Path) -> Iterator[Path]:
    return folder.rglob(f"{PREFIX}*/*.ckpt")
