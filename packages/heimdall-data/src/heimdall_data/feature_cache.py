"""Computed features on local disk, so that no epoch computes them again.

An entry is one file (see `cache_entry`) named by its key, a hash of everything that the
features depend on; a changed object or setting is another key, and nothing is ever updated in
place. Files are written aside and renamed, so that a reader in any process, also after a
`kill -9`, sees a whole entry or none. An entry whose checksum does not hold is deleted and
computed again. If the disk is full the cache stops writing, warns once, and training goes on.
What is not on disk may be in a bucket (see `shared_cache`), and is on disk from then on.

Why not a library: `benchmarks/bench_cache.py` measures those that were considered.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.cache_entry import (
    DamagedEntry,
    decode,
    encode,
    read,
    read_into,
    taken_into,
)
from heimdall_data.cache_limit import CacheLimit, note_use, stored_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.shared_cache import SharedCache

    Array = npt.NDArray[np.generic]

__all__ = ["CacheStatus", "FeatureCache"]

ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What a cache holds."""

    n_entries: int
    n_bytes: int
    """As the disk counts them."""


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
            _write_atomically(Path(self._path(key)), data, self.directory / "partial")
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


def _write_atomically(path: Path, data: bytes, scratch: Path) -> None:
    """Put a whole file in place, or leave nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    part = scratch / uuid.uuid4().hex
    # Not the tempfile module's 0600: who may read the folder may read what is in it.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
