"""The model registry: versions of one model, and the aliases that say which one is used.

Aliases and not MLflow's stages, which it has deprecated; the tag `stage` is for those who still
read it. Each promotion leaves a tag with the version that was in production before, which is
what rollback returns to.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from heimdall_export.contract import INPUT, OUTPUTS, PRODUCTION, REGISTERED_MODEL, STAGING
from heimdall_export.errors import ExportError
from heimdall_export.tracking import told_plainly  # first, for the environment it sets

import mlflow.onnx  # isort: skip
from mlflow import MlflowClient  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from mlflow.entities.model_registry import ModelVersion

    from heimdall_export.tracking import MLflowTracker

__all__ = ["RegisteredVersion", "list_versions", "promote", "register", "rollback"]

_ARTIFACT = "model"
_PREVIOUS = "production.previous"
_REQUIREMENTS = ("onnx", "onnxruntime", "numpy", "heimdall-features")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry."""

    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


def register(
    tracker: MLflowTracker,
    onnx_path: str | os.PathLike[str],
    *,
    model_name: str = REGISTERED_MODEL,
    tags: Mapping[str, str],
) -> str:
    """Store a model file with its run and register it, with the alias `staging`.

    Args:
        tracker: The run that made it.
        onnx_path: A checked model file.
        model_name: Name in the registry.
        tags: Of the version, such as where the file is.

    Returns:
        The version's number.

    Raises:
        ExportError: The registry cannot be reached or refuses.
    """
    with told_plainly(f"register {model_name!r}"):
        _save(tracker, Path(onnx_path))
        _ensure_model(tracker.client, model_name)
        made = tracker.client.create_model_version(
            model_name,
            source=f"runs:/{tracker.run_id}/{_ARTIFACT}",
            run_id=tracker.run_id,
            tags={"stage": "Staging", **tags},
        )
        tracker.client.set_registered_model_alias(model_name, STAGING, made.version)
    return str(made.version)


def _save(tracker: MLflowTracker, onnx_path: Path) -> None:
    """Lay the model out as MLflow wants it, and store that with the run."""
    model = onnx.load(onnx_path)
    shape = [d.dim_value or -1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), shape, INPUT)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2), name) for name in OUTPUTS]),
    )
    with tempfile.TemporaryDirectory(prefix="heimdall-register-") as temporary:
        folder = Path(temporary, _ARTIFACT)
        mlflow.onnx.save_model(
            model,
            folder,
            signature=signature,
            input_example={INPUT: np.zeros((1, *shape[1:]), np.float32)},
            # Given, because MLflow would otherwise load the model to guess them.
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
            save_as_external_data=False,
        )
        tracker.client.log_artifacts(tracker.run_id, str(folder), _ARTIFACT)


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)


def list_versions(
    tracking_uri: str, model_name: str = REGISTERED_MODEL
) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; empty where there is no such model.

    Raises:
        ExportError: The registry cannot be reached.
    """
    client = _client(tracking_uri)
    quoted = model_name.replace("'", "''")
    with told_plainly(f"list the versions of {model_name!r}"):
        found = client.search_model_versions(f"name = '{quoted}'")
        aliases = client.get_registered_model(model_name).aliases if found else {}
    versions = sorted(found, key=lambda version: int(version.version), reverse=True)
    return tuple(_described(version, aliases) for version in versions)


def _described(version: ModelVersion, aliases: Mapping[str, str]) -> RegisteredVersion:
    own = tuple(name for name, which in aliases.items() if str(which) == str(version.version))
    return RegisteredVersion(
        version=str(version.version),
        run_id=version.run_id or "",
        aliases=own,
        tags=dict(version.tags),
    )


def promote(tracking_uri: str, version: str, model_name: str = REGISTERED_MODEL) -> None:
    """Put a version into production, and remember which one was there before.

    Raises:
        ExportError: There is no such version, or the registry cannot be reached.
    """
    client = _client(tracking_uri)
    versions = {found.version: found for found in list_versions(tracking_uri, model_name)}
    if version not in versions:
        known = ", ".join(versions) or "none"
        raise ExportError(f"{model_name!r} has no version {version!r}; it has {known}")
    before = next((v.version for v in versions.values() if PRODUCTION in v.aliases), None)
    with told_plainly(f"promote version {version} of {model_name!r}"):
        if before not in {None, version}:
            client.set_model_version_tag(model_name, version, _PREVIOUS, before)
        client.set_registered_model_alias(model_name, PRODUCTION, version)
        client.set_model_version_tag(model_name, version, "stage", "Production")


def rollback(tracking_uri: str, model_name: str = REGISTERED_MODEL) -> str:
    """Return production to the version that was there before the present one.

    Returns:
        The version that is now in production.

    Raises:
        ExportError: Nothing is in production, or nothing was before it.
    """
    versions = list_versions(tracking_uri, model_name)
    present = next((found for found in versions if PRODUCTION in found.aliases), None)
    if present is None:
        raise ExportError(f"no version of {model_name!r} is in production; promote one")
    before = present.tags.get(_PREVIOUS)
    if before is None or before not in {found.version for found in versions}:
        raise ExportError(
            f"version {present.version} of {model_name!r} has no predecessor in production"
        )
    client = _client(tracking_uri)
    with told_plainly(f"roll {model_name!r} back to version {before}"):
        client.set_registered_model_alias(model_name, PRODUCTION, before)
        client.set_model_version_tag(model_name, present.version, "stage", "Archived")
        client.set_model_version_tag(model_name, before, "stage", "Production")
    return before


def _client(tracking_uri: str) -> MlflowClient:
    with told_plainly("open the registry"):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
