"""What is kept of a task on disk, under its id: its order, checkpoints, progress and end.

The folder outlives the worker, so that a worker that takes the task over finds all of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from heimdall_export.atomic import write_whole

from heimdall_trainer.errors import TrainerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Job", "JobFolder", "Outcome", "Progress"]

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a task asks for."""

    settings: Mapping[str, Any]
    """Flags of `heimdall train` by name."""
    export: bool = False
    """Export a checkpoint instead of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task is."""

    stage: str
    run_id: str | None = None
    """MLflow's id of the run, once there is one."""
    epoch: int = 0
    """Epochs that are done."""
    epochs: int | None = None
    """Epochs that there are at most."""
    seconds_left: float | None = None
    """Of training, were it to go through all epochs."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last epoch, by the contract's names; those that are not finite are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended: with the summary of its run, or with an error."""

    summary: Mapping[str, Any] | None = None
    error: str | None = None


class JobFolder:
    """The folder of one task.

    Attributes:
        path: The folder; made by `save`.
        task_id: The task.
        checkpoints: Where its checkpoints go, unless the task names a folder.
        lock: Locked by the process that trains.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task_id = path.name
        self.checkpoints = path / "checkpoints"
        self.lock = path / "running.lock"

    @classmethod
    def of(cls, state_directory: Path, task_id: str) -> JobFolder:
        """The folder of a task under the state directory.

        Raises:
            UsageError: The id cannot be the name of a folder.
        """
        if not _ID.fullmatch(task_id):
            raise UsageError(
                f"task id {task_id!r} cannot name a folder; use letters, digits, dots, hyphens "
                "and underscores, 128 at most, no dot first"
            )
        return cls(state_directory / "jobs" / task_id)

    def save(self, job: Job) -> None:
        """Keep the order.

        Raises:
            OSError: It cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write("job.json", asdict(job))

    def job(self) -> Job:
        """The order.

        Raises:
            TrainerError: There is none.
        """
        found = self._read("job.json")
        if found is None:
            raise TrainerError(f"{self.path} is no folder of a task: it has no job.json")
        return Job(**found)

    def starts(self) -> int:
        """How many times in a row the training was begun without coming to any end."""
        return int((self._read("starts.json") or {"starts": 0})["starts"])

    def count_start(self) -> None:
        """Count a start, before it is known how it ends."""
        self._write("starts.json", {"starts": self.starts() + 1})

    def forget_starts(self) -> None:
        """Whatever ended the training, it was no crash."""
        (self.path / "starts.json").unlink(missing_ok=True)

    def report(self, progress: Progress) -> None:
        """Keep how far it is."""
        self._write("progress.json", asdict(progress))

    def progress(self) -> Progress | None:
        """How far it is, if that was ever said."""
        found = self._read("progress.json")
        return None if found is None else Progress(**found)

    def end(self, outcome: Outcome) -> None:
        """Keep how it ended."""
        self._write("outcome.json", asdict(outcome))

    def outcome(self) -> Outcome | None:
        """How it ended, if it has."""
        found = self._read("outcome.json")
        return None if found is None else Outcome(**found)

    def reopen(self) -> None:
        """Forget how it ended: it is to go on."""
        (self.path / "outcome.json").unlink(missing_ok=True)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content) + "\n", mode=0o600)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            text = (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise TrainerError(f"{self.path / name} is damaged ({error}); delete it") from error
