"""Computed features on local disk, so that no epoch computes them again.

An entry is one file (see `cache_entry`) named by its key, a hash of everything that the
features depend on; a changed object or setting is another key, and nothing is ever updated in
place. Files are written aside and renamed, so that a reader in any process, also after a
`kill -9`, sees a whole entry or none. An entry whose checksum does not hold is deleted and
computed again. If the disk is full the cache stops writing, warns once, and training goes on.
What is not on disk may be in a bucket (see `shared_cache`), and is on disk from then on.

Why not a library: `benchmarks/bench_cache.py` measures those that were considered.

A limit on what a folder of cache entries takes up, kept by many processes together.

Counting means to visit every entry, so that a process counts when it first writes, and again
each time it has itself written a twentieth of the limit: so many processes may exceed the
limit by so many twentieths for a while. Whoever finds it exceeded deletes the entries that
were used longest ago, one process at a time; a reader whose entry goes computes it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.atomic import write_whole
from heimdall_data.cache.entry import (
    CacheStatus,
    DamagedEntry,
    decode,
    encode,
    read,
    read_into,
    taken_into,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.cache.bucket import SharedCache

__all__ = ["CacheLimit", "FeatureCache", "StoredEntry", "note_use", "stored_entries"]


USE_NOTED_AFTER_S = 3600.0
"""Uses are noted to the hour: each costs a write to the disk."""
RECOUNT_SHARE = 0.05
KEPT_SHARE = 0.9
"""Of the limit, after eviction, which thus is rare."""


@dataclass(frozen=True, slots=True, order=True)
class StoredEntry:
    """An entry as the folder lists it."""

    used_s: float
    """When it was last used, to the hour, in seconds since 1970."""
    path: str
    n_bytes: int


def stored_entries(directory: Path) -> Iterator[StoredEntry]:
    """Every entry of a cache folder, in no order; the folder may not exist."""
    try:
        folders = [folder.path for folder in os.scandir(directory) if len(folder.name) == 2]
    except FileNotFoundError:
        return
    for folder in folders:
        try:
            inside = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue  # no folder of ours
        with inside as found:
            for file in found:
                try:
                    status = file.stat()
                except FileNotFoundError:
                    continue  # another process has just evicted it
                yield StoredEntry(status.st_mtime, file.path, status.st_blocks * 512)


def note_use(descriptor: int) -> None:
    """Let the open entry count as used now, where we may: it may be another user's."""
    if time.time() - os.fstat(descriptor).st_mtime > USE_NOTED_AFTER_S:
        with contextlib.suppress(OSError):  # or on a disk that can only be read
            os.utime(descriptor)


