"""A model file into the object store: under a new name, verified, never over another.

The sidecar goes first and claims the name; the model follows, whole or not at all, and is read
back. So a model that can be seen has its sidecar, and what fails on the way leaves neither. A
sidecar alone is a claim whose owner was killed: the name is used up, nothing else.

An object that must not exist yet: written only under a name that is free.

The store itself refuses where an object is there already (`If-None-Match: *`, RFC 9110, section
13.1.2; in S3 since 2024, in MinIO and SeaweedFS too), so that two writers cannot both win. The
MinIO client sends no such header, a presigned address takes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from minio.error import MinioException, S3Error

from heimdall_export.contract import MODEL_FOLDER
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX, weights_beside
from heimdall_export.object_store.download import chunks_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from minio import Minio

__all__ = ["UploadedModel", "put_new", "upload_model"]


_WAITS_S = (0.1, 0.4, 1.6)
"""Before each further attempt at what can heal."""
_STORED = (200, 201, 204)
_NAME_TAKEN = (409, 412)
_CAN_HEAL = (429, 500, 502, 503, 504)
_VALID = timedelta(minutes=15)
_TIMEOUT = urllib3.Timeout(connect=10, read=60)


def put_new(
    client: Minio, bucket: str, key: str, body: bytes | BinaryIO, content_type: str
) -> bool:
    """Store an object under a name that is free.

    Args:
        client: The object store.
        bucket: Must be there.
        key: The name.
        body: The contents, or a file, which is sent from its beginning.
        content_type: Its media type.

    Returns:
        False where the name is taken. After a connection that broke, by this very call perhaps:
        compare what is there.

    Raises:
        ExportError: The store refuses, or is out of reach after four attempts.
    """
    headers = {
        "Content-Type": content_type,
        # Without it a file would go in chunks of unknown number, which S3 does not take.
        "Content-Length": str(_size(body)),
        "If-None-Match": "*",
    }
    said = ""
    for wait_s in (0.0, *_WAITS_S):
        time.sleep(wait_s)
        status, said = _put(client.presigned_put_object(bucket, key, _VALID), body, headers)
        if status in _STORED:
            return True
        if status in _NAME_TAKEN:
            return False
        if status is not None and status not in _CAN_HEAL:
            break
    raise ExportError(
        f"the object store took no {key} into bucket {bucket!r}: {said}; "
        "check that it runs and what the credentials may do"
    )


def _size(body: bytes | BinaryIO) -> int:
    return len(body) if isinstance(body, bytes) else body.seek(0, io.SEEK_END)


def _put(url: str, body: bytes | BinaryIO, headers: dict[str, str]) -> tuple[int | None, str]:
    """The answer's status, None where there was no answer, and what it said.

    No message holds the address: who has it may write.
    """
    if not isinstance(body, bytes):
        body.seek(0)
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=False) as pool:
        try:
            answer = pool.request("PUT", url, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return None, type(error).__name__
    return answer.status, f"status {answer.status}, {answer.data[:300].decode(errors='replace')}"


_MOST_NAMES = 60
"""So many seconds after the wanted one are tried before something must be wrong."""
_CHUNK = 2**20
_MEDIA_TYPES = {".json": "application/json"}
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedModel:
    """A model in the object store; these fields are in its sidecar too."""

    uri: str
    key: str
    sha256: str
    size: int
    created_at: str
    weights_sha256: str | None = None
    """Of the object `.data` beside it, where the weights are too many for one."""


def upload_model(
    client: Minio,
    bucket: str,
    path: str | os.PathLike[str],
    *,
    run_id: str,
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    created_at: datetime | None = None,
    make_bucket: bool = False,
) -> UploadedModel:
    """Store a model file and its sidecar under the contract's next free name.

    Args:
        client: The object store.
        bucket: Must be there, unless it may be made.
        path: The ONNX file; weights that are in a file beside it go along.
        run_id: MLflow run that made it.
        metrics: What it is worth; goes into the sidecar, null for what is not finite.
        versions: Of our packages; goes into the sidecar.
        created_at: Aware; now when None. A second that is taken moves on to the next one.
        make_bucket: Make the bucket where it is missing.

    Raises:
        ExportError: The file cannot be read, the store refuses or is out of reach, or what it
            gives back is not what was sent. Nothing is left in the store then.
    """
    source = Path(path)
    first = (created_at or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    # NumPy's and torch's numbers are none of JSON's.
    finite = {name: float(v) if math.isfinite(v) else None for name, v in metrics.items()}
    # The upload's id tells our claim from the equal one of another upload of the same file.
    says = {
        "run_id": run_id,
        "metrics": finite,
        "versions": dict(versions),
        "upload_id": uuid.uuid4().hex,
    }
    try:
        sha256, size = _sha256(_chunks(source)), source.stat().st_size
        weights = _weights(source)
        _require_bucket(client, bucket, make=make_bucket)
        for name in _names(bucket, sha256, size, first):
            model = replace(name, weights_sha256=weights.stem if weights else None)
            if _stored(client, bucket, source, model, says):
                return model
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise ExportError(_told(error, bucket)) from error
    except OSError as error:
        raise ExportError(f"the model file {source} cannot be read: {error.strerror}") from error
    raise ExportError(
        f"the names from v{first:%Y%m%d_%H%M%S} on are taken in {bucket!r}; is the clock right?"
    )


def _require_bucket(client: Minio, bucket: str, *, make: bool) -> None:
    # Some stores make a missing bucket on the first object; a misspelt name must not pass.
    try:
        found = client.bucket_exists(bucket)
    except ValueError as error:
        raise ExportError(f"{bucket!r} is no name for a bucket: {error}") from error
    if found:
        return
    if not make:
        raise ExportError(f"there is no bucket {bucket!r}; make it, or set HEIMDALL_MODELS_BUCKET")
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        # Somebody else made it between the question and the act.
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def _names(bucket: str, sha256: str, size: int, first: datetime) -> Iterator[UploadedModel]:
    """What the model would be called in each second from the first one on."""
    for second in range(_MOST_NAMES):
        moment = first + timedelta(seconds=second)
        key = f"{MODEL_FOLDER}/v{moment:%Y%m%d_%H%M%S}.onnx"
        yield UploadedModel(
            uri=f"s3://{bucket}/{key}",
            key=key,
            sha256=sha256,
            size=size,
            created_at=moment.isoformat(),
        )


def _stored(
    client: Minio, bucket: str, source: Path, model: UploadedModel, says: Mapping[str, object]
) -> bool:
    """Whether the model has the name now; if not, it is another's."""
    sidecar = f"{model.key.removesuffix('.onnx')}.json"
    known = {name: value for name, value in asdict(model).items() if value is not None}
    text = json.dumps(known | dict(says), indent=2, sort_keys=True).encode()
    claim = hashlib.sha256(text).hexdigest()
    with contextlib.ExitStack() as undo:
        # Before each act: one that was interrupted may have been carried out.
        undo.callback(_withdraw, client, bucket, sidecar, claim)
        if not _put_verified(client, bucket, sidecar, text, claim):
            return False
        for key, path, sha256 in _files(source, model):
            undo.callback(_withdraw, client, bucket, key, sha256)
            with path.open("rb") as file:
                if not _put_verified(client, bucket, key, file, sha256):
                    return False
        undo.pop_all()
    return True


