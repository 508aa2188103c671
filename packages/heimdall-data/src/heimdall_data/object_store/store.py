"""The object store: any S3, through the MinIO client.

Only this module speaks S3. Nothing here prints or represents a secret.

An object on its way to us: never a part of it taken for the whole, and never for ever.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from minio.error import S3Error
from urllib3.exceptions import ProtocolError

from heimdall_data.errors import ObjectMissing
from heimdall_data.object_store.errors import FAULTS, BrokenObject, mlflow_errors, no_bucket
from heimdall_data.object_store.retry import Waiting, has_answered, remember_answer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from urllib3.response import BaseHTTPResponse

    from heimdall_data.object_store.settings import S3Settings

__all__ = ["ObjectStore", "StoredObject", "TooSlow", "download"]


_CHUNK_BYTES = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION = "x-amz-server-side-encryption"


class TooSlow(OSError):
    """The object comes more slowly than is any use."""


def download(
    response: BaseHTTPResponse, *, grace_s: float, least_bytes_per_s: float, check_md5: bool
) -> bytes:
    """All bytes of the object.

    Args:
        response: its headers are read, its body is not.
        grace_s: this long any rate will do.
        least_bytes_per_s: the mean rate that it must reach after that.
        check_md5: compare with the entity tag, where that is a sum of the content.

    Raises:
        BrokenObject: it ended early, or its content is not that of its entity tag.
        TooSlow: it came more slowly than at the least rate.
    """
    started_s = time.monotonic()
    size = response.headers.get("content-length")
    chunks: list[bytes] = []
    n_bytes = 0
    while chunk := _next_bytes(response):
        chunks.append(chunk)
        n_bytes += len(chunk)
        taken_s = time.monotonic() - started_s
        if taken_s > grace_s + n_bytes / least_bytes_per_s:
            raise TooSlow(f"{n_bytes} of {size} bytes came in {taken_s:.0f} s")
    if size is not None and n_bytes != int(size):
        raise BrokenObject(f"{n_bytes} bytes came of {size}")
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if check_md5:
        _check_md5(response, body)
    return body


def _next_bytes(response: BaseHTTPResponse) -> bytes:
    """What has come by now, at least one byte; none at the end."""
    try:
        return response.read1(_CHUNK_BYTES)
    except ProtocolError as error:
        raise BrokenObject("the connection ended in the middle of it") from error


def _check_md5(response: BaseHTTPResponse, body: bytes) -> None:
    """Compare with the entity tag: the MD5 sum of what was sent in one piece, unencrypted.

    Source: Amazon S3 API Reference, "Object", `ETag`.
    """
    tag = response.headers.get("etag", "").strip('"').lower()
    encrypted = response.headers.get(_ENCRYPTION, "AES256") != "AES256"
    own_key = f"{_ENCRYPTION}-customer-algorithm" in response.headers
    if encrypted or own_key or not _MD5.fullmatch(tag):
        return
    found = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if found != tag:
        raise BrokenObject(f"its content has the MD5 sum {found}, its entity tag says {tag}")


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object without sending it."""

    key: str
    size: int
    etag: str


class ObjectStore:
    """One bucket: whole objects by key.

    Safe to use from several threads. Pickles: a copy in another process connects by itself.
    """

    def __init__(
        self,
        settings: S3Settings,
        bucket: str,
        *,
        known: bool = False,
        interrupted: threading.Event | None = None,
    ) -> None:
        """Talk to `bucket`; nothing is asked yet.

        Args:
            settings: where the store is, and who we are there.
            bucket: its name.
            known: the store has answered elsewhere, and is waited for if it does not here.
            interrupted: once it is set, what fails is not asked again.
        """
        self.settings = settings
        self.bucket = bucket
        self._client = settings.client()
        self._waiting = Waiting(settings.endpoint_url, settings.patience_s, interrupted)
        if known:
            remember_answer(settings.endpoint_url)

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[S3Settings, str, bool]]:
        return (_copy, (self.settings, self.bucket, has_answered(self.settings.endpoint_url)))

    def get(self, key: str) -> bytes:
        """The object's bytes, all of them.

        Raises:
            ObjectMissing: there is none under `key`.
            ObjectUnreadable: it does not come whole, or there can be none of that name.
            BucketUnusable: the bucket is missing or closed to us.
            StoreError: the store cannot be reached or refuses us.
        """
        return self.get_with_version(key)[0]

    def get_with_version(self, key: str) -> tuple[bytes, StoredObject]:
        """The object's bytes, and which version of it they are.

        Raises:
            StoreError: as `get`.
        """

        def read() -> tuple[bytes, StoredObject]:
            response = self._client.get_object(self.bucket, key)
            whole = False
            try:
                data = download(
                    response,
                    grace_s=self.settings.stall_s,
                    least_bytes_per_s=self.settings.least_bytes_per_s,
                    check_md5=self.settings.check_md5,
                )
                whole = True
            finally:
                if not whole:  # the rest of the object is still on its way
                    response.close()
                response.release_conn()
            return data, StoredObject(key, len(data), _tag(response.headers.get("etag")))

        return self._answer(key, read)

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store `data` under `key`, whole or not at all, in place of what was there."""
        self._answer(
            key,
            lambda: self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), content_type=content_type
            ),
        )

    def stat(self, key: str) -> StoredObject | None:
        """Size and entity tag of the object, or None where there is none."""
        try:
            found = self._answer(key, lambda: self._client.stat_object(self.bucket, key))
        except ObjectMissing:
            return None
        return StoredObject(key, int(found.size or 0), _tag(found.etag))

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        return self.stat(key) is not None

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens where there is none."""
        self._answer(key, lambda: self._client.remove_object(self.bucket, key))

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Every object whose key begins with `prefix`."""
        found = self._answer(
            prefix,
            lambda: [*self._client.list_objects(self.bucket, prefix=prefix, recursive=True)],
        )
        return [
            StoredObject(str(item.object_name), int(item.size or 0), _tag(item.etag))
            for item in found
        ]

    def bucket_exists(self) -> bool:
        """Whether the bucket exists; proves on the way that the credentials are good."""
        return bool(self._answer("", lambda: self._client.bucket_exists(self.bucket)))

    def require_bucket(self) -> None:
        """Refuse to go on where the bucket does not exist.

        Raises:
            StoreError: it does not, or the store cannot be reached or refuses us.
        """
        if not self.bucket_exists():
            raise no_bucket(self.settings.endpoint_url, self.bucket)

    def ensure_bucket(self) -> None:
        """Make the bucket where it does not exist."""

        def make() -> None:
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                # Somebody else made it between the question and the act.
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

        if not self.bucket_exists():
            self._answer("", make)

    def _answer(self, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """What the store answers in the end."""
        try:
            return self._waiting.answer(ask)
        except FAULTS as error:
            raise mlflow_errors(error, self.settings, self.bucket, key) from error


def _copy(settings: S3Settings, bucket: str, known: bool) -> ObjectStore:  # noqa: FBT001 - for pickle
    return ObjectStore(settings, bucket, known=known)


def _tag(etag: str | None) -> str:
    """The entity tag without its quotes."""
    return (etag or "").strip('"')