class CacheLimit:
    """Evicts the entries of one folder that were used longest ago."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Keep `directory` below `max_bytes`, as the disk counts them."""
        self.directory = directory
        self.max_bytes = max_bytes
        self._free: int | None = None

    def wrote(self, n_bytes: int) -> int:
        """Take note of an entry written here; returns how many were evicted for it."""
        if self._free is not None:
            self._free -= n_bytes
        if self._free is None or self._free < 0:
            return self._count()
        return 0

    def _count(self) -> int:
        total = sum(entry.n_bytes for entry in stored_entries(self.directory))
        n_evicted = 0
        if total > self.max_bytes:
            n_evicted = self._evict()
            total = int(self.max_bytes * KEPT_SHARE)
        self._free = min(int(self.max_bytes * RECOUNT_SHARE), self.max_bytes - total)
        return n_evicted

    def _evict(self) -> int:
        """Delete the oldest entries, unless another process is about it."""
        descriptor = os.open(self.directory / "evicting", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._delete_oldest()
        except BlockingIOError:
            return 0
        finally:
            os.close(descriptor)  # and the lock with it, also after kill -9

    def _delete_oldest(self) -> int:
        entries = sorted(stored_entries(self.directory))
        excess = sum(entry.n_bytes for entry in entries) - self.max_bytes * KEPT_SHARE
        n_evicted = 0
        for entry in entries:
            if excess <= 0:
                break
            try:
                os.unlink(entry.path)  # noqa: PTH108 - a path object each would double the time
            except FileNotFoundError:
                continue
            excess -= entry.n_bytes
            n_evicted += 1
        return n_evicted


if TYPE_CHECKING:
    Array = npt.NDArray[np.generic]

ABANDONED_S = 3600.0


class FeatureCache:
    """A folder of entries. Safe with many processes and threads; pickles as its folder."""

    def __init__(
        self, directory: Path, max_bytes: int | None = None, shared: SharedCache | None = None
    ) -> None:
        """Use `directory`, which is made with the first entry.

        Args:
            directory: Of this cache alone.
            max_bytes: Beyond this the entries used longest ago are evicted; None keeps all.
            shared: Where entries are looked for that are not on disk. If it is written to, it
                gets every entry that is stored or found here.
        """
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self.shared = shared
        self._folder = os.fspath(self.directory)
        self._writes = True
        self._limit = None if max_bytes is None else CacheLimit(self.directory, max_bytes)

    def __reduce__(
        self,
    ) -> tuple[type[FeatureCache], tuple[Path, int | None, SharedCache | None]]:
        """A copy in another process finds out for itself whether the disk is full."""
        return (FeatureCache, (self.directory, self.max_bytes, self.shared))

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry on disk; `get` may yet find it damaged."""
        return os.path.exists(self._path(key))  # noqa: PTH110 - asked for each session

    def may_hold(self, beginning: str) -> bool:
        """Whether there may be an entry whose key begins so, by at least two characters."""
        if self.shared is not None:
            return True
        try:
            names = os.listdir(f"{self._folder}/{beginning[:2]}")  # noqa: PTH208 - as above
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return any(name.startswith(beginning) for name in names)

    def get(self, key: str) -> dict[str, Array] | None:
        """The tensors stored under `key`; None if there are none, or they are damaged."""
        found = self._read(key, read)
        if found is None and (data := self._fetched(key)) is not None:
            found = decode(data)
        return found

    def get_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        """As `get`, but the tensor `name` is read to `out`, and only the others are returned.

        `out` is C-contiguous, and is left in any state where None is returned.
        """
        found = self._read(key, lambda descriptor: read_into(descriptor, name, out))
        if found is None and (data := self._fetched(key)) is not None:
            # Of another shape only if two settings had one hash.
            found = taken_into(decode(data), name, out)
        return found

    def _fetched(self, key: str) -> bytes | None:
        """The entry from the shared cache, on disk from now on."""
        data = None if self.shared is None else self.shared.get_bytes(key)
        if data is not None:
            self._write(key, data)
        return data

    def _read(self, key: str, read: Callable[[int], dict[str, Array]]) -> dict[str, Array] | None:
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # another user's entry may be sound: it is not ours to delete
        except OSError as error:
            self._discard(path, str(error))
            return None
        try:
            tensors = read(descriptor)
            if self._limit is not None:
                note_use(descriptor)
        except (DamagedEntry, OSError) as error:
            self._discard(path, str(error))
            return None
        finally:
            os.close(descriptor)
        if self.shared is not None and self.shared.writes:
            self._publish(key, self.shared)
        return tensors

    def _publish(self, key: str, shared: SharedCache) -> None:
        """Store an entry of the disk in the shared cache too, if it is not there."""
        try:
            n_bytes = Path(self._path(key)).stat().st_size
            if not shared.holds(key, n_bytes):
                shared.put_bytes(key, Path(self._path(key)).read_bytes())
        except FileNotFoundError:
            pass  # another process has just evicted it; the next build finds it missing

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`; whoever stores last wins, all write the same."""
        shared = self.shared if self.shared is not None and self.shared.writes else None
        if not self._writes and shared is None:
            return
        data = encode(tensors)
        self._write(key, data)
        if shared is not None:
            shared.put_bytes(key, data)

    def _write(self, key: str, data: bytes) -> None:
        """Store an entry on disk, unless the disk is full."""
        if not self._writes:
            return
        try:
            path, scratch = Path(self._path(key)), self.directory / "partial"
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.mkdir(exist_ok=True)
            # Of the default mode: who may read the folder may read its entries.
            write_whole(path, data, scratch=scratch)
            if self._limit is not None:
                self._limit.wrote(len(data))
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"the feature cache {self.directory} cannot be written ({error}); features are "
                f"computed anew each time: free some space or choose another folder",
                RuntimeWarning,
                stacklevel=3,
            )

    def status(self) -> CacheStatus:
        """How much the folder holds now."""
        entries = list(stored_entries(self.directory))
        return CacheStatus(len(entries), sum(entry.n_bytes for entry in entries))

    def clear(self) -> CacheStatus:
        """Delete every entry; returns what there was. Other processes may go on using it."""
        before = self.status()
        for entry in stored_entries(self.directory):
            Path(entry.path).unlink(missing_ok=True)
        return before

    def remove_abandoned(self) -> int:
        """Delete what writers that were killed left half-written; returns how many files."""
        n_removed = 0
        for path in (self.directory / "partial").glob("*"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
                    n_removed += 1
            except OSError:
                continue  # its writer has just finished, or is another user's
        return n_removed

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key}.features"

    def _discard(self, path: str, why: str) -> None:
        """Delete a damaged entry, so that it is computed again."""
        warnings.warn(
            f"feature cache entry {path} is damaged ({why}); it is computed again",
            RuntimeWarning,
            stacklevel=4,
        )
        with contextlib.suppress(OSError):  # gone, or on a disk that can only be read
            Path(path).unlink()
