"""A model file out of an object store: whole, and proven to be the one.

It is written under another name until its hash is right, and kept under that hash: what has the
name has the contents, whoever else reads the folder, and whatever interrupted the writing.

Where a model is in an object store: `s3://bucket/key`.

The bytes of an object in a store, as they come.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX, weights_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from minio import Minio

    from heimdall_export.object_store.settings import ArtifactStore

__all__ = ["S3_SCHEME", "chunks_of", "fetch_model", "split_address"]


S3_SCHEME = "s3://"
_BUCKET = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")


def split_address(uri: str) -> tuple[str, str]:
    """Bucket and key.

    Raises:
        ExportError: It is no address, or one that no store takes.
    """
    bucket, _, key = uri.removeprefix(S3_SCHEME).partition("/")
    is_key = key and key.isprintable() and not {".", ".."} & set(key.split("/"))
    if not (uri.startswith(S3_SCHEME) and _BUCKET.fullmatch(bucket) and is_key):
        raise ExportError(
            f"{uri[:200]!r} is no model's address; give s3://bucket/key, such as "
            "s3://heimdall-models/models/localization/v20261120_120000.onnx"
        )
    return bucket, key


_CHUNK = 2**20


def chunks_of(client: Minio, bucket: str, key: str) -> Iterator[bytes]:
    """The object in pieces; its connection is given back however the reading ends.

    Raises:
        MinioException: It is not there, or may not be read.
        HTTPError: urllib3's, of a store that does not answer.
    """
    answer = client.get_object(bucket, key)
    try:
        yield from answer.stream(_CHUNK)
    finally:
        answer.close()
        answer.release_conn()


_WAITS_S = (0.1, 0.4, 1.6)
"""Before each further attempt at what can heal."""
_CAN_HEAL = (429, 500, 502, 503, 504)
_CONNECT_S, _STALL_S = 10.0, 60.0
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proof:
    """What the file must be."""

    sha256: str
    size: int | None = None
    said_by: str = "the registry"


def fetch_model(uri: str, store: ArtifactStore, folder: Path, *, sha256: str | None = None) -> Path:
    """The model file, downloaded unless it is in the folder already.

    Args:
        uri: `s3://bucket/key` of a model file.
        store: The object store.
        folder: Where the file goes, as `{sha256}.onnx`, and its weights, if they are an object
            of their own, as `{sha256}.data`; made where it is missing.
        sha256: What the file must be; what its sidecar says when None.

    Raises:
        ExportError: There is no such object or no sidecar, the store is out of reach or
            refuses, the file is not what it must be, or the folder cannot be written.
    """
    client = _client(store)
    bucket, key = split_address(uri)
    with _told(uri, folder):
        proof = _Proof(sha256=sha256) if sha256 else _sidecar(client, bucket, key)
        target = folder / f"{proof.sha256}.onnx"
        if not (target.is_file() and _sha256(target) == proof.sha256):
            folder.mkdir(parents=True, exist_ok=True)
            _until_it_heals(lambda: _download(client, bucket, key, proof, target))
        _fetch_weights(client, bucket, key, target)
    return target


def _fetch_weights(client: Minio, bucket: str, key: str, model: Path) -> None:
    """What a proven model has in a second object, whose hash it knows."""
    weights = weights_beside(model)
    if weights is None or (weights.is_file() and _sha256(weights) == weights.stem):
        return
    proof = _Proof(sha256=weights.stem, said_by="the model")
    beside = f"{key.removesuffix('.onnx')}{SUFFIX}"
    _until_it_heals(lambda: _download(client, bucket, beside, proof, weights))


def _client(store: ArtifactStore) -> Minio:
    try:
        import urllib3
        from minio import Minio
    except ModuleNotFoundError as error:
        raise ExportError(
            f"a model in an object store needs {error.name}: pip install 'heimdall-export[s3]'"
        ) from error
    try:
        parts = urlsplit(store.endpoint_url)
        return Minio(
            parts.netloc,
            access_key=store.access_key,
            secret_key=store.secret_key,
            secure={"https": True, "http": False}[parts.scheme],
            region=store.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_STALL_S), retries=False
            ),
        )
    except (KeyError, ValueError):  # its message may hold a password
        raise ExportError(
            "HEIMDALL_S3_ENDPOINT_URL is no URL like http://host:9000; correct it"
        ) from None


@contextlib.contextmanager
def _told(uri: str, folder: Path) -> Iterator[None]:
    """Turn what the store, the network or the disk raise into one `ExportError`."""
    import urllib3
    from minio.error import MinioException, S3Error

    try:
        yield
    except S3Error as error:
        raise ExportError(
            f"the object store does not give {uri}: {error.code}, {error.message}; check the "
            "address, the credentials and what they may read"
        ) from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise ExportError(
            f"{uri} is out of reach: {type(error).__name__}; does the object store run?"
        ) from error
    except OSError as error:
        raise ExportError(
            f"{uri} cannot be kept in {folder}: {error.strerror}; give another cache_dir"
        ) from error


def _until_it_heals(act: Callable[[], _Answer]) -> _Answer:
    """What comes of an act that is tried four times."""
    import urllib3
    from minio.error import MinioException

    for wait_s in _WAITS_S:
        try:
            return act()
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            answer = getattr(error, "response", None)  # S3Error has the answer that it stands for
            if answer is not None and answer.status not in _CAN_HEAL:
                raise
        time.sleep(wait_s)
    return act()


def _sidecar(client: Minio, bucket: str, key: str) -> _Proof:
    name = f"{key.removesuffix('.onnx')}.json"
    text = _until_it_heals(lambda: b"".join(chunks_of(client, bucket, name)))
    try:
        says: dict[str, Any] = json.loads(text)
        return _Proof(sha256=str(says["sha256"]), size=int(says["size"]), said_by="its sidecar")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ExportError(
            f"the sidecar {name} in bucket {bucket!r} does not say sha256 and size: "
            f"{text[:100]!r}; upload the model with upload_model"
        ) from error


def _download(client: Minio, bucket: str, key: str, proof: _Proof, target: Path) -> None:
    """Beside its place, and there at once if it is right."""
    digest, size = hashlib.sha256(), 0
    handle, part = tempfile.mkstemp(prefix=".download-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks_of(client, bucket, key):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
        _require(f"s3://{bucket}/{key}", digest.hexdigest(), size, proof)
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)


def _require(uri: str, sha256: str, size: int, proof: _Proof) -> None:
    if proof.size not in (None, size):
        raise ExportError(
            f"{uri} has {size} bytes, {proof.said_by} says {proof.size}; it is not the file "
            "that was uploaded, do not use it"
        )
    if sha256 != proof.sha256:
        raise ExportError(
            f"{uri} has sha256 {sha256}, {proof.said_by} says {proof.sha256}; it is not the "
            "file that was uploaded, do not use it"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
