"""A model file and the file beside it that holds its weights, if there is one.

Weights that are too large for one file are in `{sha256}.data` in the model's folder, named for
its contents. The model's graph holds that name, so a verified model verifies its weights.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

SUFFIX = ".data"
_NAME = re.compile(rb"[0-9a-f]{64}\.data")
_LARGEST_GRAPH = 2**26
"""Bytes; a larger model file holds its weights itself."""


def weights_beside(path: str | os.PathLike[str]) -> Path | None:
    """Path of the file with a model's weights, which may be missing; None if there is none."""
    model = Path(path)
    if model.stat().st_size > _LARGEST_GRAPH:
        return None
    found = _NAME.search(model.read_bytes())
    return model.with_name(found.group().decode()) if found else None


def model_size(path: str | os.PathLike[str]) -> int:
    """Bytes of a model and of the file with its weights; `OSError` if one cannot be read."""
    weights = weights_beside(path)
    return Path(path).stat().st_size + (weights.stat().st_size if weights else 0)


def remove_model(path: str | os.PathLike[str]) -> None:
    """Remove a model and the file with its weights; `OSError` if one cannot be removed."""
    weights = weights_beside(path)
    Path(path).unlink()
    if weights:
        weights.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal; `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
