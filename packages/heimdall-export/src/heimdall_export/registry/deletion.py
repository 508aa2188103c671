"""A version out of the registry, with all that was stored of it.

First the version is marked and loses its aliases, so that nobody is sent to it any more; then its
files go, the model before the sidecar that vouches for it; last the version itself, which alone
knows where the files were. Interrupted anywhere, what is left says that it is being deleted, and
the same call goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_export.contract import PRODUCTION
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX
from heimdall_export.object_store.download import split_address
from heimdall_export.registry.registry import find_version, list_versions
from heimdall_export.registry.version import DELETING, RegisteredVersion
from heimdall_export.tracking.client import open_client, told_plainly, with_driver

if TYPE_CHECKING:
    from minio import Minio
    from mlflow import MlflowClient

    from heimdall_export.object_store.settings import ArtifactStore

__all__ = ["delete_version", "require_deletable"]


def require_deletable(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """The version, if it may be deleted.

    Raises:
        ExportError: There is no such version, it is in production, or the registry cannot be
            reached.
    """
    found = find_version(tracking_uri, model_name, version)
    if PRODUCTION in found.aliases:
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
    """Delete a version, its file and sidecar in the object store, and its run's artifacts.

    The run stays, with its parameters and metrics. What another version of the model uses too, a
    file or a run's artifacts, stays as well.

    Args:
        tracking_uri: Of the registry.
        model_name: Name in the registry.
        version: Its number.
        objects: The object store of the model files.
        artifact_store: The S3 of `s3://` artifacts; None leaves that to MLflow's environment.

    Returns:
        What was deleted, by its addresses.

    Raises:
        ExportError: As `require_deletable`, or a store refuses or is out of reach; repeat it then.
    """
    found = require_deletable(tracking_uri, model_name, version)
    client = open_client(tracking_uri)
    _mark(client, model_name, found)
    deleted = []
    if (uri := found.tags.get("onnx_uri")) and not _is_used(tracking_uri, model_name, found, uri):
        deleted += _delete_objects(objects, uri)
    if found.run_id and _is_alone(client, found.run_id):
        deleted.append(_delete_artifacts(client, tracking_uri, found.run_id, artifact_store))
    with told_plainly(f"delete version {version} of {model_name!r}"):
        client.delete_model_version(model_name, version)
    return (*deleted, f"models:/{model_name}/{version}")


def _mark(client: MlflowClient, model_name: str, found: RegisteredVersion) -> None:
    with told_plainly(f"mark version {found.version} of {model_name!r}"):
        client.set_model_version_tag(model_name, found.version, "stage", DELETING)
        for alias in found.aliases:
            client.delete_registered_model_alias(model_name, alias)


def _is_used(tracking_uri: str, model_name: str, found: RegisteredVersion, uri: str) -> bool:
    """Whether another version has the same file."""
    known = list_versions(tracking_uri, model_name)
    return any(v.tags.get("onnx_uri") == uri for v in known if v.version != found.version)


def _is_alone(client: MlflowClient, run_id: str) -> bool:
    """Whether no second version, of whatever model, came out of the run."""
    with told_plainly(f"find the versions of run {run_id}"):
        return len(client.search_model_versions(f"run_id = '{run_id}'")) == 1


def _delete_objects(objects: Minio, uri: str) -> list[str]:
    """The model, its weights, then the sidecar, which alone is a name that is used up."""
    import urllib3
    from minio.error import MinioException

    try:
        bucket, key = split_address(uri)
    except ExportError as error:
        raise ExportError(f"tag onnx_uri: {error}, or delete the tag") from error
    if not key.endswith(".onnx"):
        raise ExportError(f"tag onnx_uri is {uri!r}, no model's address; correct or delete it")
    stem = key.removesuffix(".onnx")
    try:
        weights = [found.object_name for found in objects.list_objects(bucket, f"{stem}{SUFFIX}")]
        names = [key, *filter(None, weights), f"{stem}.json"]
        for name in names:
            objects.remove_object(bucket, name)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise ExportError(
            f"{uri} cannot be deleted: {error}; the version stays, marked as being deleted; "
            "repeat it when the object store lets you"
        ) from error
    return [f"s3://{bucket}/{name}" for name in names]


def _delete_artifacts(
    client: MlflowClient, tracking_uri: str, run_id: str, artifact_store: ArtifactStore | None
) -> str:
    """All files of a run: the model folder, the checkpoint, the report."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with told_plainly(f"delete the artifacts of run {run_id}"):
        client.set_tag(run_id, "artifacts", "deleted")
        uri = str(client.get_run(run_id).info.artifact_uri)
        if artifact_store is not None and uri.startswith("s3://"):
            with artifact_store.repository(uri) as repository:
                repository.delete_artifacts()  # type: ignore[no-untyped-call]
        else:
            files = get_artifact_repository(uri, with_driver(tracking_uri))
            files.delete_artifacts()  # type: ignore[no-untyped-call]
    return uri
