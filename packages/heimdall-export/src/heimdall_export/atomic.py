"""Files that are written whole or not at all, even if the writing is interrupted."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNFINISHED: set[Path] = set()
"""Files and folders of this process that are removed where they were made, if it gets there."""


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path beside the target; the file there replaces the target if the body succeeds.

    Raises:
        OSError: It cannot be written or moved; nothing is left behind.
    """
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    UNFINISHED.add(part)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
        UNFINISHED.discard(part)


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a text file whole; an existing file is replaced.

    Characters that UTF-8 cannot encode are escaped. Until the file is in place with the
    permissions `mode`, only its owner can read it.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    with whole_file(path) as part:
        part.touch(mode=0o600)
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.chmod(mode)
