"""One bucket of the object store: whole objects by key, in any S3, through the MinIO client.

A part of an object is never returned as the whole, and every wait has a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote_plus

from minio.error import S3Error
from urllib3.exceptions import ProtocolError

from heimdall_data.errors import ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store.errors import (
    FAULTS,
    BrokenObject,
    DamagedObject,
    Fault,
    OversizedObject,
    classify,
    missing_bucket,
    store_error,
)
from heimdall_data.object_store.retry import Retry

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator

    from minio import Minio
    from urllib3.response import BaseHTTPResponse

    from heimdall_data.object_store.settings import S3Settings

MOST_BROKEN = 8
"""Objects in a row that do not arrive whole, until the store counts as broken."""
LISTED_PER_REQUEST = 1000
LISTED_PER_STAT = 16
"""Objects that a listing gives in the time in which the store is asked for one."""
_CHUNK_BYTES = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION = "x-amz-server-side-encryption"
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Key, size and version of an object."""

    key: str
    size: int
    etag: str


class ObjectStore:
    """One bucket: whole objects by key. Its `repr` and its errors show no secret.

    Safe to use from several threads. Each process, forked or with a pickled copy, has its own
    connections. All methods raise `StoreError` if the store cannot be reached or refuses us.
    """

    def __init__(
        self, settings: S3Settings, bucket: str, *, interrupted: threading.Event | None = None
    ) -> None:
        """Prepare to use `bucket`; no request is made yet.

        Once `interrupted` is set, failed requests are not retried.
        """
        self.settings = settings
        self.bucket = bucket
        self._interrupted = interrupted
        self._of_process: dict[int, tuple[Minio, Retry]] = {}
        self._n_broken = 0
        """Objects in a row that did not arrive whole."""

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[S3Settings, str]]:
        return (ObjectStore, (self.settings, self.bucket))

    def get(self, key: str) -> bytes:
        """Return the object's bytes, all of them.

        Raises:
            ObjectMissing: There is none under `key`.
            ObjectUnreadable: It does not arrive whole, or the name is invalid.
            BucketUnusable: The bucket is missing or closed to us.
            StoreError: The store cannot be reached, refuses us, or sent several objects in a row
                that are not whole.
        """
        return self.get_with_version(key)[0]

    def get_span(self, key: str, offset: int, n_bytes: int) -> bytes:
        """Return some of the object's bytes, fewer if it ends before; errors as of `get`.

        They are not compared with the entity tag, which is that of the whole object.
        """
        return self.get_with_version(key, n_bytes, offset, n_bytes)[0]

    def get_with_version(
        self, key: str, most_bytes: int | None = None, offset: int = 0, length: int = 0
    ) -> tuple[bytes, StoredObject]:
        """Return the object's bytes and their version; errors as of `get`.

        An object of more than `most_bytes` is an `ObjectUnreadable`, and not fetched. Only
        `length` bytes from `offset` on are read, if that is not 0.
        """
        is_told = False

        def read(client: Minio) -> tuple[bytes, StoredObject]:
            nonlocal is_told
            response = client.get_object(self.bucket, key, offset, length)
            try:
                data = _download(response, self.settings, most_bytes)
            except BaseException as error:
                response.close()  # the rest of the object is still arriving
                if isinstance(error, BrokenObject) and not is_told:
                    is_told = True
                    _log.warning(
                        "object %r in bucket %r of %s does not arrive whole (%s); trying again",
                        key,
                        self.bucket,
                        self.settings.endpoint_url,
                        error,
                    )
                raise
            finally:
                response.release_conn()
            return data, StoredObject(key, len(data), _tag(response.headers.get("etag")))

        try:
            found = self._call(key, read)
        except ObjectUnreadable as error:
            fault = error.__cause__
            if isinstance(fault, Exception) and classify(fault) in (Fault.OBJECT, Fault.DAMAGED):
                self._n_broken += 1
            if self._n_broken >= MOST_BROKEN:
                raise StoreError(
                    f"{self._n_broken} objects in a row of the object store "
                    f"{self.settings.endpoint_url} do not arrive, the last with: {error}. It is "
                    "the store, or a proxy before it, that damages them: check it"
                ) from error
            raise
        self._n_broken = 0
        return found

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, whole or not at all; replace an object that is there."""
        self._call(
            key,
            lambda client: client.put_object(self.bucket, key, io.BytesIO(data), len(data)),
        )

    def stat(self, key: str) -> StoredObject | None:
        """Return size and version of the object, or None if there is none."""
        try:
            found = self._call(key, lambda client: client.stat_object(self.bucket, key))
        except ObjectMissing:
            return None
        return StoredObject(key, int(found.size or 0), _tag(found.etag))

    def find(self, keys: Collection[str]) -> dict[str, StoredObject]:
        """Return objects under `keys` by key, from listings of a thousand objects a request.

        Not all that exist need be found: a listing that has few of them is given up, as it would
        take longer than to ask for each. A store that refuses to list gives none.
        """

        def read(client: Minio) -> dict[str, StoredObject]:
            found: dict[str, StoredObject] = {}
            prefix = os.path.commonprefix(list(wanted))  # noqa: RUF071 - of any characters
            # Some stores list names as they are, and XML cannot hold all of them.
            with contextlib.suppress(ET.ParseError):
                for n_listed, item in enumerate(_listing(client, self.bucket, prefix), 1):
                    if item.key in wanted:
                        found[item.key] = item
                    are_few = LISTED_PER_STAT * len(found) < n_listed
                    page_ends = n_listed % LISTED_PER_REQUEST == 0
                    if len(found) == len(wanted) or (are_few and page_ends):
                        break
            return found

        wanted = frozenset(keys)
        try:
            return self._call("", read) if wanted else {}
        except StoreError as error:
            fault = error.__cause__
            if isinstance(fault, Exception) and classify(fault) in (Fault.OUTAGE, Fault.SILENCE):
                raise
            return {}

    def exists(self, key: str) -> bool:
        """Return True if there is an object under `key`."""
        return self.stat(key) is not None

    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""
        self._call(key, lambda client: client.remove_object(self.bucket, key))

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return every object whose key begins with `prefix`."""
        return self._call(prefix, lambda client: list(_listing(client, self.bucket, prefix)))

    def bucket_exists(self) -> bool:
        """Return True if the bucket exists; an answer proves that the credentials are good."""
        return bool(self._call("", lambda client: client.bucket_exists(self.bucket)))

    def is_writable(self) -> bool:
        """Return True if objects can be stored, and False if there is no such bucket.

        A multipart upload that is begun and aborted needs the permission to write, and leaves
        nothing.

        Raises:
            BucketUnusable: The bucket can only be read.
        """

        def begin(client: Minio) -> bool:
            key = "heimdall-write-check"
            try:
                upload = client._create_multipart_upload(self.bucket, key, {})
            except S3Error as error:
                if error.code == "NoSuchBucket":
                    return False
                raise
            client._abort_multipart_upload(self.bucket, key, upload)
            return True

        return self._call("", begin)

    def require_bucket(self) -> None:
        """Raise `BucketUnusable` unless the bucket exists."""
        if not self.bucket_exists():
            raise missing_bucket(self.settings.endpoint_url, self.bucket)

    def ensure_bucket(self) -> None:
        """Make the bucket if it does not exist."""

        def make(client: Minio) -> None:
            try:
                client.make_bucket(self.bucket)
            except S3Error as error:
                # Another process has made it meanwhile.
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

        if not self.bucket_exists():
            self._call("", make)

    def _call(self, key: str, request: Callable[[Minio], _Answer]) -> _Answer:
        """Return the answer to a request, retried while that may help."""
        process = os.getpid()
        if process not in self._of_process:  # sockets and locks must not be shared after a fork
            retry = Retry(self.settings.endpoint_url, self.settings.patience_s, self._interrupted)
            self._of_process[process] = (self.settings.client(), retry)
        client, retry = self._of_process[process]
        try:
            return retry.call(lambda: request(client))
        except FAULTS as error:
            raise store_error(error, self.settings.endpoint_url, self.bucket, key) from error


