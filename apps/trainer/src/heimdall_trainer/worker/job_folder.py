"""Record of a task on disk, under its id: its order, checkpoints, progress and outcome.

The folder outlives the worker, so that a worker that takes over the task finds all of it.
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

__all__ = ["BUSY", "Job", "JobFolder", "Outcome", "Progress"]

BUSY = 75
"""Exit status of a training process: another one trains for this task already."""
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Order of a task."""

    settings: Mapping[str, Any]
    """Flags of `heimdall train` by name."""
    export: bool = False
    """Export a checkpoint instead of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a task."""

    stage: str
    run_id: str | None = None
    """MLflow's id of the run, once there is one."""
    epoch: int = 0
    """Epochs that are done."""
    epochs: int | None = None
    """Epochs that there are at most."""
    seconds_left: float | None = None
    """Of training, if it goes through all epochs."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last epoch, by the contract's names; only finite ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a task: the summary of its run, or an error."""

    summary: Mapping[str, Any] | None = None
    error: str | None = None


class JobFolder:
    """The folder of one task.

    Attributes:
        path: The folder; made by `save`.
        task_id: The task.
        checkpoints: Folder of its checkpoints, unless the task names one.
        lock: File that the process that trains holds locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.task_id = path.name
        self.checkpoints = path / "checkpoints"
        self.lock = path / "running.lock"

    @classmethod
    def of(cls, state_directory: Path, task_id: str) -> JobFolder:
        """Return the folder of a task under the state directory.

        Raises:
            UsageError: The id cannot be the name of a folder.
        """
        if not _ID.fullmatch(task_id):
            raise UsageError(
                f"task id {task_id!r} cannot name a folder; use at most 128 letters, digits, "
                "dots, hyphens and underscores, without a dot at the start"
            )
        return cls(state_directory / "jobs" / task_id)

    def save(self, job: Job) -> None:
        """Write the order.

        Raises:
            OSError: It cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write("job.json", asdict(job))

    def job(self) -> Job:
        """Return the order.

        Raises:
            TrainerError: There is none.
        """
        found = self._read("job.json")
        if found is None:
            raise TrainerError(f"{self.path} is not the folder of a task: it has no job.json")
        return Job(**found)

    def starts(self) -> int:
        """Count the starts in a row that ended in a crash, of the training or of its worker."""
        return int((self._read("starts.json") or {"starts": 0})["starts"])

    def count_start(self) -> None:
        """Count a start, before it is known how it ends."""
        self._write("starts.json", {"starts": self.starts() + 1})

    def forget_starts(self) -> None:
        """Start counting anew, after an end that was no crash."""
        (self.path / "starts.json").unlink(missing_ok=True)

    def report(self, progress: Progress) -> None:
        """Write the progress."""
        self._write("progress.json", asdict(progress))

    def progress(self) -> Progress | None:
        """Return the progress, if there was any."""
        found = self._read("progress.json")
        return None if found is None else Progress(**found)

    def end(self, outcome: Outcome) -> None:
        """Write the outcome."""
        self._write("outcome.json", asdict(outcome))

    def outcome(self) -> Outcome | None:
        """Return the outcome, if there is one."""
        found = self._read("outcome.json")
        return None if found is None else Outcome(**found)

    def reopen(self) -> None:
        """Delete the outcome, so that the task goes on."""
        (self.path / "outcome.json").unlink(missing_ok=True)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(content) + "\n", mode=0o600)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise TrainerError(f"{self.path / name} is damaged ({error}); delete it") from error
