"""The MLflow run of a training: parameters, tags and datasets; a resumed training continues it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from heimdall_data.split import dataset_fingerprint
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_features.names import shown
from heimdall_models.trained import Trained
from heimdall_models.training.history import PartOfRun

from heimdall_trainer.data import provenance_of
from heimdall_trainer.events import LOGGER, tell
from heimdall_trainer.provenance import command_line, package_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from typing import Literal

    from heimdall_export.tracking.run import MLflowTracker, TrackedDataset
    from heimdall_models.training.parts import RunMetrics

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData

CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "validation": "validation",
    "test": "testing",
}


def tracked_run(
    config: TrainingConfig,
    connections: Connections,
    checkpoint: Path | None = None,
    parent: MLflowTracker | None = None,
) -> MLflowTracker:
    """Start a new run in MLflow, or continue the run of a checkpoint that training resumes from.

    A new run is shown below its parent, such as the run of a search.

    Raises:
        ExportError: MLflow is out of reach, or refuses.
        ModelError: The checkpoint cannot be read.
    """
    from heimdall_export.tracking.run import MLflowTracker

    def start(run_id: str | None) -> MLflowTracker:
        return MLflowTracker(
            connections.tracking_uri(),
            artifact_root=connections.artifact_root(),
            artifact_store=connections.artifact_store(),
            experiment_name=config.experiment_name,
            run_name_prefix=config.run_name_prefix,
            outbox=connections.outbox(),
            run_id=run_id,
            parent_run_id=None if parent is None else parent.run_id,
        )

    run_id = None if checkpoint is None else Trained.open(checkpoint).members[0].run.run_id
    try:
        return start(run_id)
    except OutOfReach:
        raise
    except ExportError as error:
        if run_id is None:
            raise
        LOGGER.warning("training continues as another MLflow run: %s", error)
        return start(None)


def describe_run(
    tracker: MLflowTracker, config: TrainingConfig, data: TrainingData, connections: Connections
) -> None:
    """Log configuration, data and versions of a new run; of a resumed one only the command.

    Raises:
        ExportError: MLflow refuses.
    """
    tell("run", run_id=tracker.run_id, run_name=tracker.run_name)
    if tracker.is_resumed:
        tracker.set_tags({"resumed.command": command_line()})
        return
    settings = {
        **asdict(config),
        **config.only.parameters(),
        "only": None,
        "checkpoint": ",".join(map(str, config.checkpoint)) or None,
    }
    tracker.log_params(
        {
            **{name: value for name, value in settings.items() if value is not None},
            "receivers": ",".join(shown(station.name) for station in data.receivers),
            "sample_rate_hz": data.features.sample_rate_hz,
            "n_train": len(data.train),
            "n_validation": len(data.validation),
            "n_test": len(data.test),
            "n_excluded": len(data.exclusions),
        }
    )
    tracker.set_tags(
        {
            **provenance_of(data),
            **{f"version.{name}": found for name, found in package_versions().items()},
            "seed": str(config.seed),
            "command": command_line(),
        }
    )
    tracker.log_datasets(_datasets(data, connections))


def _datasets(data: TrainingData, connections: Connections) -> Iterator[TrackedDataset]:
    """The sessions of each side by their ids, so that a run can be repeated on the same."""
    from heimdall_export.tracking.run import TrackedDataset

    for side, context in CONTEXTS.items():
        sessions = getattr(data, side).sessions
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


def new_steps(tracker: MLflowTracker) -> RunMetrics:
    """The run without the metrics it already has, which a resumed training computes again."""
    return PartOfRun(run=tracker, known=tracker.logged) if tracker.logged else tracker


def sessions_trained_on(
    run_id: str, connections: Connections, parts: Collection[str] = ("train",)
) -> frozenset[str] | None:
    """Ids of the sessions of a run's training part, or of several parts of its split.

    Returns:
        None, with a warning where the run is not found, if they cannot be known: the model has no
        run id, or its run exported a checkpoint that another run had trained.
    """
    from heimdall_export.tracking.client import mlflow_errors, open_client

    if not run_id:
        return None
    try:
        with mlflow_errors(f"find run {run_id}"):
            run = open_client(connections.tracking_uri()).get_run(run_id)
    except ExportError as error:
        LOGGER.warning("the sessions that the model was trained on are not known: %s", error)
        return None
    if run.inputs is None or run.data.params.get("export_only") == "True":
        return None
    contexts = {CONTEXTS[part] for part in parts}
    found: set[str] = set()
    for given in run.inputs.dataset_inputs:
        used = {tag.value for tag in given.tags if tag.key == "mlflow.data.context"}
        if used.isdisjoint(contexts):
            continue
        contexts -= used
        try:
            found.update(json.loads(given.dataset.profile or "{}").get("sessions", ()))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            LOGGER.warning(
                "the sessions that the model was trained on are not known: run %s names them "
                "in another form (%s: %s)",
                run_id,
                type(error).__name__,
                error,
            )
            return None
    return None if contexts else frozenset(found)
