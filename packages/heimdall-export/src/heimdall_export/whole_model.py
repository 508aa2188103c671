"""A model file that is whole or not there at all, whatever interrupts its writing."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["written_at_once"]


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
