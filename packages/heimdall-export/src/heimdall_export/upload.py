"""A model file into the object store: under a new name, verified, never over another.

The name is claimed by the upload itself: it asks the store to refuse where an object is there
already (`If-None-Match`, RFC 9110, section 13.1.2), so that two trainers that finish in the same
second do not overwrite each other. A model whose `.json` is there is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from minio.error import MinioException, S3Error

from heimdall_export.contract import MODEL_FOLDER
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from minio import Minio

__all__ = ["UploadedModel", "upload_model"]

_ATTEMPTS = 60
_PRECONDITION_FAILED = 412
_OK = 200
_CHUNK = 2**20
_RETRIES = urllib3.Retry(
    total=4,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    status_forcelist=(500, 502, 503, 504),
    allowed_methods=("PUT",),
    raise_on_status=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedModel:
    """A model in the object store; the fields beside `uri` and `key` are in its sidecar."""

    uri: str
    key: str
    sha256: str
    size: int
    created_at: str


def upload_model(
    client: Minio,
    bucket: str,
    path: str | os.PathLike[str],
    *,
    run_id: str,
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    created_at: datetime | None = None,
) -> UploadedModel:
    """Store a model file and its sidecar under the contract's next free name.

    Args:
        client: The object store.
        bucket: Must be there.
        path: The ONNX file.
        run_id: MLflow run that made it.
        metrics: What it is worth; goes into the sidecar.
        versions: Of our packages; goes into the sidecar.
        created_at: Aware; now when None. A second that is taken moves on to the next one.

    Raises:
        ExportError: The file cannot be read, the store refuses or is out of reach, or what it
            gives back is not what was sent (it is then removed again).
    """
    source = Path(path)
    try:
        _require_bucket(client, bucket)
        with source.open("rb") as file:
            sha256 = _sha256(iter(lambda: file.read(_CHUNK), b""))
            moment = _store(client, bucket, file, created_at or datetime.now(UTC))
        key = _key(moment)
        _verify(client, bucket, key, sha256)
        model = UploadedModel(
            uri=f"s3://{bucket}/{key}",
            key=key,
            sha256=sha256,
            size=source.stat().st_size,
            created_at=moment.isoformat(timespec="seconds"),
        )
        _write_sidecar(client, bucket, model, run_id=run_id, metrics=metrics, versions=versions)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise ExportError(_told(error, bucket)) from error
    except OSError as error:
        raise ExportError(f"the model file {source} cannot be read: {error.strerror}") from error
    return model


def _require_bucket(client: Minio, bucket: str) -> None:
    # Some stores make a missing bucket on the first object; a misspelt name must not pass.
    if not client.bucket_exists(bucket):
        raise ExportError(f"there is no bucket {bucket!r}; make it, or set HEIMDALL_MODELS_BUCKET")


def _key(moment: datetime) -> str:
    return f"{MODEL_FOLDER}/v{moment.astimezone(UTC):%Y%m%d_%H%M%S}.onnx"


def _store(client: Minio, bucket: str, file: BinaryIO, first: datetime) -> datetime:
    """Send the file under the first name that is free; the moment that names it."""
    with urllib3.PoolManager(retries=_RETRIES) as pool:
        for second in range(_ATTEMPTS):
            moment = first + timedelta(seconds=second)
            file.seek(0)
            answer = pool.request(
                "PUT",
                client.presigned_put_object(bucket, _key(moment), timedelta(hours=1)),
                body=file,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(_size(file)),
                    "If-None-Match": "*",
                },
            )
            if answer.status == _OK:
                return moment
            if answer.status != _PRECONDITION_FAILED:
                raise ExportError(
                    f"the object store answered {answer.status} to the upload of {_key(moment)} "
                    f"into {bucket!r}: {answer.data[:300].decode(errors='replace')}"
                )
    raise ExportError(f"all names from {_key(first)} on are taken in {bucket!r}; clear its folder")


def _size(file: BinaryIO) -> int:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _sha256(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _verify(client: Minio, bucket: str, key: str, sha256: str) -> None:
    answer = client.get_object(bucket, key)
    try:
        found = _sha256(answer.stream(_CHUNK))
    finally:
        answer.close()
        answer.release_conn()
    if found != sha256:
        client.remove_object(bucket, key)
        raise ExportError(
            f"{key} came back from {bucket!r} with sha256 {found}, sent was {sha256}; "
            "it was removed, try again"
        )


def _write_sidecar(
    client: Minio,
    bucket: str,
    model: UploadedModel,
    *,
    run_id: str,
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
) -> None:
    said = asdict(model) | {"run_id": run_id, "metrics": dict(metrics), "versions": dict(versions)}
    text = json.dumps(said, indent=2, sort_keys=True).encode()
    key = f"{model.key.removesuffix('.onnx')}.json"
    client.put_object(bucket, key, io.BytesIO(text), len(text), content_type="application/json")


def _told(error: Exception, bucket: str) -> str:
    where = f"bucket {bucket!r}"
    if isinstance(error, S3Error):
        return (
            f"the object store refused the model for {where}: {error.code}, {error.message}; "
            "check the credentials and what they may do"
        )
    return f"the object store with {where} is out of reach: {error}; is it running?"
