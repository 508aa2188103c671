"""Text files that are written whole or not at all, even if the writing is interrupted."""

import contextlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path


def write_whole(texts: Mapping[Path, str]) -> None:
    """Write text files in UTF-8 under temporary names, then move all into place.

    Existing files are replaced.

    Raises:
        OSError: One cannot be written: the error's `filename`. Nothing is left behind.
    """
    parts = {path: path.with_name(f".{uuid.uuid4().hex}.part") for path in texts}
    now = Path()
    try:
        for now, text in texts.items():
            with parts[now].open(
                "w", encoding="utf-8", errors="backslashreplace", newline="\n"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for now, part in parts.items():
            part.replace(now)
    except OSError as error:
        error.filename, error.filename2 = str(now), None
        raise
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
