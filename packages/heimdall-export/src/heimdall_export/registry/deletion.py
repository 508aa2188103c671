"""Deletion of a registered version with everything that was stored of it.

First the deletion is decided, which keeps the version out of production from then on; it is marked
and loses its aliases, so that no service is led to it any more; then its files are deleted, the
model before the sidecar that has its hash; last the version itself, the only record of where the
files were. After an interruption the version stays marked as being deleted, and the same call goes
on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_export.contract import PRODUCTION
from heimdall_export.errors import ExportError
from heimdall_export.model_files import CARD_SUFFIX, SUFFIX
from heimdall_export.object_store.store import split_address, store_errors
from heimdall_export.registry.listing import list_versions
from heimdall_export.registry.logged_model import (
    MODEL_ID_TAG,
    delete_files,
    delete_logged_model,
    uses,
)
from heimdall_export.registry.production import Decision, Production
from heimdall_export.registry.registry import search_versions
from heimdall_export.registry.versions import version_in
from heimdall_export.tracking.client import mlflow_errors, open_client

if TYPE_CHECKING:
    from minio import Minio
    from mlflow import MlflowClient

    from heimdall_export.object_store.store import ArtifactStore
    from heimdall_export.registry.production import Seen
    from heimdall_export.registry.versions import RegisteredVersion


def require_deletable(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """The version; `ExportError` if it is in production, is missing, or cannot be looked up."""
    return _deletable(Production(open_client(tracking_uri), model_name).read(), model_name, version)


def _deletable(seen: Seen, model_name: str, version: str) -> RegisteredVersion:
    found = version_in(seen.versions, model_name, version)
    if seen.state.production == version or PRODUCTION in found.aliases:
        raise ExportError(
            f"version {version} of {model_name!r} is in production; promote another one or roll "
            "back first"
        )
    return found


def delete_version(
    tracking_uri: str,
    model_name: str,
    version: str,
    *,
    objects: Minio,
    artifact_store: ArtifactStore | None = None,
) -> tuple[str, ...]:
    """Delete a version, its LoggedModel, its file and sidecar, and its run's artifacts.

    The run stays, with its parameters and metrics. A file, a LoggedModel or a run's artifacts that
    another version uses, of whichever model, stay as well. `objects` is the object store of the
    model files, `artifact_store` the S3 of `s3://` artifacts; None leaves that to MLflow's
    environment.

    Returns:
        Addresses of everything that was deleted.

    Raises:
        ExportError: As `require_deletable`, or a store refuses or is out of reach; then repeat it.
    """
    client = open_client(tracking_uri)

    def choose(seen: Seen) -> Decision:
        _deletable(seen, model_name, version)
        return Decision(version=version, is_deletion=True)

    deleted: list[str] = []

    def act() -> None:
        found = version_in(list_versions(client, model_name), model_name, version)
        with mlflow_errors(f"take the aliases of version {version} of {model_name!r}"):
            for alias in {*found.aliases} - {PRODUCTION}:  # which is on its way elsewhere
                client.delete_registered_model_alias(model_name, alias)
        with mlflow_errors("list all versions"):  # Copies under other names share everything.
            others = [
                one
                for one in search_versions(client)
                if (one.name, str(one.version)) != (model_name, version)
            ]
        uri, model_id = found.tags.get("onnx_uri"), found.tags.get(MODEL_ID_TAG)
        if uri and not any(one.tags.get("onnx_uri") == uri for one in others):
            deleted.extend(delete_objects(objects, uri))
        if model_id and not any(uses(one, model_id) for one in others):
            deleted.extend(delete_logged_model(client, tracking_uri, model_id, artifact_store))
        if found.run_id and not any(one.run_id == found.run_id for one in others):
            deleted.extend(_delete_artifacts(client, tracking_uri, found.run_id, artifact_store))
        with mlflow_errors(f"delete version {version} of {model_name!r}"):
            client.delete_model_version(model_name, version)

    Production(client, model_name).decide(choose, act)
    return (*deleted, f"models:/{model_name}/{version}")


def delete_objects(objects: Minio, uri: str) -> list[str]:
    """Delete the model, its weights and card, then the sidecar, which keeps the name from reuse.

    Returns:
        Their addresses.

    Raises:
        ExportError: The address is no model's, or the store refuses or is out of reach.
    """
    try:
        bucket, key = split_address(uri)
    except ExportError as error:
        raise ExportError(f"tag onnx_uri: {error}, or delete the tag") from error
    if not key.endswith(".onnx"):
        raise ExportError(f"tag onnx_uri is {uri!r}, not a model's address; correct or delete it")
    stem = key.removesuffix(".onnx")
    with store_errors(f"delete {uri}, whose version stays marked as being deleted"):
        beside = [
            found.object_name
            for suffix in (SUFFIX, CARD_SUFFIX)
            for found in objects.list_objects(bucket, f"{stem}{suffix}")
        ]
        names = [key, *filter(None, beside), f"{stem}.json"]
        for name in names:
            objects.remove_object(bucket, name)
    return [f"s3://{bucket}/{name}" for name in names]


def _delete_artifacts(
    client: MlflowClient, tracking_uri: str, run_id: str, artifact_store: ArtifactStore | None
) -> list[str]:
    """All files of a run: the model folder, the checkpoint, the report."""
    with mlflow_errors(f"delete the artifacts of run {run_id}"):
        client.set_tag(run_id, "artifacts", "deleted")
        uri = str(client.get_run(run_id).info.artifact_uri)
        delete_files(uri, tracking_uri, artifact_store)
    return [uri]
