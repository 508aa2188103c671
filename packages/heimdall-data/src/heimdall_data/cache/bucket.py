"""Computed features in a bucket, so that what one machine computes no other computes again.

An entry is the very file of the cache on disk (see `cache_entry`), under the same relative name:
copying a cache folder to the bucket, or back, makes a cache. Objects are written whole, and
never to other content: the key is a hash of all that the features depend on.

Who reads does without it when it must: an entry that is missing or damaged, or a bucket that
does not answer, is features computed anew, with one warning. Who writes (`heimdall cache build`)
was asked to fill it, and is told when that cannot be done.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from heimdall_data.cache.entry import CacheStatus, DamagedEntry, decode, encode, taken_into, verify
from heimdall_data.errors import DataError, ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.object_store.settings import S3Settings

    Array = npt.NDArray[np.generic]

__all__ = ["SharedCache"]

ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=/-]*")
READ_PATIENCE_S = 1.0
"""To compute a session takes a tenth of it."""
READ_STALL_S = 5.0
REST_S = 60.0
"""A bucket that does not answer is left alone for so long."""


class SharedCache:
    """Entries below a prefix of a bucket. Safe with many processes, threads and machines."""

    def __init__(self, s3: S3Settings, address: str, *, writes: bool = False) -> None:
        """Use the entries at `address`; nothing is asked yet.

        Args:
            s3: The object store, and who we are there.
            address: `s3://bucket/prefix`.
            writes: Store what is computed. Then a bucket that does not answer is an error.

        Raises:
            DataError: The address is none.
        """
        self.s3 = s3
        self.address = address
        self.writes = writes
        self.bucket, self.prefix = _parts(address)
        self._stores: dict[int, ObjectStore] = {}
        self._rests_until_s = 0.0
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., SharedCache], tuple[S3Settings, str, bool]]:
        """A copy in another process connects, and finds out what answers, by itself."""
        return (_copy, (self.s3, self.address, self.writes))

    def __repr__(self) -> str:
        return f"<SharedCache {self.address}>"

    def may_hold(self, beginning: str) -> bool:
        """Whether there may be an entry whose key begins so; the bucket is not asked."""
        del beginning
        return True

    def get(self, key: str) -> dict[str, Array] | None:
        """The tensors stored under `key`; None if there are none that can be had.

        Raises:
            StoreError: The bucket does not answer or refuses us, and this cache writes.
        """
        data = self.get_bytes(key)
        return None if data is None else decode(data)

    def get_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        """As `get`, but the tensor `name` is copied to `out`, and only the others are returned.

        Raises:
            StoreError: As `get`.
        """
        tensors = self.get(key)
        if tensors is None:
            return None
        try:
            return taken_into(tensors, name, out)
        except DamagedEntry as error:
            self._say_damaged(key, error)
            return None

    def get_bytes(self, key: str) -> bytes | None:
        """The entry as the disk would hold it, checked.

        Raises:
            StoreError: As `get`.
        """
        if time.monotonic() < self._rests_until_s:
            return None
        try:
            data = self._store().get(self._object(key))
            verify(data)
        except ObjectMissing:
            return None
        except (DamagedEntry, ObjectUnreadable) as error:
            self._say_damaged(key, error)
            return None
        except StoreError as error:
            if self.writes:
                raise
            self._rest(error)
            return None
        return data

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`; nothing happens in a cache that does not write.

        Raises:
            StoreError: They cannot be stored.
        """
        if self.writes:
            self.put_bytes(key, encode(tensors))

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store an entry as the disk holds it.

        Raises:
            StoreError: It cannot be stored.
        """
        self._store().put(self._object(key), data)

    def holds(self, key: str, n_bytes: int) -> bool:
        """Whether there is an entry of that size; `get` may yet find it damaged.

        Raises:
            StoreError: The bucket does not answer or refuses us.
        """
        found = self._store().stat(self._object(key))
        return found is not None and found.size == n_bytes

    def require(self) -> None:
        """Refuse to go on where the bucket does not exist.

        Raises:
            StoreError: It does not, or does not answer, or refuses us.
        """
        self._store().require_bucket()

    def status(self) -> CacheStatus:
        """How much there is below the prefix; a thousand entries a request.

        Raises:
            StoreError: The bucket does not answer or refuses us.
        """
        entries = self._store().list(self.prefix)
        return CacheStatus(len(entries), sum(entry.size for entry in entries))

    def _object(self, key: str) -> str:
        return f"{self.prefix}{key[:2]}/{key}.features"

    def _store(self) -> ObjectStore:
        """This process's own connections: a socket cannot be shared after fork."""
        process = os.getpid()
        if process not in self._stores:
            self._stores[process] = ObjectStore(self._settings(), self.bucket)
        return self._stores[process]

    def _settings(self) -> S3Settings:
        if self.writes:
            return self.s3
        return replace(
            self.s3,
            patience_s=min(READ_PATIENCE_S, self.s3.patience_s),
            stall_s=min(READ_STALL_S, self.s3.stall_s),
        )

    def _rest(self, error: StoreError) -> None:
        self._rests_until_s = time.monotonic() + REST_S
        self._say(
            "away",
            f"the shared feature cache {self.address} cannot be read ({error}); what it may hold "
            f"is computed here, and it is asked again every {REST_S:g} s",
        )

    def _say_damaged(self, key: str, error: DataError) -> None:
        self._say(
            "damaged",
            f"entry {self._object(key)} of the shared feature cache {self.address} is damaged "
            f"({error}); it is computed again, and so are others that are, without a word",
        )

    def _say(self, what: str, warning: str) -> None:
        """Once a process: a million sessions would say the same."""
        with self._lock:
            if what in self._told:
                return
            self._told.add(what)
        warnings.warn(warning, RuntimeWarning, stacklevel=4)


def _copy(s3: S3Settings, address: str, writes: bool) -> SharedCache:  # noqa: FBT001 - for pickle
    return SharedCache(s3, address, writes=writes)


def _parts(address: str) -> tuple[str, str]:
    """Bucket, and prefix with a slash at its end or empty."""
    found = ADDRESS.fullmatch(address)
    prefix = (found["prefix"] or "").strip("/") if found else ""
    if found is None or not PREFIX.fullmatch(prefix) or not _plain(prefix):
        shown = address.rpartition("@")[2]  # whatever stands before an @ may be a password
        raise DataError(
            f"the shared feature cache {shown!r} is not of the form s3://bucket/prefix; correct "
            "HEIMDALL_CACHE_S3 or --cache_s3"
        )
    return found["bucket"], f"{prefix}/" if prefix else ""


def _plain(prefix: str) -> bool:
    return not prefix or {"", ".", ".."}.isdisjoint(prefix.split("/"))
