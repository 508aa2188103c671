"""The object store: any S3, through the MinIO client.

Only this module speaks S3. Nothing here prints or represents a secret.
"""

from __future__ import annotations

import io
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from heimdall_data.errors import ObjectMissing, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ObjectStore", "S3Settings", "StoredObject"]

_CONNECT_S = 3.0
_READ_S = 30.0
_POOL_SIZE = 32
# What may have passed when we ask again, and how long we wait before we do.
_PASSING = frozenset({"InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"})
_PAUSES_S = (0.1, 0.5, 1.5)
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_REFUSED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)
# The client refuses odd names of buckets and keys with a ValueError.
_FAULTS = (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where the object store is and who we are there."""

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    raw_iq_bucket: str = "heimdall-raw-iq"
    models_bucket: str = "heimdall-models"

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint_url)
        plain = not (parts.username or parts.path.strip("/") or parts.query)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            # Whatever stands before an @ may be a password.
            shown = self.endpoint_url.rpartition("@")[2]
            raise StoreError(
                f"S3 endpoint {shown!r} is not a URL like http://host:9000, without login or "
                "path; correct HEIMDALL_S3_ENDPOINT_URL"
            )

    def client(self) -> Minio:
        """A MinIO client of this store; it connects on first use.

        It gives up on a server that does not answer after seconds.
        """
        parts = urlsplit(self.endpoint_url)
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
            region=self.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
                # MinIO's own default waits for minutes on a server that is not there.
                retries=urllib3.Retry(total=None, connect=0, read=0, redirect=2, status=0, other=0),
                maxsize=_POOL_SIZE,
            ),
        )


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

    def __init__(self, settings: S3Settings, bucket: str) -> None:
        self.settings = settings
        self.bucket = bucket
        self._client = settings.client()

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[S3Settings, str]]:
        return (ObjectStore, (self.settings, self.bucket))

    def get(self, key: str) -> bytes:
        """The object's bytes.

        Raises:
            ObjectMissing: there is none under `key`.
            StoreError: the store cannot be reached, refuses us or lacks the bucket.
        """

        def read() -> bytes:
            response = self._client.get_object(self.bucket, key)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

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
        return StoredObject(key, int(found.size or 0), str(found.etag or ""))

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
            StoredObject(str(item.object_name), int(item.size or 0), str(item.etag).strip('"'))
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
            raise self._no_bucket()

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
        """What the store answers; what may heal is asked again, after a growing pause."""
        pauses_s = iter(_PAUSES_S)
        while True:
            try:
                return ask()
            except _FAULTS as error:
                pause_s = next(pauses_s, None)
                if pause_s is None or not _may_heal(error):
                    raise self._told_plainly(error, key) from error
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    def _told_plainly(self, error: Exception, key: str) -> StoreError:
        """What went wrong in one sentence of ours, without secrets."""
        where = self.settings.endpoint_url
        if not isinstance(error, S3Error):
            return StoreError(
                f"no usable answer from the object store {where} ({_reason(error)}); "
                "check HEIMDALL_S3_ENDPOINT_URL and that the server runs"
            )
        if error.code in _MISSING:
            return ObjectMissing(f"no object {key!r} in bucket {self.bucket!r} of {where}")
        if error.code == "NoSuchBucket":
            return self._no_bucket()
        if error.code in _REFUSED:
            return StoreError(
                f"{where} refuses our credentials for bucket {self.bucket!r} ({error.code}); "
                "check HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY"
            )
        return StoreError(f"{where} answers {error.code} for {key!r} in bucket {self.bucket!r}")

    def _no_bucket(self) -> StoreError:
        return StoreError(
            f"no bucket {self.bucket!r} in {self.settings.endpoint_url}; make it, or correct "
            "the bucket's name"
        )


def _innermost(error: Exception) -> Exception:
    """What urllib3 wrapped, perhaps several times."""
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    return error


def _may_heal(error: Exception) -> bool:
    if isinstance(error, S3Error):
        return error.code in _PASSING
    cause = _innermost(error)
    # A host that does not answer has cost seconds already, and a bad name stays bad. The
    # exact type: a refused connection, which a restart heals, is a subclass of it.
    silent = isinstance(cause, urllib3.exceptions.ReadTimeoutError) or (
        type(cause) is urllib3.exceptions.ConnectTimeoutError
    )
    return not (silent or isinstance(cause, (urllib3.exceptions.NameResolutionError, ValueError)))


def _reason(error: Exception) -> str:
    cause = _innermost(error)
    return str(cause).rpartition(": ")[2] or type(cause).__name__
