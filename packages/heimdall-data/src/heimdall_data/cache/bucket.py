"""Computed features in a bucket, so that what one machine computes no other computes again.

Entries are gathered and stored in packs of 8 MB (see `cache.pack`), below `packs/`: a request for
each would take longer than to read it. What is gathered is stored when it fills a pack, and at the
end of `prepare`. Objects are written whole and never changed; of entries under one key, that of the
newest pack counts. An entry may also be an object of its own, the file of the cache on disk under
the same relative name, as older versions stored it: a cache folder copied to the bucket is read.

A reader loads the records of all packs when it first needs them, and those of new ones with each
`prepare`, which then fetches packs whole, or what is wanted of them.

A reader can do without the bucket: if an entry is missing or damaged, or the bucket does not
answer, features are computed, with one warning. A writer (`heimdall cache build`) was asked to
fill the bucket, and fails if it cannot.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from heimdall_features.addresses import shown_address

from heimdall_data.cache.entry import CacheStatus, DamagedEntry, encode, take_into, verify
from heimdall_data.cache.pack import NO_RECORDS, Pack, PackIndex, encode_pack
from heimdall_data.errors import DataError, ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.cache.pack import Records, Stored
    from heimdall_data.object_store.settings import S3Settings

    Array = npt.NDArray[np.generic]

ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=/-]*")
READ_PATIENCE_S = 1.0
"""Computing a session takes a tenth of this."""
READ_STALL_S = 5.0
PACK_BYTES = 8_000_000
"""160 entries of 3 receivers."""
LARGEST_READ = 8 * PACK_BYTES
"""Bytes of a pack that are read at once, at most."""
READ_SHARE = 1 / 8
"""Share of a pack from which on it takes longer to ask for each entry than to read it."""
THREADS = 8


class SharedCache:
    """Entries below a prefix of a bucket, which many processes and machines may use at once.

    If the bucket does not answer or refuses us, a cache that writes raises `StoreError`.
    """

    def __init__(
        self,
        s3: S3Settings,
        address: str,
        *,
        writes: bool = False,
        rest_s: float = 60.0,
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        """Use the entries at `address`; no request is sent yet.

        Args:
            s3: The object store and our credentials.
            address: `s3://bucket/prefix`.
            writes: Store what is computed.
            rest_s: Pause before a bucket that did not answer is read again, in seconds.
            pack_bytes: Size of the packs that are stored.

        Raises:
            DataError: The address is invalid.
        """
        self.s3 = s3
        self.address = address
        self.writes = writes
        self.rest_s = rest_s
        self.pack_bytes = pack_bytes
        bucket, self.prefix = _parts(address)
        if not writes:
            s3 = replace(
                s3,
                patience_s=min(READ_PATIENCE_S, s3.patience_s),
                stall_s=min(READ_STALL_S, s3.stall_s),
            )
        self._interrupted = threading.Event()
        self._store = ObjectStore(s3, bucket, interrupted=self._interrupted)
        self._rests_until_s = 0.0
        self._warned: set[str] = set()
        self._gathered: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._index = PackIndex()
        self._stale = True
        self._loading = threading.Lock()

    def __reduce__(self) -> tuple[Callable[[], SharedCache], tuple[()]]:
        make = partial(
            SharedCache,
            self.s3,
            self.address,
            writes=self.writes,
            rest_s=self.rest_s,
            pack_bytes=self.pack_bytes,
        )
        return (make, ())

    def refresh(self) -> None:
        """Look for new packs when an entry is next needed."""
        self._stale = True

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
        if (gathered := self._gathered.get(key)) is not None:
            return gathered
        stored = self._loaded().find(key)
        if self._rests():
            return None
        with self._may_be_away():
            try:
                data = self._store.get(self._object(key)) if stored is None else self._read(stored)
                verify(data)
            except ObjectMissing:
                return None
            except (DamagedEntry, ObjectUnreadable) as error:
                self._warn_damaged(key, error)
            else:
                return data
        return None

    def _read(self, stored: Stored) -> bytes:
        return self._store.get_span(self._pack(stored.pack), stored.offset, stored.n_bytes)

    def packed(self, prefixes: Iterable[str]) -> list[list[Stored]]:
        """Find entries whose keys start with any of `prefixes`, by pack.

        Packs of which few are wanted are left out: `get_bytes` reads those one by one.
        """
        by_pack: dict[Pack, list[Stored]] = defaultdict(list)
        for stored in self._loaded().starting(prefixes):
            by_pack[stored.pack].append(stored)
        return [
            wanted
            for pack, wanted in by_pack.items()
            if pack.size <= LARGEST_READ
            and sum(stored.n_bytes for stored in wanted) >= READ_SHARE * pack.size
        ]

    def get_packed(self, wanted: Sequence[Stored]) -> Iterator[tuple[str, bytes]]:
        """Yield keys and sound entries of those `wanted` of one pack, read with one request."""
        if self._rests():
            return
        begin = min(stored.offset for stored in wanted)
        end = max(stored.offset + stored.n_bytes for stored in wanted)
        with self._may_be_away(), contextlib.suppress(ObjectMissing, ObjectUnreadable):
            data = self._store.get_span(self._pack(wanted[0].pack), begin, end - begin)
            for stored in wanted:
                start = stored.offset - begin
                entry = data[start : start + stored.n_bytes]
                with contextlib.suppress(DamagedEntry):
                    verify(entry)
                    yield stored.key, entry

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`, if this cache writes."""
        if self.writes:
            self.put_bytes(key, encode(tensors))

    def put_bytes(self, key: str, data: bytes) -> None:
        """Gather an entry as the disk holds it; a full pack is stored."""
        with self._lock:
            self._gathered[key] = data
            full = sum(map(len, self._gathered.values())) >= self.pack_bytes
        if full:
            self.flush()

    def flush(self) -> None:
        """Store what is gathered."""
        with self._lock:
            entries, self._gathered = self._gathered, {}
        if not entries:
            return
        # Newer than what it replaces, whatever the clock of this machine says.
        newest_ns = max((pack.time_ns for pack in self._loaded().packs), default=0)
        pack, data = encode_pack(entries, max(time.time_ns(), newest_ns + 1))
        self._store.put(self._pack(pack), data)
        self._index.add([(pack, pack.records(data[: pack.records_bytes]))])

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Context at whose end is stored what was gathered; after an error if the store answers."""
        try:
            yield
        except BaseException:
            self._interrupted.set()
            try:
                with contextlib.suppress(StoreError):
                    self.flush()
            finally:
                self._interrupted.clear()
            raise
        self.flush()

    def holds(self, key: str, n_bytes: int) -> bool:
        """Return True if there is an entry of that size; it may still be damaged."""
        if (gathered := self._gathered.get(key)) is not None:
            return len(gathered) == n_bytes
        if (stored := self._loaded().find(key)) is not None:
            return stored.n_bytes == n_bytes
        found = self._store.stat(self._object(key))
        return found is not None and found.size == n_bytes

    def require(self) -> None:
        """Raise `StoreError` unless the bucket exists, answers and lets us in."""
        self._store.require_bucket()

    def status(self) -> CacheStatus:
        """Count the entries below the prefix, with one request for each thousand."""
        objects = self._store.list(self.prefix)
        n_entries = sum(
            Pack(each.key.rpartition("/")[2], each.size).n_entries or 1 for each in objects
        )
        return CacheStatus(n_entries, sum(each.size for each in objects))

    def _object(self, key: str) -> str:
        return f"{self.prefix}{key[:2]}/{key}.features"

    def _pack(self, pack: Pack) -> str:
        return f"{self.prefix}packs/{pack.name}"

    def _loaded(self) -> PackIndex:
        """Index of the packs, with those that are new since `refresh`."""
        with self._loading:
            if self._stale and not self._rests():
                with self._may_be_away():
                    self._load()
                    self._stale = False
        return self._index

    def _load(self) -> None:
        place = f"{self.prefix}packs/"
        listed = {
            Pack(each.key.removeprefix(place), each.size)
            for each in self._store.list(place)
            if each.key.endswith(".pack")
        }
        if not listed.issuperset(self._index.packs):  # some have expired
            self._index = PackIndex()
        new = sorted(listed.difference(self._index.packs), key=lambda pack: pack.name)
        with ThreadPoolExecutor(THREADS, "packs") as pool:
            self._index.add(list(zip(new, pool.map(self._records, new), strict=True)))

    def _records(self, pack: Pack) -> Records:
        """Records of a pack; none if it is damaged."""
        try:
            return pack.records(self._store.get_span(self._pack(pack), 0, pack.records_bytes))
        except ObjectMissing:
            pass  # it has just expired
        except (DamagedEntry, ObjectUnreadable) as error:
            self._warn_damaged(f"packs/{pack.name}", error)
        return NO_RECORDS

    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until_s

    @contextlib.contextmanager
    def _may_be_away(self) -> Iterator[None]:
        """Context in which a bucket that does not answer a reader is a warning, and rests."""
        try:
            yield
        except StoreError as error:
            if self.writes:
                raise
            self._rests_until_s = time.monotonic() + self.rest_s
            self._warn_once(
                "away",
                f"the shared feature cache {self.address} cannot be read ({error}); features are "
                f"computed here, and it is tried again every {self.rest_s:g} s",
            )

    def _warn_damaged(self, name: str, error: DataError) -> None:
        self._warn_once(
            "damaged",
            f"{name} of the shared feature cache {self.address} is damaged ({error}); what it "
            "held is computed again, as are further damaged ones without a warning",
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
