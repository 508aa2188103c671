"""The model registry: versions of one model, registered with the alias `staging`.

Aliases and not MLflow's stages, which it has deprecated; the tag `stage` is for those who still
read it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.contract import DELETING, REGISTERED_MODEL, STAGING
from heimdall_export.errors import ExportError
from heimdall_export.tracking.client import MlflowException, mlflow_errors, open_client

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel
    from numpy.typing import NDArray

    from heimdall_export.tracking.run import MLflowTracker

__all__ = ["RegisteredVersion", "find_version", "list_versions", "register"]

_ARTIFACT = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def is_being_deleted(self) -> bool:
        """True if it may have lost its files already."""
        return self.tags.get("stage") == DELETING


def register(
    tracker: MLflowTracker,
    onnx_path: str | os.PathLike[str],
    *,
    model_name: str = REGISTERED_MODEL,
    tags: Mapping[str, str],
    input_example: NDArray[np.float32] | None = None,
) -> str:
    """Store a model file with its run and register it, with the alias `staging`.

    Args:
        tracker: The run that made it.
        onnx_path: A checked model file.
        model_name: Name in the registry.
        tags: Tags of the version, such as the file's address and the metrics.
        input_example: Feature tensors, float32 `(n, receivers, n_mels, n_frames)`.

    Returns:
        The version's number.

    Raises:
        ExportError: The file is no model of ours, the name belongs to something else, or the
            registry cannot be reached or refuses. No version is left then.
    """
    from heimdall_export.registry.mlflow_model import save_mlflow_model

    client = tracker.client
    with mlflow_errors(f"register {model_name!r}"):
        if _registered(client, model_name) is None:
            client.create_registered_model(model_name)
        with tempfile.TemporaryDirectory(prefix="heimdall-register-") as temporary:
            folder = Path(temporary, _ARTIFACT)
            save_mlflow_model(Path(onnx_path), folder, input_example=input_example)
            tracker.log_artifact(folder, _ARTIFACT)
        source = f"runs:/{tracker.run_id}/{_ARTIFACT}"
        made = client.create_model_version(
            model_name, source, tracker.run_id, tags={"stage": "Staging", **tags}
        )
        try:
            client.set_registered_model_alias(model_name, STAGING, made.version)
        except BaseException:
            client.delete_model_version(model_name, made.version)
            raise
    return str(made.version)


def _registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def list_versions(
    tracking_uri: str, model_name: str = REGISTERED_MODEL
) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; empty where there is no such model.

    Raises:
        ExportError: The registry cannot be reached.
    """
    return versions_of(open_client(tracking_uri), model_name)


def versions_of(client: MlflowClient, model_name: str) -> tuple[RegisteredVersion, ...]:
    """As `list_versions`, with a client that is open."""
    with mlflow_errors(f"list the versions of {model_name!r}"):
        model = _registered(client, model_name)
        if model is None:
            return ()
        quoted = model_name.replace("'", "''")
        found = client.search_model_versions(f"name = '{quoted}'")
    return tuple(
        RegisteredVersion(
            version=str(one.version),
            run_id=one.run_id or "",
            aliases=tuple(
                name for name, which in model.aliases.items() if str(which) == str(one.version)
            ),
            tags=dict(one.tags),
        )
        for one in sorted(found, key=lambda one: int(one.version), reverse=True)
    )


def find_version(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """One version of a model.

    Raises:
        ExportError: There is no such version, or the registry cannot be reached.
    """
    return version_in(list_versions(tracking_uri, model_name), model_name, version)


def version_in(
    known: Sequence[RegisteredVersion], model_name: str, version: str
) -> RegisteredVersion:
    """The version of this number among those of a model.

    Raises:
        ExportError: There is no such version.
    """
    for found in known:
        if found.version == version:
            return found
    numbers = ", ".join(found.version for found in known) or "none"
    raise ExportError(f"{model_name!r} has no version {version!r}; it has {numbers}")
