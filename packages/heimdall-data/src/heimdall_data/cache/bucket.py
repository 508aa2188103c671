"""Computed features in a bucket, so that what one machine computes no other computes again.

An entry is the very file of the cache on disk (see `cache.entry`) under the same relative name:
copying a cache folder to the bucket, or back, makes a cache. Objects are written whole, and
never with other content: the key is a hash of all that the features depend on.

A reader can do without the bucket: if an entry is missing or damaged, or the bucket does not
answer, features are computed, with one warning. A writer (`heimdall cache build`) was asked to
fill the bucket, and fails if it cannot.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from heimdall_features.addresses import shown_address

from heimdall_data.cache.entry import CacheStatus, DamagedEntry, encode, take_into, verify
from heimdall_data.errors import DataError, ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.object_store.settings import S3Settings

    Array = npt.NDArray[np.generic]

ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=/-]*")
READ_PATIENCE_S = 1.0
"""Computing a session takes a tenth of this."""
READ_STALL_S = 5.0


class SharedCache:
    """Entries below a prefix of a bucket, which many processes and machines may use at once.

    If the bucket does not answer or refuses us, a cache that writes raises `StoreError`.
    """

    def __init__(
        self, s3: S3Settings, address: str, *, writes: bool = False, rest_s: float = 60.0
    ) -> None:
        """Use the entries at `address`; no request is sent yet.

        Args:
            s3: The object store and our credentials.
            address: `s3://bucket/prefix`.
            writes: Store what is computed.
            rest_s: Pause before a bucket that did not answer is read again, in seconds.

        Raises:
            DataError: The address is invalid.
        """
        self.s3 = s3
        self.address = address
        self.writes = writes
        self.rest_s = rest_s
        bucket, self.prefix = _parts(address)
        if not writes:
            s3 = replace(
                s3,
                patience_s=min(READ_PATIENCE_S, s3.patience_s),
                stall_s=min(READ_STALL_S, s3.stall_s),
            )
        self._store = ObjectStore(s3, bucket)
        self._rests_until_s = 0.0
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[], SharedCache], tuple[()]]:
        make = partial(SharedCache, self.s3, self.address, writes=self.writes, rest_s=self.rest_s)
        return (make, ())

    def may_contain(self, prefix: str) -> bool:
        """Return True: an entry whose key starts with `prefix` is possible. No request is made."""
        del prefix
        return True

    def get_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        """Copy the tensor `name` of an entry to `out`, and return the other tensors.

        Returns:
            None if there is no entry or it is damaged; `out` is then undefined.
        """
        data = self.get_bytes(key)
        try:
            return None if data is None else take_into(data, name, out)
        except DamagedEntry as error:
            self._warn_damaged(key, error)
            return None

    def get_bytes(self, key: str) -> bytes | None:
        """Return the entry as the disk would hold it, verified; None if there is none."""
        if time.monotonic() < self._rests_until_s:
            return None
        try:
            data = self._store.get(self._object(key))
            verify(data)
        except ObjectMissing:
            return None
        except (DamagedEntry, ObjectUnreadable) as error:
            self._warn_damaged(key, error)
            return None
        except StoreError as error:
            if self.writes:
                raise
            self._rests_until_s = time.monotonic() + self.rest_s
            self._warn_once(
                "away",
                f"the shared feature cache {self.address} cannot be read ({error}); features are "
                f"computed here, and it is tried again every {self.rest_s:g} s",
            )
            return None
        return data

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`, if this cache writes."""
        if self.writes:
            self.put_bytes(key, encode(tensors))

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store an entry as the disk holds it."""
        self._store.put(self._object(key), data)

    def holds(self, key: str, n_bytes: int) -> bool:
        """Return True if there is an entry of that size; it may still be damaged."""
        found = self._store.stat(self._object(key))
        return found is not None and found.size == n_bytes

    def require(self) -> None:
        """Raise `StoreError` unless the bucket exists, answers and lets us in."""
        self._store.require_bucket()

    def status(self) -> CacheStatus:
        """Count the entries below the prefix, with one request for each thousand."""
        entries = self._store.list(self.prefix)
        return CacheStatus(len(entries), sum(entry.size for entry in entries))

    def _object(self, key: str) -> str:
        return f"{self.prefix}{key[:2]}/{key}.features"

    def _warn_damaged(self, key: str, error: DataError) -> None:
        self._warn_once(
            "damaged",
            f"entry {self._object(key)} of the shared feature cache {self.address} is damaged "
            f"({error}); it is computed again, as are further damaged ones without a warning",
        )

    def _warn_once(self, kind: str, message: str) -> None:
        """Warn once a process, as it would be repeated for each session."""
        with self._lock:
            if kind in self._warned:
                return
            self._warned.add(kind)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _parts(address: str) -> tuple[str, str]:
    """Bucket, and prefix with a slash at its end or empty."""
    found = ADDRESS.fullmatch(address)
    prefix = (found["prefix"] or "").strip("/") if found else ""
    plain = not prefix or {"", ".", ".."}.isdisjoint(prefix.split("/"))
    if found is None or not PREFIX.fullmatch(prefix) or not plain:
        raise DataError(
            f"invalid address of the shared feature cache {shown_address(address)!r}, which must "
            "be of the form s3://bucket/prefix; correct HEIMDALL_CACHE_S3 or --cache_s3"
        )
    return found["bucket"], f"{prefix}/" if prefix else ""
