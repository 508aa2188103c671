"""Which recordings a list of paths means: files, folders of them, and SigMF collections.

A folder stands for the recordings directly in it, a collection for those that it lists, and a
SigMF pair for one recording, whichever of its two files is given.

Source: The Signal Metadata Format Specification, v1.2, "SigMF Collection format", sigmf.org.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.errors import IngestError
from heimdall_data.recording_file import FORMATS, PAIR, is_plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["absence", "one_of_a_pair", "recording_paths"]

COLLECTION = ".sigmf-collection"
MAX_COLLECTION_BYTES = 2**24


def recording_paths(given: Iterable[Path]) -> tuple[Path, ...]:
    """The recordings that `given` means, each once, in their order.

    Raises:
        IngestError: Paths are missing (all are named), a folder holds no recording, or a
            collection cannot be read or is not of the files beside it.
    """
    given = tuple(Path(path) for path in given)
    missing = {path: reason for path in given if (reason := absence(path)) is not None}
    if closed := [f"{path} ({reason})" for path, reason in missing.items() if reason]:
        raise IngestError(f"cannot reach {', '.join(closed)}; correct the path, or its permissions")
    if missing:
        raise IngestError(f"there is no {', '.join(map(str, missing))}; correct the path")
    return tuple(dict.fromkeys(path for each in given for path in _meant(each)))


def absence(path: Path) -> str | None:
    """Why nothing can be read at `path`: empty if nothing is there, None if something is."""
    try:
        return None if path.exists() else ""
    except OSError as error:
        return error.strerror or type(error).__name__


def _meant(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() == COLLECTION:
        yield from _in_collection(path)
    else:
        yield one_of_a_pair(path)


def _in_folder(folder: Path) -> list[Path]:
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise IngestError(f"cannot read the folder: {error}") from error
    found = [one_of_a_pair(path) for path in inside if path.suffix.lower() in FORMATS]
    if not found:
        raise IngestError(
            f"{folder}: no recording is in this folder itself; looked for *{', *'.join(FORMATS)}"
        )
    return found


def one_of_a_pair(path: Path) -> Path:
    """The metadata file for either part of a SigMF pair, any other path as it is."""
    return path.with_suffix(".sigmf-meta") if path.suffix.lower() in PAIR else path


def _in_collection(path: Path) -> list[Path]:
    """The metadata files of a collection's recordings, which are what it was made of."""
    streams = _streams(path)
    names = [_recording_name(stream, path) for stream in streams]
    found = [path.with_name(f"{name}.sigmf-meta") for name in names]
    if missing := [str(meta) for meta in found if not meta.is_file()]:
        raise IngestError(f"{path}: lists recordings that are not beside it: {', '.join(missing)}")
    for meta, stream in zip(found, streams, strict=True):
        _check_hash(meta, stream, path)
    return found


def _streams(path: Path) -> list[dict[str, object]]:
    try:
        if path.stat().st_size > MAX_COLLECTION_BYTES:
            raise IngestError(f"{path}: larger than {MAX_COLLECTION_BYTES} bytes; no collection")
        streams = json.loads(path.read_bytes())["collection"]["core:streams"]
        if isinstance(streams, list) and streams:
            # Version 1.0 of the format wrote pairs.
            return [
                dict(zip(("name", "hash"), each, strict=True)) if isinstance(each, list) else each
                for each in streams
            ]
        why = "core:streams lists no recording"
    except OSError as error:
        raise IngestError(f"cannot read the collection: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, IngestError):
            raise
        why = f"{type(error).__name__}: {error}"
    raise IngestError(f"{path}: not a SigMF collection ({why}); write it anew")


def _recording_name(stream: object, path: Path) -> str:
    name = stream.get("name") if isinstance(stream, dict) else None
    if not is_plain_name(name):
        raise IngestError(
            f"{path}: lists a recording {name!r}; its name must be that of a file in the same "
            f"folder, without an ending"
        )
    return str(name)


def _check_hash(meta: Path, stream: dict[str, object], path: Path) -> None:
    try:
        found = hashlib.sha512(meta.read_bytes()).hexdigest()
    except OSError as error:
        raise IngestError(f"cannot read the metadata: {error}") from error
    if found != str(stream.get("hash")).lower():
        raise IngestError(
            f"{meta}: its SHA-512 is not the one in {path.name}; it was changed after the "
            f"collection was made: restore it, or make the collection anew"
        )
