"""Upload of a model file into an object store: under a new name, verified, never over another.

The sidecar goes first and claims the name; the model follows, whole or not at all, and is read
back. So a model that can be seen has its sidecar, and a failure on the way leaves neither. A
sidecar alone is the claim of an upload that was killed: the name is used up, nothing else.

The store itself refuses to replace an object (`If-None-Match: *`, RFC 9110, section 13.1.2; in S3
since 2024, in MinIO and SeaweedFS too), so that of two writers one wins. The MinIO client cannot
send that header, but a presigned URL takes it.
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3
from minio.error import S3Error

from heimdall_export.contract import MODEL_FOLDER
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX, file_sha256, weights_beside
from heimdall_export.object_store.store import (
    TRANSIENT_STATUS,
    WAITS_S,
    chunks_of,
    ensure_bucket,
    split_address,
    store_errors,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import BinaryIO

    from minio import Minio

__all__ = ["UploadedModel", "add_to_sidecar", "put_new", "upload_model"]

_STORED = (200, 201, 204)
_NAME_TAKEN = (409, 412)
_VALID = timedelta(minutes=15)
_CONNECT_S, _READ_S = 10.0, 60.0
_MOST_NAMES = 60
"""Seconds after the wanted one that are tried for a name."""
_JSON, _BYTES = "application/json", "application/octet-stream"
_IDENTITY = ("uri", "key", "sha256", "size", "created_at", "weights_sha256", "run_id", "upload_id")
"""Entries of a sidecar that identify the model; additions must not change them."""


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
        bucket: Must exist, unless it may be made.
        path: The ONNX file; weights in a file beside it go along.
        run_id: MLflow run that made it.
        metrics: Go into the sidecar, null for what is not finite.
        versions: Of our packages; go into the sidecar.
        created_at: Aware; now when None. The next second is used where one is taken.
        make_bucket: Make the bucket where it is missing.

    Raises:
        ExportError: The file cannot be read, the store refuses or is out of reach, or what it
            gives back is not what was sent. Nothing is left in the store then.
    """
    source = Path(path)
    first = (created_at or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    further = {
        "run_id": run_id,
        # JSON has no numbers of NumPy or torch, and no NaN.
        "metrics": {n: float(v) if math.isfinite(v) else None for n, v in metrics.items()},
        "versions": dict(versions),
        # Tells our claim from the equal one of another upload of the same file.
        "upload_id": uuid.uuid4().hex,
    }
    try:
        sha256, size = file_sha256(source), source.stat().st_size
        weights = _weights(source)
        with store_errors(f"upload {source} into bucket {bucket!r}"):
            _require_bucket(client, bucket, make=make_bucket)
            for moment in (first + timedelta(seconds=second) for second in range(_MOST_NAMES)):
                key = f"{MODEL_FOLDER}/v{moment:%Y%m%d_%H%M%S}.onnx"
                model = UploadedModel(
                    uri=f"s3://{bucket}/{key}",
                    key=key,
                    sha256=sha256,
                    size=size,
                    created_at=moment.isoformat(),
                    weights_sha256=weights.stem if weights else None,
                )
                if _stored(client, bucket, source, weights, model, further):
                    return model
    except OSError as error:
        raise ExportError(f"cannot read the model file {source}: {error.strerror}") from error
    raise ExportError(
        f"the names from v{first:%Y%m%d_%H%M%S} on are taken in {bucket!r}; is the clock right?"
    )


def _weights(source: Path) -> Path | None:
    """The file beside the model, verified by the hash in its name."""
    weights = weights_beside(source)
    if weights is not None and not weights.is_file():
        raise ExportError(f"{source} has its weights in {weights.name}, which is not beside it")
    if weights is not None and file_sha256(weights) != weights.stem:
        raise ExportError(f"{weights} was changed since it was written; export the model again")
    return weights


def _require_bucket(client: Minio, bucket: str, *, make: bool) -> None:
    try:
        exists = client.bucket_exists(bucket)
    except ValueError as error:
        raise ExportError(f"invalid bucket name {bucket!r}: {error}") from error
    # Some stores make a missing bucket on the first object; a misspelt name must not pass.
    if not exists and not make:
        raise ExportError(f"no bucket {bucket!r}; make it, or set HEIMDALL_MODELS_BUCKET")
    ensure_bucket(client, bucket)


def _stored(
    client: Minio,
    bucket: str,
    source: Path,
    weights: Path | None,
    model: UploadedModel,
    further: Mapping[str, object],
) -> bool:
    """Store sidecar, weights and model under the name; False if the name is another's."""
    stem = model.key.removesuffix(".onnx")
    known = {name: value for name, value in asdict(model).items() if value is not None}
    sidecar = json.dumps(known | dict(further), indent=2, sort_keys=True).encode()
    files = [(model.key, source, model.sha256)]
    if weights:
        files.insert(0, (stem + SUFFIX, weights, weights.stem))
    with contextlib.ExitStack() as undo:
        # Before each act: one that was interrupted may have been carried out.
        claim = hashlib.sha256(sidecar).hexdigest()
        undo.callback(_withdraw, client, bucket, f"{stem}.json", claim)
        if not _put_verified(client, bucket, f"{stem}.json", sidecar, claim, _JSON):
            return False
        for key, path, sha256 in files:
            undo.callback(_withdraw, client, bucket, key, sha256)
            with path.open("rb") as file:
                if not _put_verified(client, bucket, key, file, sha256, _BYTES):
                    return False
        undo.pop_all()
    return True


def _put_verified(
    client: Minio, bucket: str, key: str, body: bytes | BinaryIO, sha256: str, content_type: str
) -> bool:
    """Store an object and read it back; False if another one has the key."""
    is_new = put_new(client, bucket, key, body, content_type)
    found = _object_sha256(client, bucket, key)
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
        with store_errors(f"remove {key} from bucket {bucket!r}"):
            if _object_sha256(client, bucket, key) == sha256:
                client.remove_object(bucket, key)
    except ExportError as error:
        cause = error.__cause__
        if not (isinstance(cause, S3Error) and cause.code == "NoSuchKey"):
            # Not raised: the error that led here is on its way to the caller.
            logging.getLogger(__name__).warning("%s; it may be left there", error)


def _object_sha256(client: Minio, bucket: str, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in chunks_of(client, bucket, key):
        digest.update(chunk)
    return digest.hexdigest()


def put_new(
    client: Minio, bucket: str, key: str, body: bytes | BinaryIO, content_type: str
) -> bool:
    """Store an object under a name that is free.

    Args:
        client: The object store.
        bucket: Must exist.
        key: The name.
        body: The contents, or a file, which is sent from its beginning.
        content_type: Its media type.

    Returns:
        False where the name is taken: after a connection that broke, by this very call perhaps,
        so compare the object there.

    Raises:
        ExportError: The store refuses, or is out of reach after four attempts.
    """
    file = io.BytesIO(body) if isinstance(body, bytes) else body
    headers = {
        "Content-Type": content_type,
        # Without it a file would go in chunks of unknown number, which S3 does not take.
        "Content-Length": str(file.seek(0, io.SEEK_END)),
        "If-None-Match": "*",
    }
    timeout = urllib3.Timeout(connect=_CONNECT_S, read=_READ_S)
    reason = ""
    for wait_s in (0.0, *WAITS_S):
        time.sleep(wait_s)
        file.seek(0)
        url = client.presigned_put_object(bucket, key, _VALID)
        with urllib3.PoolManager(timeout=timeout, retries=False) as pool:
            try:
                answer = pool.request("PUT", url, body=file, headers=headers)
            except urllib3.exceptions.HTTPError as error:
                # Not its text, which may hold the URL: whoever has that may write.
                reason = type(error).__name__
                continue
        if answer.status in _STORED:
            return True
        if answer.status in _NAME_TAKEN:
            return False
        reason = f"status {answer.status}, {answer.data[:300].decode(errors='replace')}"
        if answer.status not in TRANSIENT_STATUS:
            break
    raise ExportError(
        f"cannot put {key} into bucket {bucket!r}: {reason}; check that the object store runs, "
        "and the permissions of the credentials"
    )


def add_to_sidecar(client: Minio, uri: str, name: str, value: object) -> str:
    """Add an entry to a stored model's sidecar, or replace one that was added before.

    Args:
        client: The object store.
        uri: The model's address, `s3://bucket/key.onnx`.
        name: Name of the entry.
        value: Anything JSON can hold, so neither NaN nor infinity.

    Returns:
        The sidecar's address.

    Raises:
        ExportError: There is no such address or no sidecar, or it is not a JSON object; the entry
            is one that identifies the model, or not for JSON; or the store refuses or is out of
            reach.
    """
    if name in _IDENTITY:
        raise ExportError(f"{name!r} identifies the model of a sidecar; it cannot be changed")
    bucket, key = split_address(uri)
    sidecar = f"{key.removesuffix('.onnx')}.json"
    with store_errors(f"add {name!r} to {sidecar} in bucket {bucket!r}"):
        old = b"".join(chunks_of(client, bucket, sidecar))
        new = _with_entry(old, sidecar, name, value)
        client.put_object(bucket, sidecar, io.BytesIO(new), len(new), _JSON)
    return f"s3://{bucket}/{sidecar}"


def _with_entry(text: bytes, sidecar: str, name: str, value: object) -> bytes:
    try:
        entries: Any = json.loads(text)
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise ExportError(f"the sidecar {sidecar} is not a JSON object: {text[:100]!r}")
    try:
        changed = entries | {name: value}
        return json.dumps(changed, indent=2, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ExportError(f"JSON cannot hold {name!r}: {error}; give null instead") from error
