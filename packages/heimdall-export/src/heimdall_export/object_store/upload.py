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
from typing import TYPE_CHECKING

import urllib3
from heimdall_features.outside_json import parsed_json
from minio.error import S3Error

from heimdall_export.contract import MODEL_FOLDER
from heimdall_export.errors import ExportError
from heimdall_export.model_files import CARD_SUFFIX, SUFFIX, file_sha256, weights_beside
from heimdall_export.object_store.store import (
    TRANSIENT_STATUS,
    chunks_of,
    ensure_bucket,
    pool_for,
    split_address,
    store_errors,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import BinaryIO

    from minio import Minio

_STORED = (200, 201, 204)
_NOT_SO = (404, 409, 412)
"""Where the condition is not met; 404 where the object to replace is gone."""
_NEW = {"If-None-Match": "*"}
_MOST_NAMES = 60
_WAITS_S = (0.2, 0.5, 1.4)
"""Before the second attempt and those after it."""
"""Number of names that are tried, one for each second from the wanted one on."""
_TYPES = {".json": "application/json", CARD_SUFFIX: "text/markdown; charset=utf-8"}
_IDENTITY = ("uri", "key", "sha256", "size", "created_at", "weights_sha256", "run_id", "upload_id")
"""Entries of a sidecar that identify the model; additions must not change them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedModel:
    """A model in the object store; these fields are in its sidecar too."""

    uri: str
    """`s3://bucket/key`"""
    key: str
    """Key in the bucket."""
    sha256: str
    """Hash of the file."""
    size: int
    """Bytes of the file."""
    created_at: str
    """Time of the upload, ISO 8601, UTC."""
    weights_sha256: str | None = None
    """Hash of the object `.data` beside it, where the weights are too many for one."""


def upload_model(
    client: Minio,
    bucket: str,
    path: str | os.PathLike[str],
    *,
    run_id: str,
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    created_at: datetime | None = None,
    card: str | os.PathLike[str] | None = None,
    make_bucket: bool = False,
) -> UploadedModel:
    """Store a model file and its sidecar under the contract's next free name.

    Args:
        client: The object store.
        bucket: An existing bucket, unless `make_bucket` is set.
        path: The ONNX file; weights in a file beside it go along.
        run_id: MLflow run that made it.
        metrics: Entries of the sidecar; null there for what is not finite.
        versions: Versions of our packages, for the sidecar.
        created_at: Aware; now when None. The next second is used where one is taken.
        card: File that `write_card` wrote, stored as `.md` beside the model.
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
        weights = weights_beside(source)
        if weights is not None and not weights.is_file():
            raise ExportError(f"{source} has its weights in {weights.name}, which is not beside it")
        if weights is not None and file_sha256(weights) != weights.stem:
            raise ExportError(f"{weights} was changed since it was written; export the model again")
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
                beside = {SUFFIX: weights, CARD_SUFFIX: Path(card) if card else None}
                if _stored(client, bucket, source, beside, model, further):
                    return model
    except OSError as error:
        raise ExportError(f"cannot read the model file {source}: {error.strerror}") from error
    raise ExportError(
        f"the names from v{first:%Y%m%d_%H%M%S} on are taken in {bucket!r}; is the clock right?"
    )


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
    beside: Mapping[str, Path | None],
    model: UploadedModel,
    further: Mapping[str, object],
) -> bool:
    """Store sidecar, weights, card and model under the name; False if another has the name."""
    stem = model.key.removesuffix(".onnx")
    known = {name: value for name, value in asdict(model).items() if value is not None}
    sidecar = json.dumps(known | dict(further), indent=2, sort_keys=True).encode()
    parts: list[tuple[str, BinaryIO, str]] = [
        (".json", io.BytesIO(sidecar), hashlib.sha256(sidecar).hexdigest())
    ]
    with contextlib.ExitStack() as files, contextlib.ExitStack() as undo:
        for suffix, path in beside.items():
            if path:
                parts.append((suffix, files.enter_context(path.open("rb")), file_sha256(path)))
        parts.append((".onnx", files.enter_context(source.open("rb")), model.sha256))
        for suffix, file, sha256 in parts:
            key = stem + suffix
            # Registered before the act, because an interrupted one may have been carried out.
            undo.callback(_withdraw, client, bucket, key, sha256)
            is_new = _put(client, bucket, key, file, _NEW)
            found = _object_sha256(client, bucket, key)
            if found == sha256:
                continue
            if not is_new:
                return False
            client.remove_object(bucket, key)
            raise ExportError(
                f"{key} came back from {bucket!r} with sha256 {found}, sent was {sha256}; "
                "it was removed, try again"
            )
        undo.pop_all()
    return True


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


