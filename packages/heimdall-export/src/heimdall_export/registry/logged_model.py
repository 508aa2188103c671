"""MLflow 3's LoggedModel of a registered version: its files, and its metrics with their data.

Its name is `model`, so that `runs:/RUN_ID/model` finds its files. Its page shows the parameters of
the run that made it, and the metrics that it was registered with; each names the dataset of the
run that it was computed on.
"""

from __future__ import annotations

import json
import logging
import math
import time
from typing import TYPE_CHECKING

from heimdall_features.addresses import shown_address

from heimdall_export.tracking.address import with_driver
from heimdall_export.tracking.client import mlflow_errors

# The client comes first: it sets the environment before MLflow is imported.
from mlflow.entities import LoggedModelOutput, Metric  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_MODEL_VERSIONS  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from heimdall_export.object_store.store import ArtifactStore
    from heimdall_export.tracking.run import MLflowTracker

NAME = "model"
"""Name of the model, and of its folder in the artifacts of a run on an older server."""
MODEL_ID_TAG = "model_id"
"""Tag of a registered version: MLflow's registries in databases do not keep its `model_id`."""
_CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}
"""MLflow's context of the data of a metric, by what the metric's name begins with."""
_METRICS_AT_ONCE = 1000
_LOG = logging.getLogger(__name__)


def begin_logged_model(tracker: MLflowTracker, tags: Mapping[str, str]) -> LoggedModel | None:
    """A new LoggedModel among the outputs of a run; None if the server is older than MLflow 3.

    MLflow's own errors pass through.
    """
    client = tracker.client
    try:
        model = client.create_logged_model(
            tracker.experiment_id,
            name=NAME,
            source_run_id=tracker.run_id,
            tags=dict(tags),
            params=client.get_run(tracker.run_id).data.params,
        )
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        _LOG.warning(
            "the MLflow server at %s is older than MLflow 3 and has no page for the model; it is "
            "registered with its run alone",
            shown_address(tracker.tracking_uri),
        )
        return None
    client.log_outputs(tracker.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def finish_logged_model(
    tracker: MLflowTracker, model: LoggedModel, folder: Path, metrics: Mapping[str, float]
) -> None:
    """Store a folder's files as those of a LoggedModel, and show metrics of its run as its own.

    MLflow's own errors pass through.
    """
    place, store = model.artifact_location, tracker.artifact_store
    if store is not None and place.startswith("s3://"):
        with store.repository(place) as repository:
            repository.log_artifacts(str(folder))  # type: ignore[no-untyped-call]
    else:
        tracker.client.log_model_artifacts(model.model_id, str(folder))
    _tie(tracker, model, metrics)
    tracker.client.finalize_logged_model(model.model_id, "READY")


def _tie(tracker: MLflowTracker, model: LoggedModel, metrics: Mapping[str, float]) -> None:
    """Show metrics of a run as those of its model, too, with the time and step that they have.

    A value that the run has not, such as that of a calibrated model, becomes its last of that
    name. NaN and infinity are left out: MLflow would show 0 and 1.8e308.
    """
    client, now_ms = tracker.client, int(time.time() * 1000)
    inputs = client.get_run(tracker.run_id).inputs
    datasets = {
        tag.value: given.dataset
        for given in (inputs.dataset_inputs if inputs else ())
        for tag in given.tags
        if tag.key == MLFLOW_DATASET_CONTEXT
    }
    tied = []
    for name, value in metrics.items():
        if not math.isfinite(value):
            continue
        history = tracker.points.get(name, [])
        new = Metric(name, value, now_ms, max((entry.step for entry in history), default=0))
        seen = next((entry for entry in reversed(history) if entry.value == value), new)
        dataset = datasets.get(_CONTEXTS.get(name.partition("/")[0], ""))
        tied.append(
            Metric(
                name,
                value,
                seen.timestamp,
                seen.step,
                model_id=model.model_id,
                dataset_name=dataset.name if dataset else None,
                dataset_digest=dataset.digest if dataset else None,
                run_id=tracker.run_id,
            )
        )
    for start in range(0, len(tied), _METRICS_AT_ONCE):
        client.log_batch(tracker.run_id, metrics=tied[start : start + _METRICS_AT_ONCE])


def name_version(client: MlflowClient, model: LoggedModel, name: str, version: str) -> None:
    """Show a registered version on the page of its LoggedModel, which MLflow's server does itself.

    MLflow's own errors pass through.
    """
    versions = json.dumps([{"name": name, "version": int(version)}])
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: versions})


def logged_models(client: MlflowClient, experiments: list[str]) -> list[LoggedModel]:
    """The LoggedModels of our name in experiments; MLflow's own errors pass through."""
    found: list[LoggedModel] = []
    token: str | None = ""
    while token is not None:
        try:
            page = client.search_logged_models(
                experiments, f"name = '{NAME}'", page_token=token or None
            )
        except MlflowException as error:
            if error.error_code != "ENDPOINT_NOT_FOUND":  # older than MLflow 3
                raise
            break
        found += page
        token = page.token or None
    return found


def uses(version: ModelVersion, model_id: str) -> bool:
    """True if a registered version, of whichever program, is of this LoggedModel."""
    return version.tags.get(MODEL_ID_TAG) == model_id or model_id in (version.source or "")


def delete_logged_model(
    client: MlflowClient, tracking_uri: str, model_id: str, store: ArtifactStore | None
) -> list[str]:
    """Delete a LoggedModel and its files; MLflow keeps its metrics with the run.

    Returns:
        Address of its files; nothing if there is no such LoggedModel.

    Raises:
        ExportError: MLflow or the store refuses, or is out of reach.
    """
    with mlflow_errors(f"delete model {model_id}"):
        try:
            place = client.get_logged_model(model_id).artifact_location
        except MlflowException as error:
            # The second is a server's answer to an id that no LoggedModel can have.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND"):
                raise
            return []
        delete_files(place, tracking_uri, store)
        client.delete_logged_model(model_id)
    return [place]


def delete_files(place: str, tracking_uri: str, artifact_store: ArtifactStore | None) -> None:
    """Delete all artifacts at an address; the errors of MLflow and its stores pass through."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if artifact_store is not None and place.startswith("s3://"):
        with artifact_store.repository(place) as repository:
            repository.delete_artifacts()  # type: ignore[no-untyped-call]
    else:
        files = get_artifact_repository(place, with_driver(tracking_uri))
        files.delete_artifacts()  # type: ignore[no-untyped-call]