def _listing(client: Minio, bucket: str, prefix: str) -> Iterator[StoredObject]:
    """Objects whose keys begin with `prefix`; the client takes seven times the processor time.

    Source: Amazon S3 API Reference, "ListObjectsV2".
    """
    query = {"list-type": "2", "encoding-type": "url", "delimiter": "", "prefix": prefix}
    query["max-keys"] = str(LISTED_PER_REQUEST)
    while True:
        page = ET.fromstring(client._execute("GET", bucket, query_params=dict(query)).data)  # noqa: S314 - as the client does
        space = page.tag.removesuffix("ListBucketResult")
        plain = unquote_plus if page.findtext(f"{space}EncodingType") == "url" else str
        key, size, tag = f"{space}Key", f"{space}Size", f"{space}ETag"
        for item in page.iterfind(f"{space}Contents"):
            n_bytes = int(item.findtext(size) or 0)
            yield StoredObject(plain(item.findtext(key) or ""), n_bytes, _tag(item.findtext(tag)))
        query["continuation-token"] = page.findtext(f"{space}NextContinuationToken") or ""
        if not query["continuation-token"]:
            return


def _tag(etag: str | None) -> str:
    return (etag or "").strip('"')


def _download(response: BaseHTTPResponse, settings: S3Settings, most_bytes: int | None) -> bytes:
    """All bytes of an object whose headers have arrived, at no less than the least rate."""
    started_s = time.monotonic()
    size = response.headers.get("content-length")
    if most_bytes is not None and int(size or 0) > most_bytes:
        raise OversizedObject(f"{size} bytes, more than the {most_bytes} that are read")
    chunks: list[bytes] = []
    n_bytes = 0
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            chunks.append(chunk)
            n_bytes += len(chunk)
            if most_bytes is not None and n_bytes > most_bytes:
                raise OversizedObject(f"more than the {most_bytes} bytes that are read")
            taken_s = time.monotonic() - started_s
            if taken_s > settings.stall_s + n_bytes / settings.least_bytes_per_s:
                raise TimeoutError(f"{n_bytes} of {size} bytes arrived in {taken_s:.0f} s")
    except ProtocolError as error:
        raise BrokenObject("the connection ended in the middle of it") from error
    if size is not None and n_bytes != int(size):
        raise BrokenObject(f"{n_bytes} of {size} bytes arrived")
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    # The entity tag is the MD5 sum of an object sent in one piece and not encrypted.
    # Source: Amazon S3 API Reference, "Object", `ETag`.
    tag = _tag(response.headers.get("etag")).lower()
    encrypted = response.headers.get(_ENCRYPTION, "AES256") != "AES256"
    own_key = f"{_ENCRYPTION}-customer-algorithm" in response.headers
    whole = response.status != HTTPStatus.PARTIAL_CONTENT
    if settings.check_md5 and whole and not (encrypted or own_key) and _MD5.fullmatch(tag):
        found = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if found != tag:
            raise DamagedObject(f"its content has the MD5 sum {found}, its entity tag is {tag}")
    return body
