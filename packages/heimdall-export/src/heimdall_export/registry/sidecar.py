"""What is found out about a model after it was stored: kept with it, in its sidecar and its run."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError
from heimdall_export.object_store.download import chunks_of, split_address

if TYPE_CHECKING:
    import os

    from minio import Minio

    from heimdall_export.object_store.settings import ArtifactStore

__all__ = ["add_artifact", "add_to_sidecar"]

_IDENTITY = ("uri", "key", "sha256", "size", "created_at", "weights_sha256", "run_id", "upload_id")
"""What a sidecar vouches for; nothing added may change it."""


def add_to_sidecar(client: Minio, uri: str, name: str, value: object) -> str:
    """Add an entry to a model's sidecar, or replace one that was added before.

    Args:
        client: The object store.
        uri: The model's address, `s3://bucket/key.onnx`.
        name: Of the entry.
        value: What JSON can hold; NaN and infinity are none of it.

    Returns:
        The sidecar's address.

    Raises:
        ExportError: There is no such address or no sidecar, or it is no JSON object; the entry
            is one that identifies the model, or nothing for JSON; or the store refuses or is out
            of reach.
    """
    import urllib3
    from minio.error import MinioException

    if name in _IDENTITY:
        raise ExportError(f"{name!r} says which model a sidecar is of; it is not changed")
    bucket, key = split_address(uri)
    sidecar = f"{key.removesuffix('.onnx')}.json"
    try:
        says = _read(b"".join(chunks_of(client, bucket, sidecar)), sidecar)
        text = _written(says | {name: value}, name)
        client.put_object(bucket, sidecar, io.BytesIO(text), len(text), "application/json")
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise ExportError(
            f"{name!r} cannot be added to {sidecar} in bucket {bucket!r}: {error}; is the model "
            "there, and may the credentials write?"
        ) from error
    return f"s3://{bucket}/{sidecar}"


def _written(says: dict[str, Any], name: str) -> bytes:
    try:
        return json.dumps(says, indent=2, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ExportError(f"JSON cannot hold {name!r}: {error}; give null instead") from error


def _read(text: bytes, sidecar: str) -> dict[str, Any]:
    try:
        says = json.loads(text)
    except ValueError:
        says = None
    if not isinstance(says, dict):
        raise ExportError(f"the sidecar {sidecar} is no JSON object: {text[:100]!r}")
    return says


def add_artifact(
    tracking_uri: str,
    run_id: str,
    path: str | os.PathLike[str],
    folder: str | None = None,
    *,
    artifact_store: ArtifactStore | None = None,
) -> str:
    """Store a file with a run that has ended.

    Args:
        tracking_uri: Of the run.
        run_id: Its id.
        path: The file.
        folder: Where it goes among the run's artifacts; their root when None.
        artifact_store: The S3 of `s3://` artifacts; None leaves that to MLflow's environment.

    Returns:
        Where the run's artifacts are.

    Raises:
        ExportError: There is no such run, or it takes no artifact.
    """
    from heimdall_export.tracking.client import open_client, told_plainly

    client = open_client(tracking_uri)
    with told_plainly(f"store {path} with run {run_id}"):
        place = str(client.get_run(run_id).info.artifact_uri)
        if artifact_store is not None and place.startswith("s3://"):
            with artifact_store.repository(place) as repository:
                repository.log_artifact(str(path), folder)  # type: ignore[no-untyped-call]
        else:
            client.log_artifact(run_id, str(path), folder)
    return place
