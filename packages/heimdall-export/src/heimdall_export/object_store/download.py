"""Download of a model file from an object store: whole, and verified by its hash.

A file is written under another name until its hash is right, and kept under that hash: a file of
that name has those contents, whoever else reads the folder and whatever interrupted the writing.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from heimdall_export.atomic import whole_file
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX, file_sha256, weights_beside
from heimdall_export.object_store.store import (
    TRANSIENT_STATUS,
    WAITS_S,
    chunks_of,
    split_address,
    store_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from minio import Minio

    from heimdall_export.object_store.store import ArtifactStore

__all__ = ["fetch_model"]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """Hash and size of the right file, and who says so."""

    sha256: str
    size: int | None = None
    source: str


def fetch_model(uri: str, store: ArtifactStore, folder: Path, *, sha256: str | None = None) -> Path:
    """Download a model file unless it is in the folder already.

    Args:
        uri: `s3://bucket/key` of a model file.
        store: The object store.
        folder: Gets the file as `{sha256}.onnx` and its weights, if they are an object of their
            own, as `{sha256}.data`; made where it is missing.
        sha256: Expected hash of the file; that in its sidecar when None.

    Raises:
        ExportError: There is no such object or no sidecar, the store is out of reach or
            refuses, the file is not the expected one, or the folder cannot be written.
    """
    client = store.client()
    bucket, key = split_address(uri)
    stem = key.removesuffix(".onnx")
    try:
        with store_errors(f"fetch {uri}"):
            if sha256:
                expected = _Expected(sha256=sha256, source="the registry")
            else:
                expected = _sidecar(client, bucket, f"{stem}.json")
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{expected.sha256}.onnx"
            _ensure_file(client, bucket, key, expected, target)
            weights = weights_beside(target)
            if weights is not None:
                expected = _Expected(sha256=weights.stem, source="the model")
                _ensure_file(client, bucket, stem + SUFFIX, expected, weights)
    except OSError as error:
        raise ExportError(
            f"cannot keep {uri} in {folder}: {error.strerror}; give another cache_dir"
        ) from error
    return target


def _sidecar(client: Minio, bucket: str, key: str) -> _Expected:
    text = _with_retries(lambda: b"".join(chunks_of(client, bucket, key)))
    try:
        entries: dict[str, Any] = json.loads(text)
        return _Expected(
            sha256=str(entries["sha256"]), size=int(entries["size"]), source="its sidecar"
        )
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ExportError(
            f"the sidecar {key} in bucket {bucket!r} has no sha256 and size: {text[:100]!r}; "
            "upload the model with upload_model"
        ) from error


def _ensure_file(client: Minio, bucket: str, key: str, expected: _Expected, target: Path) -> None:
    if not (target.is_file() and file_sha256(target) == expected.sha256):
        _with_retries(lambda: _download(client, bucket, key, expected, target))


def _download(client: Minio, bucket: str, key: str, expected: _Expected, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with whole_file(target) as part:
        with part.open("wb") as file:
            for chunk in chunks_of(client, bucket, key):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
        for what, found, wanted in (
            ("size", size, expected.size),
            ("sha256", digest.hexdigest(), expected.sha256),
        ):
            if wanted not in (None, found):
                raise ExportError(
                    f"s3://{bucket}/{key} has {what} {found}, {expected.source} says {wanted}: it "
                    "is not the file that was uploaded, do not use it"
                )


def _with_retries(act: Callable[[], _Answer]) -> _Answer:
    """Act, up to four times while the store's failure may be transient."""
    import urllib3
    from minio.error import MinioException

    for wait_s in WAITS_S:
        try:
            return act()
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            answer = getattr(error, "response", None)  # the answer that an S3Error stands for
            if answer is not None and answer.status not in TRANSIENT_STATUS:
                raise
        time.sleep(wait_s)
    return act()
