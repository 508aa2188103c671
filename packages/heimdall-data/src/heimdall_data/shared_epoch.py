"""One number that all processes see, also those that started before it changed.

Workers of a DataLoader with `persistent_workers` hold a copy of the dataset from the first
epoch on. The epoch is therefore kept in eight bytes of a small file that every copy maps,
which works under fork, spawn and forkserver alike, and pickles as the file's name.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path

__all__ = ["SharedEpoch"]

WIDTH = 8


class SharedEpoch:
    """A whole number, zero at first; the file goes with the process that made it."""

    def __init__(self) -> None:
        """Make a new one."""
        descriptor, name = tempfile.mkstemp(prefix="heimdall-epoch-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(WIDTH))
        self._path = Path(name)
        self._map = _mapped(self._path)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __getstate__(self) -> tuple[Path, int]:
        return (self._path, self.value)

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self._path, value = state
        try:
            self._map = _mapped(self._path)
        except FileNotFoundError:
            # The maker is gone, as with a pickle read back later; keep what it last said.
            self.__init__()  # type: ignore[misc]
            self.value = value

    @property
    def value(self) -> int:
        """The number now."""
        return int.from_bytes(self._map[:WIDTH], "little")

    @value.setter
    def value(self, value: int) -> None:
        self._map[:WIDTH] = value.to_bytes(WIDTH, "little")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), WIDTH)


def _remove(path: Path, maker: int) -> None:
    """Delete the file, unless this is a forked copy of the process that made it."""
    if os.getpid() == maker:
        path.unlink(missing_ok=True)
