"""Computed features on local disk, so that no epoch computes them again.

An entry is one file (see `cache.entry`) named by its key, a hash of everything that the features
depend on: nothing is ever updated in place. Files are written elsewhere and renamed, so that a
reader in any process sees a whole entry or none, also after `kill -9`. An entry with a wrong
checksum is deleted and computed again. If the disk is full the cache stops writing, warns once,
and training goes on. Entries that are only in the shared cache (see `cache.bucket`) are stored on
disk when they are first read, or many at once by `fetch`, in packs as there (see `cache.pack`),
since making a file takes longer than to write an entry. A pack with a damaged entry is deleted.

`benchmarks/bench_cache.py` compares it with the libraries that could have been used instead.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
import warnings
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.atomic import write_whole
from heimdall_data.cache.entry import CacheStatus, DamagedEntry, encode, read_into, take_into
from heimdall_data.cache.pack import Pack, PackIndex, encode_pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.cache.pack import Stored

    Array = npt.NDArray[np.generic]

ABANDONED_S = 3600.0
USE_NOTED_AFTER_S = 3600.0
"""Last uses are noted to the hour, as each note costs a write to the disk."""
RECOUNT_SHARE = 0.05
"""Share of the limit that a process writes before it counts the entries again."""
KEPT_SHARE = 0.9
"""Share of the limit that eviction leaves, so that it is rare."""


class FeatureCache:
    """A folder of entries, which many processes and threads may use at once."""

    def __init__(
        self, directory: Path, max_bytes: int | None = None, shared: SharedCache | None = None
    ) -> None:
        """Use `directory`, which is made with the first entry.

        Args:
            directory: A folder for this cache alone.
            max_bytes: Evict the least recently used entries beyond this size; None keeps all.
            shared: Cache to search for entries that are not on disk. If it is writable, every
                entry that is stored or found on disk is stored there too.
        """
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self.shared = shared
        self._folder = os.fspath(self.directory)
        self._packs: PackIndex | None = None
        self._writes = True
        self._free: int | None = None

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[object, ...]]:
        """Pickle only the settings: for a copy in another process the disk may not be full."""
        return (FeatureCache, (self.directory, self.max_bytes, self.shared))

    def refresh(self) -> None:
        """Look for packs of other processes when an entry is next needed."""
        self._packs = None
        if self.shared is not None:
            self.shared.refresh()

    def may_contain(self, prefix: str) -> bool:
        """Return False only if no entry's key starts with `prefix` (two characters or more)."""
        if self.shared is not None or any(self._index().starting([prefix])):
            return True
        try:
            names = os.listdir(f"{self._folder}/{prefix[:2]}")  # noqa: PTH208 - as above
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return any(name.startswith(prefix) for name in names)

    def packs(self, key: str) -> bool:
        """Return True if the entry under `key` is in a pack."""
        return self._index().find(key) is not None

    def fetch(self, prefixes: set[str], pool: ThreadPoolExecutor) -> list[Future[None]]:
        """Begin to store on disk what packs of the shared cache have under keys that start so.

        Args:
            prefixes: Halves of keys. Those of which there is an entry on disk are left out.
            pool: Threads that each fetch a pack.
        """
        shared = self.shared
        lacking = prefixes - {stored.key[:32] for stored in self._index().starting(prefixes)}
        for folder in {prefix[:2] for prefix in prefixes}:
            with contextlib.suppress(OSError):
                names = os.listdir(f"{self._folder}/{folder}")  # noqa: PTH208 - as above
                lacking.difference_update(name[:32] for name in names)
        if shared is None or not lacking or not self._writes:
            return []

        def store(wanted: Sequence[Stored]) -> None:
            if not (entries := dict(shared.get_packed(wanted))):
                return
            pack, data = encode_pack(entries, wanted[0].pack.time_ns)
            self._write(self._path_of(pack), data)
            self._index().add([(pack, pack.records(data[: pack.records_bytes]))])

        return [pool.submit(store, wanted) for wanted in shared.packed(lacking)]

    def get_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        """Read the tensor `name` of an entry to `out`, and return the other tensors.

        Returns:
            None if there is no entry or it is damaged; `out` is then undefined.
        """
        found = self._read_into(key, name, out)
        if found is None and self.shared is not None:
            data = self.shared.get_bytes(key)
            if data is not None:
                self._write(self._path(key), data)
                found = take_into(data, name, out)
        return found

    def _read_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        index = self._index()
        stored = index.find(key)
        path = self._path(key) if stored is None else self._path_of(stored.pack)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            if stored is None:
                return None  # another user's entry may be sound: it is not ours to delete
            index.drop(stored.pack)
            return self._read_into(key, name, out)
        except OSError as error:
            self._discard(path, str(error))
            return None
        try:
            file = os.fstat(descriptor)
            offset, size = stored[2:] if stored else (0, file.st_size)
            tensors = read_into(descriptor, name, out, offset, size)
            if self.max_bytes is not None and time.time() - file.st_mtime > USE_NOTED_AFTER_S:
                with contextlib.suppress(OSError):  # a read-only disk, or another user's entry
                    os.utime(descriptor)
            shared = self.shared
            if shared is not None and shared.writes and not shared.holds(key, size):
                shared.put_bytes(key, os.pread(descriptor, size, offset))
        except (DamagedEntry, OSError) as error:
            self._discard(path, str(error))
            if stored is not None:
                index.drop(stored.pack)
            return None
        finally:
            os.close(descriptor)
        return tensors

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`. The last writer wins; all write the same."""
        data = encode(tensors)
        self._write(self._path(key), data)
        if self.shared is not None and self.shared.writes:
            self.shared.put_bytes(key, data)

    def _write(self, name: str, data: bytes) -> None:
        """Store an entry or a pack on disk, unless the disk is full."""
        if not self._writes:
            return
        path, scratch = Path(name), self.directory / "partial"
        try:
            for folder in (path.parent, scratch):
                if not folder.exists():
                    folder.mkdir(parents=True, exist_ok=True)
            # The default mode lets everybody who may read the folder read its entries.
            write_whole(path, data, scratch=scratch)
            if self.max_bytes is not None:
                self._keep_limit(len(data), self.max_bytes)
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"the feature cache {self.directory} cannot be written ({error}); features are "
                "computed anew each time: free some space or choose another folder",
                RuntimeWarning,
                stacklevel=3,
            )

    def _keep_limit(self, n_written: int, max_bytes: int) -> None:
        """Evict entries if the folder may have exceeded the limit.

        Counting visits every entry. A process counts when it first writes, and again each time
        it has written a twentieth of the limit: n processes may exceed it by n twentieths.
        """
        if self._free is not None:
            self._free -= n_written
            if self._free >= 0:
                return
        total = self.status().n_bytes
        if total > max_bytes:
            self._evict(max_bytes * KEPT_SHARE)
            total = int(max_bytes * KEPT_SHARE)
        self._free = min(int(max_bytes * RECOUNT_SHARE), max_bytes - total)

    def _evict(self, kept_bytes: float) -> None:
        """Delete the least recently used entries, unless another process is doing so."""
        import filelock

        lock = filelock.FileLock(self.directory / "evicting", timeout=0, mode=0o666)
        with contextlib.suppress(filelock.Timeout), lock:
            entries = sorted(_entries(self._folder))
            excess = sum(n_bytes for _, _, n_bytes in entries) - kept_bytes
            for _, path, n_bytes in entries:
                if excess <= 0:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)  # noqa: PTH108 - a Path each would double the time
                    excess -= n_bytes

    def status(self) -> CacheStatus:
        """Count the entries of the folder."""
        found = [(_n_entries(path), n_bytes) for _, path, n_bytes in _entries(self._folder)]
        return CacheStatus(sum(n for n, _ in found), sum(n_bytes for _, n_bytes in found))

    def clear(self) -> CacheStatus:
        """Delete every entry and return their number and size; others may go on using the cache."""
        before = self.status()
        for _, path, _ in _entries(self._folder):
            Path(path).unlink(missing_ok=True)
        return before

    def remove_abandoned(self) -> None:
        """Delete half-written files of killed writers."""
        for path in (self.directory / "partial").glob("*"):
            with contextlib.suppress(OSError):  # its writer has finished, or is another user
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key}.features"

    def _path_of(self, pack: Pack) -> str:
        return f"{self._folder}/packs/{pack.name}"

    def _index(self) -> PackIndex:
        """Where the entries of the packs on disk are."""
        if (index := self._packs) is None:
            index = PackIndex()
            found = []
            for path in sorted(self.directory.glob("packs/*.pack")):
                with contextlib.suppress(OSError, DamagedEntry), path.open("rb") as file:
                    pack = Pack(path.name, os.fstat(file.fileno()).st_size)
                    found.append((pack, pack.records(file.read(pack.records_bytes))))
            index.add(found)
            self._packs = index
        return index

    def _discard(self, path: str, reason: str) -> None:
        """Delete a damaged entry, so that it is computed again."""
        warnings.warn(
            f"feature cache entry {path} is damaged ({reason}); it is computed again",
            RuntimeWarning,
            stacklevel=4,
        )
        with contextlib.suppress(OSError):  # deleted already, or on a read-only disk
            Path(path).unlink()


def _entries(folder: str) -> Iterator[tuple[float, str, int]]:
    """Time of last use (seconds since 1970), path and bytes on disk of every entry."""
    # Not with Path, which would double the time.
    names = (glob.iglob(kind, root_dir=folder) for kind in ("??/*", "packs/*"))  # noqa: PTH207
    for name in chain.from_iterable(names):
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            continue  # another process has just evicted it
        yield status.st_mtime, path, status.st_blocks * 512


def _n_entries(path: str) -> int:
    """Number of entries in a file."""
    return Pack(os.path.basename(path), 0).n_entries or 1  # noqa: PTH119 - as above
