"""The model registry: versions of one model, registered with the alias `staging`.

A version is of a LoggedModel, MLflow 3's page of one model file.

Aliases are used instead of MLflow's stages, which it has deprecated; the tag `stage` is for those
who still read it.
"""

from __future__ import annotations

import contextlib
import shutil
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heimdall_export.contract import (
    ARRIVALS,
    INPUT,
    REGISTERED_MODEL,
    STAGING,
    allowed_model_name,
)
from heimdall_export.errors import ExportError
from heimdall_export.model_files import weights_beside
from heimdall_export.registry.logged_model import (
    MODEL_ID_TAG,
    NAME,
    begin_logged_model,
    delete_logged_model,
    finish_logged_model,
    name_version,
)
from heimdall_export.registry.versions import versions_from_rows
from heimdall_export.temporary import TemporaryFolder
from heimdall_export.tracking.client import mlflow_errors

# The client comes first: it sets the environment before MLflow is imported.
from mlflow.exceptions import MlflowException  # isort: skip

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import onnx
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from numpy.typing import NDArray

    from heimdall_export.registry.versions import RegisteredVersion
    from heimdall_export.tracking.run import MLflowTracker

_REQUIREMENTS = ("numpy", "onnx", "onnxruntime")
"""For MLflow's loader; heimdall-features is needed only to compute the input."""


def register(
    tracker: MLflowTracker,
    onnx_path: str | os.PathLike[str],
    *,
    model_name: str = REGISTERED_MODEL,
    tags: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    input_example: NDArray[np.float32] | None = None,
) -> str:
    """Store a model file as a LoggedModel of its run and register it, with the alias `staging`.

    The tags are those of the version, such as the file's address and the metrics; `metrics` are
    those that its page shows; `input_example` has feature tensors, float32 `(n, receivers, n_mels,
    n_frames)`.

    Returns:
        The version's number.

    Raises:
        ExportError: The file is not a model of ours, the name is not allowed or belongs to
            something else, or the registry cannot be reached or refuses. No version is left then.
    """
    require_model_name(model_name)
    client = tracker.client
    with mlflow_errors(f"register {model_name!r}"), contextlib.ExitStack() as undo:
        if registered(client, model_name) is None:
            client.create_registered_model(model_name)
        source, model_id = f"runs:/{tracker.run_id}/{NAME}", None
        model = begin_logged_model(tracker, tags)
        if model is not None:
            source, model_id = model.artifact_location, model.model_id
            tags = {**tags, MODEL_ID_TAG: model.model_id}
            undo.callback(_discard, tracker, model.model_id)
        with TemporaryFolder("register") as temporary:
            folder = temporary / NAME
            save_mlflow_model(
                Path(onnx_path), folder, input_example=input_example, logged_model=model
            )
            if model is None:
                tracker.log_artifact(folder, NAME)
            else:
                finish_logged_model(tracker, model, folder, metrics or {})
        made = client.create_model_version(
            model_name,
            source,
            tracker.run_id,
            tags={"stage": "Staging", **tags},
            model_id=model_id,
        )
        undo.callback(client.delete_model_version, model_name, made.version)
        if model is not None:
            name_version(client, model, model_name, made.version)
        client.set_registered_model_alias(model_name, STAGING, made.version)
        undo.pop_all()
    return str(made.version)


def _discard(tracker: MLflowTracker, model_id: str) -> None:
    """Delete the LoggedModel of a registration that failed; the error that ended it is told."""
    with contextlib.suppress(ExportError):
        delete_logged_model(tracker.client, tracker.tracking_uri, model_id, tracker.artifact_store)


def save_mlflow_model(
    onnx_path: Path,
    folder: Path,
    *,
    input_example: NDArray[np.float32] | None = None,
    logged_model: LoggedModel | None = None,
) -> None:
    """Write a model as an MLflow model, with signature, input example and requirements.

    The ONNX file in it, and the file with its weights if there is one, are the same byte by byte.

    The folder must not exist. The example's features are float32 `(n, receivers, n_mels,
    n_frames)`, 0 dB when None; its arrival times are all zero.

    Raises:
        ExportError: The file is not an ONNX file, the example does not fit, or the folder
            cannot be written.
    """
    import mlflow.onnx
    import onnx
    from google.protobuf.message import DecodeError
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    try:
        model = onnx.load(onnx_path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"cannot read the model file {onnx_path}: {error.strerror}") from error
    except DecodeError as error:
        raise ExportError(f"{onnx_path} is not an ONNX file") from error
    inputs = {end.name: _shape(end) for end in model.graph.input}
    outputs = {end.name: _shape(end) for end in model.graph.output}
    if [*inputs] not in ([INPUT], [INPUT, ARRIVALS]):
        raise ExportError(f"{onnx_path} has inputs {[*inputs]}, our models have {INPUT!r}")
    shape = inputs[INPUT]
    example = np.zeros((1, *shape[1:]), np.float32) if input_example is None else input_example
    if example.shape[1:] != shape[1:]:
        raise ExportError(f"the input example is {example.shape}, the model takes {shape}")
    silent = {n: np.zeros((len(example), *s[1:]), np.float32) for n, s in inputs.items()}
    columns, answers = (
        Schema([TensorSpec(np.dtype("float32"), s, name) for name, s in ends.items()])
        for ends in (inputs, outputs)
    )
    with mlflow_errors(f"lay out {onnx_path} as a model"):
        mlflow.onnx.save_model(
            model,
            folder,
            signature=ModelSignature(inputs=columns, outputs=answers),
            input_example=silent | {INPUT: example},
            # Given, because MLflow would otherwise load the model to guess them.
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
            save_as_external_data=False,
            mlflow_model=logged_model
            and Model(run_id=logged_model.source_run_id, model_id=logged_model.model_id),
        )
        shutil.copyfile(onnx_path, folder / "model.onnx")
        if weights := weights_beside(onnx_path):
            shutil.copyfile(weights, folder / weights.name)


def _shape(end: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of an input or output, with -1 for the batch."""
    return tuple(size.dim_value or -1 for size in end.type.tensor_type.shape.dim)


def require_model_name(name: str) -> None:
    """Raise `ExportError` unless a registered model may have this name."""
    if allowed := allowed_model_name(name):
        raise ExportError(f"model name {name!r} must be {allowed}; choose another one")


def registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model of this name, or None; MLflow's own errors pass through."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def versions_of(client: MlflowClient, model: RegisteredModel) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; MLflow's own errors pass through."""
    found = search_versions(client, model.name)
    return versions_from_rows(
        ((int(one.version), one.run_id) for one in found),
        ((int(one.version), *tag) for one in found for tag in one.tags.items()),
        ((int(version), alias) for alias, version in model.aliases.items()),
    )


def search_versions(client: MlflowClient, name: str | None = None) -> list[ModelVersion]:
    """Every version of a model, or of all models, as MLflow has it, newest first.

    MLflow's own errors pass through.
    """
    quote = '"' if name is not None and "'" in name else "'"  # MLflow knows no escape
    of_name = None if name is None else f"name = {quote}{name}{quote}"
    found: list[ModelVersion] = []
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(of_name, page_token=token or None)
        found += page
        token = page.token or None
    return sorted(found, key=lambda one: int(one.version), reverse=True)
