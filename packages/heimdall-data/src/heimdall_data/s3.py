"""The object store: any S3, through the MinIO client.

Only this module speaks S3. Nothing here prints or represents a secret.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import S3Error

from heimdall_data.errors import ObjectMissing, StoreError
from heimdall_data.s3_download import download
from heimdall_data.s3_faults import FAULTS, no_bucket, told_plainly
from heimdall_data.s3_waiting import Waiting, has_answered, remember_answer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

__all__ = ["ObjectStore", "S3Settings", "StoredObject"]

_CONNECT_S = 3.0
_POOL_SIZE = 32
_Answer = TypeVar("_Answer")


_HOST = re.compile(r"[^\s/\\@]+")
_REGION = re.compile(r"(?![_-])[A-Za-z0-9_-]{1,63}(?<![_-])")
_KEY = re.compile(r"[!-~]+")


def _is_endpoint(url: str) -> bool:
    """Whether it is the URL of a server, and no more."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is parsed when it is asked for
    except ValueError:
        return False
    more = parts.username or parts.path.strip("/") or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.netloc)) and not more


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where the object store is and who we are there."""

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    raw_iq_bucket: str = "heimdall-raw-iq"
    models_bucket: str = "heimdall-models"
    patience_s: float = 60.0
    """How long a store that has answered before is waited for when it goes away."""
    stall_s: float = 20.0
    """A connection on which nothing comes for so long is given up."""
    least_bytes_per_s: float = 4096.0
    """An object must reach this mean rate once `stall_s` have passed: half a 64 kbit/s line."""
    check_md5: bool = True
    """Compare objects with their entity tags. Off where those look like MD5 sums and are none."""

    def __post_init__(self) -> None:
        """Refuse what no client takes, before it says so with a secret in its message.

        Raises:
            StoreError: the endpoint, the region or a key is none; the message names which.
        """
        if not _is_endpoint(self.endpoint_url):
            # Whatever stands before an @ may be a password.
            shown = self.endpoint_url.rpartition("@")[2]
            raise StoreError(
                f"S3 endpoint {shown!r} is not a URL like http://host:9000, without login or "
                "path; correct HEIMDALL_S3_ENDPOINT_URL"
            )
        if not _REGION.fullmatch(self.region):
            raise StoreError(f"S3 region {self.region!r} is none; correct HEIMDALL_S3_REGION")
        for name, key in (("ACCESS", self.access_key), ("SECRET", self.secret_key)):
            if not _KEY.fullmatch(key):
                raise StoreError(
                    f"HEIMDALL_S3_{name}_KEY holds a blank or another character that no key has; "
                    "correct it"
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
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=self.stall_s),
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
            raise told_plainly(error, self.settings, self.bucket, key) from error


def _copy(settings: S3Settings, bucket: str, known: bool) -> ObjectStore:  # noqa: FBT001 - for pickle
    return ObjectStore(settings, bucket, known=known)


def _tag(etag: str | None) -> str:
    """The entity tag without its quotes."""
    return (etag or "").strip('"')
