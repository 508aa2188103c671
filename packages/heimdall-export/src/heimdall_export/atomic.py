"""A model file that is whole or not there at all, whatever interrupts its writing.

Text files that are there whole or not at all, whoever is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["write_whole", "written_at_once"]


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file beside its place, then move it there.

    Args:
        path: Where it goes; what is there is replaced.
        text: All of it; what UTF-8 cannot say is escaped.
        mode: Permissions; until it is in place only its owner can read it.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    descriptor, name = tempfile.mkstemp(
        dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".part"
    )
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def written_at_once(target: Path) -> Iterator[Path]:
    """A path beside the target, which becomes the target if the body ends well.

    Raises:
        ExportError: The body, or what follows it, cannot write.
    """
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _to_disk(part)
        part.replace(target)
    except OSError as error:
        raise ExportError(
            f"the model cannot be written to {target}: {error.strerror or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
