"""Text files that are written whole or not at all, even if the writing is interrupted."""

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8; an existing one is replaced.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
