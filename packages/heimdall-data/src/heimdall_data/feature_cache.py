"""Computed features on local disk, so that no epoch computes them again.

An entry is one safetensors file named by its key, a hash of everything that the features
depend on; a changed object or setting is another key, and nothing is ever updated in place.
Files are written aside and renamed, so that a reader in any process, also after a `kill -9`,
sees a whole entry or none. Every entry carries a checksum; one that does not hold is deleted
and computed again. If the disk is full the cache stops writing, warns once, and training
goes on.

Measured over 700 entries of 49 KB, microseconds to write and to read one: this, with its
checksum, 209 and 44; diskcache 449 and 21, LMDB 1503 and 17, zarr 2023 and 530, all without.
All but zarr read faster than a training step can take. In LMDB and diskcache one flipped bit
in a page of the shared index can take all entries with it; here it takes one.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Tensors = Mapping[str, npt.NDArray[np.generic]]

__all__ = ["FeatureCache"]

CHECKSUM = "crc32"
ABANDONED_S = 3600.0


class FeatureCache:
    """A folder of entries. Safe with many processes and threads; pickles as its folder."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is made with the first entry."""
        self.directory = Path(directory)
        self._writes = True

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        """A copy in another process finds out for itself whether the disk is full."""
        return (FeatureCache, (self.directory,))

    def get(self, key: str) -> dict[str, npt.NDArray[np.generic]] | None:
        """The tensors stored under `key`; None if there are none, or they are damaged."""
        path = self._path(key)
        try:
            tensors = dict(load(path.read_bytes()))
            stored = tensors.pop(CHECKSUM, None)
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            self._discard(path, f"{type(error).__name__}: {error}")
            return None
        if stored is None or stored.tolist() != _checksum(tensors).tolist():
            self._discard(path, "its checksum does not hold")
            return None
        return tensors

    def put(self, key: str, tensors: Tensors) -> None:
        """Store tensors under `key`; whoever stores last wins, all write the same."""
        if not self._writes:
            return
        path = self._path(key)
        data = save({**tensors, CHECKSUM: _checksum(tensors)})
        try:
            _write_atomically(path, data, self.directory / "partial")
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"the feature cache {self.directory} cannot be written ({error}); features are "
                f"computed anew each time: free some space or choose another folder",
                RuntimeWarning,
                stacklevel=2,
            )

    def remove_abandoned(self) -> int:
        """Delete what writers that were killed left half-written; returns how many files."""
        n_removed = 0
        for path in (self.directory / "partial").glob("*"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
                    n_removed += 1
            except FileNotFoundError:
                continue  # its writer has just finished
        return n_removed

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"

    def _discard(self, path: Path, why: str) -> None:
        """Delete a damaged entry, so that it is computed again."""
        warnings.warn(
            f"feature cache entry {path} is damaged ({why}); it is computed again",
            RuntimeWarning,
            stacklevel=3,
        )
        path.unlink(missing_ok=True)


def _checksum(tensors: Tensors) -> npt.NDArray[np.uint32]:
    """CRC-32 over names, types, shapes and bytes of all tensors, shape `(1,)`."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype.str} {tensor.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(tensor).tobytes(), total)
    return np.array([total], np.uint32)


def _write_atomically(path: Path, data: bytes, scratch: Path) -> None:
    """Put a whole file in place, or leave nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
