"""A model file and the file beside it that holds its weights, if there is one.

Weights that are too large for one file are in `{sha256}.data` in the model's folder, named for
its contents. The model's graph holds that name, so a verified model verifies its weights.

Source: Protocol Buffers, "Encoding", protobuf.dev; `onnx.proto3` of onnx.ai, message `ModelProto`.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    import os

SUFFIX = ".data"
CARD_SUFFIX = ".md"
"""Ending of the file beside a model that tells people what it is."""
_NAME = re.compile(rb"[0-9a-f]{64}\.data")
_LARGEST_GRAPH = 2**26
"""Bytes; a larger model file holds its weights itself."""
_LARGEST_METADATA = 2**24
"""Bytes; ours have some thousand. Opened, they take six times as much memory."""
_MOST_FIELDS = 100_000
_METADATA_PROPS = 14
_LARGEST_FIELD = 2**40
_VARINT, _WITH_LENGTH = 0, 2
_WIDTHS = {1: 8, 5: 4}
"""Bytes of a field's value by its wire type, where the type determines them."""


def weights_beside(path: str | os.PathLike[str]) -> Path | None:
    """Path of the file with a model's weights, which may be missing; None if there is none."""
    model = Path(path)
    if model.stat().st_size > _LARGEST_GRAPH:
        return None
    found = _NAME.search(model.read_bytes())
    return model.with_name(found.group().decode()) if found else None


def require_small_metadata(model: str | os.PathLike[str] | bytes) -> None:
    """Refuse a model file, or its contents, with more metadata than any model has.

    Only the lengths of the message's fields are read. A file that is no such message is left to
    whatever opens it.

    Raises:
        ExportError: It has more than 16 MiB of metadata, or is a message of 100,000 fields.
        OSError: It cannot be read.
    """
    with io.BytesIO(model) if isinstance(model, bytes) else Path(model).open("rb") as file:
        n_fields = n_bytes = 0
        while (tag := _varint(file)) is not None:
            n_fields += 1
            start, kind = file.tell(), tag & 7
            width = _WIDTHS.get(kind)
            if kind in (_VARINT, _WITH_LENGTH):
                number = _varint(file)
                width = number if kind == _WITH_LENGTH else 0
            if width is None or width > _LARGEST_FIELD:
                return
            file.seek(width, io.SEEK_CUR)
            if tag >> 3 == _METADATA_PROPS:
                n_bytes += file.tell() - start
            if n_bytes > _LARGEST_METADATA or n_fields > _MOST_FIELDS:
                raise ExportError(
                    f"the model file has {n_bytes} bytes of metadata and {n_fields} fields, more "
                    f"than {_LARGEST_METADATA} or {_MOST_FIELDS}; it is no model of ours, do not "
                    "use it"
                )


def _varint(file: BinaryIO) -> int | None:
    """The next number; None at the end of the file, or if it has more than 64 bits."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return None


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
