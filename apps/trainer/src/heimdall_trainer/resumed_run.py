"""The one MLflow run of a training, however often it was interrupted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from heimdall_trainer.callbacks import NewSteps
from heimdall_trainer.resumption import run_of
from heimdall_trainer.run_datasets import run_datasets
from heimdall_trainer.run_record import command_line, open_tracker, run_parameters, run_tags

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_export.tracking import MLflowTracker

    from heimdall_trainer.callbacks import RunMetrics
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["describe_run", "new_steps", "tracked_run"]


def tracked_run(
    config: TrainingConfig, connections: Connections, checkpoint: Path | None
) -> MLflowTracker:
    """A new run in MLflow, or that of the checkpoint that training goes on from.

    Raises:
        ExportError: MLflow is out of reach, or refuses.
        ModelError: The checkpoint cannot be read.
    """
    from heimdall_export.errors import ExportError, OutOfReach

    run_id = None if checkpoint is None else run_of(checkpoint)
    if run_id is None:
        return open_tracker(config, connections)
    try:
        return open_tracker(config, connections, run_id)
    except OutOfReach:
        raise
    except ExportError as error:
        print(
            f"warning: training goes on as another MLflow run: {error}", file=sys.stderr, flush=True
        )
        return open_tracker(config, connections)


def describe_run(
    tracker: MLflowTracker, config: TrainingConfig, data: TrainingData, connections: Connections
) -> None:
    """Tell MLflow how the run trains and on what; of one that goes on, by which command.

    Raises:
        ExportError: MLflow refuses.
    """
    if tracker.is_resumed:
        tracker.set_tags({"resumed.command": command_line()})
        return
    tracker.log_params(run_parameters(config, data))
    tracker.set_tags(run_tags(config, data))
    tracker.log_datasets(run_datasets(data, connections))


def new_steps(tracker: MLflowTracker) -> RunMetrics:
    """The run as training tells it of metrics: what it knows of a step is not told again."""
    return NewSteps(tracker, tracker.logged) if tracker.logged else tracker
