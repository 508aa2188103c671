"""Computed features on local disk, so that no epoch computes them again.

An entry is one file (see `cache.entry`) named by its key, a hash of everything that the features
depend on: nothing is ever updated in place. Files are written elsewhere and renamed, so that a
reader in any process sees a whole entry or none, also after `kill -9`. An entry with a wrong
checksum is deleted and computed again. If the disk is full the cache stops writing, warns once,
and training goes on. Entries that are only in the shared cache (see `cache.bucket`) are stored on
disk when they are first read.

`benchmarks/bench_cache.py` compares it with the libraries that could have been used instead.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.atomic import write_whole
from heimdall_data.cache.entry import CacheStatus, DamagedEntry, encode, read_into, take_into

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.cache.bucket import SharedCache

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
        self._writes = True
        self._free: int | None = None

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[object, ...]]:
        """Pickle only the settings: for a copy in another process the disk may not be full."""
        return (FeatureCache, (self.directory, self.max_bytes, self.shared))

    def may_contain(self, prefix: str) -> bool:
        """Return False only if no entry's key starts with `prefix` (two characters or more)."""
        if self.shared is not None:
            return True
        try:
            names = os.listdir(f"{self._folder}/{prefix[:2]}")  # noqa: PTH208 - as above
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return any(name.startswith(prefix) for name in names)

    def get_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        """Read the tensor `name` of an entry to `out`, and return the other tensors.

        Returns:
            None if there is no entry or it is damaged; `out` is then undefined.
        """
        found = self._read_into(key, name, out)
        if found is None and self.shared is not None:
            data = self.shared.get_bytes(key)
            if data is not None:
                self._write(key, data)
                found = take_into(data, name, out)
        return found

    def _read_into(self, key: str, name: str, out: Array) -> dict[str, Array] | None:
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # another user's entry may be sound: it is not ours to delete
        except OSError as error:
            self._discard(path, str(error))
            return None
        try:
            tensors = read_into(descriptor, name, out)
            used_s = os.fstat(descriptor).st_mtime
            if self.max_bytes is not None and time.time() - used_s > USE_NOTED_AFTER_S:
                with contextlib.suppress(OSError):  # a read-only disk, or another user's entry
                    os.utime(descriptor)
        except (DamagedEntry, OSError) as error:
            self._discard(path, str(error))
            return None
        finally:
            os.close(descriptor)
        if self.shared is not None and self.shared.writes:
            with contextlib.suppress(FileNotFoundError):  # another process has just evicted it
                if not self.shared.holds(key, Path(path).stat().st_size):
                    self.shared.put_bytes(key, Path(path).read_bytes())
        return tensors

    def put(self, key: str, tensors: Mapping[str, Array]) -> None:
        """Store tensors under `key`. The last writer wins; all write the same."""
        data = encode(tensors)
        self._write(key, data)
        if self.shared is not None and self.shared.writes:
            self.shared.put_bytes(key, data)

    def _write(self, key: str, data: bytes) -> None:
        """Store an entry on disk, unless the disk is full."""
        if not self._writes:
            return
        path, scratch = Path(self._path(key)), self.directory / "partial"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.mkdir(exist_ok=True)
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
        sizes = [n_bytes for _, _, n_bytes in _entries(self._folder)]
        return CacheStatus(len(sizes), sum(sizes))

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
    for name in glob.iglob("??/*", root_dir=folder):  # noqa: PTH207
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            continue  # another process has just evicted it
        yield status.st_mtime, path, status.st_blocks * 512
