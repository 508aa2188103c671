"""The object store: any S3, through the MinIO client.

Only this module speaks S3. Nothing here prints or represents a secret.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from heimdall_data.errors import ObjectMissing, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ObjectStore", "S3Settings", "StoredObject"]

_CONNECT_S = 3.0
_READ_S = 30.0
# MinIO's own default waits for minutes on a server that is not there.
_RETRIES = urllib3.Retry(
    total=2, connect=1, read=1, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)
)
_POOL_SIZE = 32
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_REFUSED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)


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
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(
                f"S3 endpoint {_without_login(self.endpoint_url)!r} is not a URL like "
                "http://host:9000; correct HEIMDALL_S3_ENDPOINT_URL"
            )
        if parts.username or parts.path.strip("/") or parts.query:
            raise StoreError(
                f"S3 endpoint {_without_login(self.endpoint_url)!r} has more than scheme, host "
                "and port; take the rest out of HEIMDALL_S3_ENDPOINT_URL"
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
                retries=_RETRIES,
                maxsize=_POOL_SIZE,
            ),
        )


def _without_login(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url


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
        with self._told_plainly(key):
            response = self._client.get_object(self.bucket, key)
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store `data` under `key`, whole or not at all, in place of what was there."""
        with self._told_plainly(key):
            self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), content_type=content_type
            )

    def stat(self, key: str) -> StoredObject | None:
        """Size and entity tag of the object, or None where there is none."""
        try:
            with self._told_plainly(key):
                found = self._client.stat_object(self.bucket, key)
        except ObjectMissing:
            return None
        return StoredObject(key, int(found.size or 0), str(found.etag or ""))

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        return self.stat(key) is not None

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens where there is none."""
        with self._told_plainly(key):
            self._client.remove_object(self.bucket, key)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins with `prefix`."""
        with self._told_plainly(prefix):
            for found in self._client.list_objects(self.bucket, prefix=prefix, recursive=True):
                yield StoredObject(
                    str(found.object_name), int(found.size or 0), str(found.etag or "").strip('"')
                )

    def bucket_exists(self) -> bool:
        """Whether the bucket exists; proves on the way that the credentials are good."""
        with self._told_plainly(""):
            return bool(self._client.bucket_exists(self.bucket))

    def require_bucket(self) -> None:
        """Refuse to go on where the bucket does not exist.

        Raises:
            StoreError: it does not, or the store cannot be reached or refuses us.
        """
        if not self.bucket_exists():
            raise StoreError(
                f"no bucket {self.bucket!r} in {self.settings.endpoint_url}; make it, or "
                "correct the bucket's name"
            )

    def ensure_bucket(self) -> None:
        """Make the bucket where it does not exist."""
        with self._told_plainly(""):
            if self._client.bucket_exists(self.bucket):
                return
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                # Somebody else made it between the question and the act.
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    @contextlib.contextmanager
    def _told_plainly(self, key: str) -> Iterator[None]:
        """Turn what the client raises into one sentence of ours, without secrets."""
        try:
            yield
        except S3Error as error:
            self._refuse(error, key)
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreError(
                f"no usable answer from the object store {self.settings.endpoint_url} "
                f"({_reason(error)}); check HEIMDALL_S3_ENDPOINT_URL and that the server runs"
            ) from error

    def _refuse(self, error: S3Error, key: str) -> NoReturn:
        where = f"{self.settings.endpoint_url}"
        if error.code in _MISSING:
            raise ObjectMissing(
                f"no object {key!r} in bucket {self.bucket!r} of {where}"
            ) from error
        if error.code == "NoSuchBucket":
            raise StoreError(
                f"no bucket {self.bucket!r} in {where}; make it, or correct the bucket's name"
            ) from error
        if error.code in _REFUSED:
            raise StoreError(
                f"{where} refuses our credentials for bucket {self.bucket!r} ({error.code}); "
                "check HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY"
            ) from error
        raise StoreError(
            f"{where} answered {error.code} for {key!r} in bucket {self.bucket!r}"
        ) from error


def _reason(error: Exception) -> str:
    """The innermost cause in few words: urllib3 wraps it several times."""
    inner: object = error
    while isinstance(inner, urllib3.exceptions.MaxRetryError) and inner.reason is not None:
        inner = inner.reason
    text = str(inner).rpartition(": ")[2] if isinstance(inner, urllib3.exceptions.HTTPError) else ""
    return text or f"{type(inner).__name__}: {inner}"