def _files(source: Path, model: UploadedModel) -> Iterator[tuple[str, Path, str]]:
    """Keys, files and hashes; the model last, so that what can be seen has its weights."""
    if model.weights_sha256:
        stem = model.key.removesuffix(".onnx")
        weights = source.with_name(f"{model.weights_sha256}{SUFFIX}")
        yield f"{stem}{SUFFIX}", weights, model.weights_sha256
    yield model.key, source, model.sha256


def _weights(source: Path) -> Path | None:
    """The file beside the model, which must be what its name says."""
    weights = weights_beside(source)
    if weights is None:
        return None
    if not weights.is_file():
        raise ExportError(f"{source} has its weights in {weights.name}, which is not beside it")
    if _sha256(_chunks(weights)) != weights.stem:
        raise ExportError(f"{weights} is not what it was written as; export the model again")
    return weights


def _put_verified(
    client: Minio, bucket: str, key: str, body: bytes | BinaryIO, sha256: str
) -> bool:
    """Whether the object under a key is now this one, by reading it back."""
    is_new = put_new(client, bucket, key, body, _MEDIA_TYPES.get(key[-5:], _BYTES))
    found = _sha256(chunks_of(client, bucket, key))
    if is_new and found != sha256:
        client.remove_object(bucket, key)
        raise ExportError(
            f"{key} came back from {bucket!r} with sha256 {found}, sent was {sha256}; "
            "it was removed, try again"
        )
    return found == sha256


def _withdraw(client: Minio, bucket: str, key: str, sha256: str) -> None:
    """Remove an object that we wrote, and no other."""
    try:
        if _sha256(chunks_of(client, bucket, key)) == sha256:
            client.remove_object(bucket, key)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        if not (isinstance(error, S3Error) and error.code == "NoSuchKey"):
            # What went wrong before is on its way to the caller.
            logging.getLogger(__name__).warning(
                "%s may be left in bucket %r: %s", key, bucket, _told(error, bucket)
            )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_CHUNK), b"")


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _told(error: Exception, bucket: str) -> str:
    if isinstance(error, S3Error):
        return (
            f"the object store refused the model for bucket {bucket!r}: {error.code}, "
            f"{error.message}; check the credentials and what they may do"
        )
    return f"the object store with bucket {bucket!r} is out of reach: {error}; is it running?"