def _put(
    client: Minio, bucket: str, key: str, file: BinaryIO, condition: Mapping[str, str]
) -> bool:
    """Store an object if the store finds the condition true, in four attempts; else False.

    If a connection broke, an earlier attempt may have stored the object: compare it.
    """
    headers = {
        "Content-Type": _TYPES.get(key[key.rindex(".") :], "application/octet-stream"),
        # Without it a file would go in chunks of unknown number, which S3 does not take.
        "Content-Length": str(file.seek(0, io.SEEK_END)),
        **condition,
    }
    timeout = urllib3.Timeout(connect=10.0, read=60.0)
    reason = ""
    for wait_s in (0.0, *_WAITS_S):
        time.sleep(wait_s)
        file.seek(0)
        # Each attempt has its own URL, which expires. Whoever reads it may write: urllib3 logs the
        # URLs that it retries, and its errors hold them.
        url = client.presigned_put_object(bucket, key, timedelta(minutes=15))
        try:
            with pool_for(url, timeout=timeout, retries=False) as pool:
                answer = pool.request("PUT", url, body=file, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            reason = type(error).__name__
            continue
        if answer.status in _STORED + _NOT_SO:
            return answer.status in _STORED
        reason = f"status {answer.status}, {answer.data[:300].decode(errors='replace')}"
        if answer.status not in TRANSIENT_STATUS:
            break
    raise ExportError(
        f"cannot put {key} into bucket {bucket!r}: {reason}; check that the object store runs, "
        "and the permissions of the credentials"
    )


def add_to_sidecar(client: Minio, uri: str, name: str, value: object) -> str:
    """Add an entry to the sidecar of a model at `s3://bucket/key.onnx`, or replace an added one.

    Returns:
        The sidecar's address.

    Raises:
        ExportError: There is no sidecar, or it is not a JSON object; the entry identifies the
            model, or JSON cannot hold it (NaN, infinity); the sidecar was changed or deleted
            meanwhile; or the store refuses or is out of reach.
    """
    if name in _IDENTITY:
        raise ExportError(f"{name!r} identifies the model of a sidecar; it cannot be changed")
    bucket, key = split_address(uri)
    sidecar = f"{key.removesuffix('.onnx')}.json"
    with store_errors(f"add {name!r} to {sidecar} in bucket {bucket!r}"):
        state = client.stat_object(bucket, sidecar).etag
        old = b"".join(chunks_of(client, bucket, sidecar))
        try:
            entries = {**parsed_json(old), name: value}
        except (ValueError, TypeError) as error:
            raise ExportError(
                f"the sidecar {sidecar} is not a JSON object: {old[:100]!r}"
            ) from error
        try:
            new = json.dumps(entries, indent=2, sort_keys=True, allow_nan=False).encode()
        except (ValueError, TypeError) as error:
            raise ExportError(f"JSON cannot hold {name!r}: {error}; give null instead") from error
        # A version that is deleted meanwhile must not get its sidecar back.
        if not _put(client, bucket, sidecar, io.BytesIO(new), {"If-Match": f'"{state}"'}):
            raise ExportError(
                f"{sidecar} in bucket {bucket!r} was changed or deleted meanwhile; {name!r} was "
                "not added, try again if the model is still there"
            )
    return f"s3://{bucket}/{sidecar}"
