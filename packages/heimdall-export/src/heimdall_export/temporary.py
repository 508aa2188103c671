"""Locks that end with their process, and temporary folders that are removed even after `kill -9`.

The operating system releases a lock when the last process that holds it ends, however it ends. So
what a lock belongs to is abandoned if it can be locked, and in use if not, without a look at
process numbers, which mean something else in every container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.atomic import UNFINISHED

if sys.platform != "win32":  # There, folders stay after a killed process.
    import fcntl

if TYPE_CHECKING:
    from types import TracebackType

_NAMES = "heimdall-*-*"
_MARK = ".heimdall-temporary"
"""Name of an empty file in our folders; people have folders of their own called `heimdall-0.2`."""


def lock(descriptor: int) -> bool:
    """Lock an open file or folder; False if another process, or another opening, holds it.

    Raises:
        OSError: The file system has no locks.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class TemporaryFolder:
    """A folder for this process, as a context manager: removed at its end, or by the next one.

    A process that is killed leaves its folder; whichever makes one next, of the same user, removes
    it.
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._descriptor = -1

    def __enter__(self) -> Path:
        remove_abandoned()
        self._path = Path(tempfile.mkdtemp(prefix=f"heimdall-{self._purpose}-"))
        UNFINISHED.add(self._path)
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # Without locks it is not taken for abandoned.
                lock(self._descriptor)
            # Marked when it is locked, so that nobody takes it for an abandoned one.
            (self._path / _MARK).touch()
        except BaseException:
            self._close()
            raise
        return self._path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def fileno(self) -> int:
        """Descriptor that holds the lock; a process that inherits it keeps the folder in use."""
        return self._descriptor

    def _close(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        UNFINISHED.discard(self._path)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def remove_unfinished() -> None:
    """Remove what this process is still writing, before an `os._exit` that waits for no thread."""
    for path in tuple(UNFINISHED):
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()


def abandoned_folders() -> tuple[Path, ...]:
    """Temporary folders of this user whose process was killed."""
    return _abandoned(remove=False)


def remove_abandoned() -> tuple[Path, ...]:
    """Remove the temporary folders of this user whose process was killed, and return them."""
    return _abandoned(remove=True)


def _abandoned(*, remove: bool) -> tuple[Path, ...]:
    if sys.platform == "win32":
        return ()
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(_NAMES)):
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, descriptor)
            is_ours = os.fstat(descriptor).st_uid == os.geteuid() and (path / _MARK).exists()
            if is_ours and lock(descriptor):
                found.append(path)
                if remove:
                    shutil.rmtree(path, ignore_errors=True)
    return tuple(found)
