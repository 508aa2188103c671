"""A limit on what a folder of cache entries takes up, kept by many processes together.

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
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CacheLimit", "StoredEntry", "note_use", "stored_entries"]

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
