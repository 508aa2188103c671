"""Files that are written whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o666,
    scratch: Path | None = None,
    durable: bool = False,
) -> None:
    """Write a file elsewhere, then move it to its place; an error leaves nothing behind.

    Args:
        path: Where it goes; a file that is there is replaced.
        data: All of it.
        mode: Permissions from its first byte on, before the process' umask.
        scratch: Folder on the same file system to write it in; None means that of `path`.
        durable: Wait until the data are on the disk.
    """
    part = (scratch or path.parent) / f"{uuid.uuid4().hex}.part"
    # Not the tempfile module, whose files are always of mode 0600.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
