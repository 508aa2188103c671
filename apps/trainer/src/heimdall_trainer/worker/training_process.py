"""The process that trains for a task: `heimdall train`, with its progress and outcome in files.

They are in the task's folder, which outlives the worker: `job.json` is the order, `progress.json`
the progress, and `outcome.json` the summary of the run or its error.

Standard input is a pipe that the worker holds open. When the worker dies, however it dies, the pipe
closes and the training ends as at SIGTERM, with a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from heimdall_export.atomic import write_whole

from heimdall_trainer.errors import TrainerError, describe
from heimdall_trainer.events import LOGGER
from heimdall_trainer.worker.payload import in_folder, training_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections


def write_json(path: Path, content: object) -> None:
    """Write a file of the task's folder whole, for its owner alone."""
    write_whole(path, json.dumps(content) + "\n", mode=0o600)


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON
    """Content of a file of the task's folder; None if there is no such file.

    Raises:
        TrainerError: The file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise TrainerError(f"{path} is damaged; delete it") from error


def run_job(
    folder: Path,
    connections: Connections,
    train: Callable[[TrainingConfig, Connections], None],
) -> None:
    """Carry out the order in a task's folder, and write the outcome into the folder.

    An order that is over only has the run of its killed training marked in MLflow.

    Args:
        folder: The task's folder; its name is the id of the task.
        connections: Addresses of all servers.
        train: Function that trains and logs events.

    Raises:
        ValueError: An error of the pipeline; it is in the outcome, too.
    """
    if (job := read_json(folder / "job.json")) is None:
        raise TrainerError(f"{folder} is not the folder of a task: it has no job.json")
    if job.get("is_over"):
        from heimdall_export.tracking.client import open_client
        from heimdall_export.tracking.run import end_killed_runs

        end_killed_runs(open_client(connections.tracking_uri()), connections.outbox())
        return
    config = in_folder(training_config(job["settings"], export=job["export"]), folder)
    given = config.checkpoint_dir
    own = folder / "checkpoints" if given is None else given / folder.name
    config = replace(config, checkpoint_dir=own)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # One of Lightning's further processes; the first one reports.
        train(config, connections)
        return
    threading.Thread(target=_end_with_worker, daemon=True, name="end-with-worker").start()
    handler = EventFiles(folder)
    LOGGER.addHandler(handler)
    try:
        own.mkdir(parents=True, exist_ok=True)
        train(config, connections)
    except Exception as error:
        write_json(folder / "outcome.json", {"error": describe(error)})
        raise
    finally:
        LOGGER.removeHandler(handler)


def _end_with_worker() -> None:
    """End as at SIGTERM when the pipe at standard input closes."""
    # Not `sys.stdin`, whose lock would be held while the interpreter ends.
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class EventFiles(logging.Handler):
    """Writes the progress and the summary of a run from its events."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._progress: dict[str, Any] = {"stage": "checking"}

    def emit(self, record: logging.LogRecord) -> None:
        """Write what is new with an event."""
        event, figures = getattr(record, "event", ""), getattr(record, "figures", {})
        new: dict[str, Any] = {}
        if event == "result":
            write_json(self._folder / "outcome.json", {"summary": figures})
        elif event == "stage" and figures["state"] == "begun":
            new = {"stage": figures["stage"]}
        elif event == "run":
            new = {"run_id": figures["run_id"]}
        elif event == "epoch" and "seconds_left" in figures:
            new = {name: figures[name] for name in ("epoch", "epochs")}
            new["seconds_left"] = round(figures["seconds_left"], 1)
            new["metrics"] = {
                name: value
                for name, value in figures.items()
                if "/" in name and math.isfinite(value)
            }
        if new:
            self._progress |= new
            with contextlib.suppress(OSError):  # a full disk must not end the training
                write_json(self._folder / "progress.json", self._progress)
