"""The MLflow run of a training: parameters, tags and datasets; a resumed training continues it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from heimdall_export import ExportError
from heimdall_models.trained import Trained
from heimdall_models.training.history import PartOfRun

from heimdall_trainer.data import provenance_of
from heimdall_trainer.events import tell
from heimdall_trainer.provenance import command_line, dataset_fingerprint, package_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    from heimdall_data import Session
    from heimdall_export.tracking.run import MLflowTracker, TrackedDataset
    from heimdall_models.training.parts import RunMetrics

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData

__all__ = [
    "describe_run",
    "new_steps",
    "open_tracker",
    "run_datasets",
    "run_parameters",
    "run_tags",
    "sessions_trained_on",
    "tracked_run",
]


CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "validation": "validation",
    "test": "testing",
}


def run_datasets(data: TrainingData, connections: Connections) -> Iterator[TrackedDataset]:
    """The sessions of each side, by their ids, so that a run can be repeated on the same."""
    from heimdall_export.tracking.run import TrackedDataset

    for side, context in CONTEXTS.items():
        sessions: tuple[Session, ...] = getattr(data, side).sessions
        yield TrackedDataset(
            name=f"heimdall-sessions-{side}",
            digest=dataset_fingerprint({side: sessions}),
            context=context,
            shape=data.features.shape,
            source={
                "recordings": f"s3://{connections.raw_iq_bucket}",
                "features.fingerprint": data.features.fingerprint,
            },
            profile={
                "n_sessions": len(sessions),
                "n_sources": len({session.source_id for session in sessions}),
                "sessions": sorted(session.id for session in sessions),
            },
        )


def open_tracker(
    config: TrainingConfig, connections: Connections, run_id: str | None = None
) -> MLflowTracker:
    """Begin the run in MLflow, or go on with one, with artifacts where the connections say.

    Raises:
        ExportError: MLflow refuses or is out of reach.
    """
    from heimdall_export.tracking.run import MLflowTracker

    return MLflowTracker(
        connections.tracking_uri(),
        artifact_root=connections.artifact_root(),
        artifact_store=connections.artifact_store(),
        experiment_name=config.experiment_name,
        run_name_prefix=config.run_name_prefix,
        outbox=connections.state_directory() / "mlflow-outbox",
        run_id=run_id,
    )


def run_parameters(config: TrainingConfig, data: TrainingData) -> dict[str, Any]:
    """The configuration and what the data made of it, flat."""
    settings = {
        **asdict(config),
        **config.only.parameters(),
        "only": None,
        "checkpoint": ",".join(map(str, config.checkpoint)) or None,
    }
    return {
        **{name: value for name, value in settings.items() if value is not None},
        "receivers": ",".join(station.name for station in data.receivers),
        "sample_rate_hz": data.features.sample_rate_hz,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_test": len(data.test),
        "n_excluded": len(data.exclusions),
    }


def run_tags(config: TrainingConfig, data: TrainingData) -> dict[str, str]:
    """What identifies the run: versions, seed, fingerprints, the source's commit if it has one."""
    return {
        **provenance_of(data),
        **{f"version.{name}": found for name, found in package_versions().items()},
        "seed": str(config.seed),
        "command": command_line(),
    }


def tracked_run(
    config: TrainingConfig, connections: Connections, checkpoint: Path | None
) -> MLflowTracker:
    """A new run in MLflow, or that of the checkpoint that training goes on from.

    Raises:
        ExportError: MLflow is out of reach, or refuses.
        ModelError: The checkpoint cannot be read.
    """
    from heimdall_export.errors import ExportError, OutOfReach

    run_id = None if checkpoint is None else Trained.open(checkpoint).members[0].run.run_id
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
    tell("run", run_id=tracker.run_id, run_name=tracker.run_name)
    if tracker.is_resumed:
        tracker.set_tags({"resumed.command": command_line()})
        return
    tracker.log_params(run_parameters(config, data))
    tracker.set_tags(run_tags(config, data))
    tracker.log_datasets(run_datasets(data, connections))


def new_steps(tracker: MLflowTracker) -> RunMetrics:
    """The run as training tells it of metrics: what it knows of a step is not told again."""
    return PartOfRun(run=tracker, known=tracker.logged) if tracker.logged else tracker


_CONTEXT = "mlflow.data.context"


def sessions_trained_on(run_id: str, connections: Connections) -> frozenset[str] | None:
    """Ids of the sessions of a run's training part.

    None, with a warning, where that cannot be known: the model tells no run, its run is not in
    this MLflow, or it exported a checkpoint that another run had trained.
    """
    if not run_id:
        return None
    try:
        return _recorded(run_id, connections.tracking_uri())
    except ExportError as error:
        said = f"warning: nobody can say which sessions the model was trained on: {error}"
        print(said, file=sys.stderr, flush=True)
        return None


def _recorded(run_id: str, tracking_uri: str) -> frozenset[str] | None:
    from heimdall_export.tracking.client import mlflow_errors, open_client

    with mlflow_errors(f"find run {run_id}"):
        run = open_client(tracking_uri).get_run(run_id)
    if run.inputs is None or run.data.params.get("export_only") == "True":
        return None
    for given in run.inputs.dataset_inputs:
        if any(tag.key == _CONTEXT and tag.value == "training" for tag in given.tags):
            return frozenset(json.loads(given.dataset.profile or "{}").get("sessions", ()))
    return None
