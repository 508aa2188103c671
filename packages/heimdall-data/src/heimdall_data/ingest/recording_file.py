"""One recording on disk: its properties, found by decoding it, and later its bytes.

The two are apart so that thousands of files can be checked one by one before the first is
stored, with none of them kept in memory; a digest tells whether a file changed meanwhile.

In a list of paths a folder stands for the recordings directly in it, a SigMF collection for
those that it lists, and a SigMF pair for one recording, whichever of its two files is given.

Source: The Signal Metadata Format Specification, v1.2, "SigMF Collection format", sigmf.org.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heimdall_data.errors import IngestError
from heimdall_data.ingest.new_session import check_moment
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.kiwi_wav import kiwi_name
from heimdall_data.recordings.recording import MAX_SAMPLES
from heimdall_data.recordings.sigmf_recording import sigmf_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = ["RecordingFile", "absence", "one_of_a_pair", "recording_paths", "station_in_name"]

_FORMATS = {
    ".npy": "npy",
    ".wav": "kiwi_wav",
    ".sigmf": "sigmf",
    ".sigmf-data": "sigmf",
    ".sigmf-meta": "sigmf",
}
_PAIR = (".sigmf-data", ".sigmf-meta")
_MAX_BYTES = 16 * MAX_SAMPLES + 2**20
"""The longest recording that is decoded, in the widest type: larger files are not read."""
_MAX_COLLECTION_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFile:
    """A file that decodes, and its properties."""

    path: Path
    format: str
    sample_rate_hz: float
    n_samples: int
    duration_s: float
    start: datetime | None
    """Aware; None where neither the file nor its name has it."""
    center_frequency_hz: float | None
    receiver_deg: tuple[float, float] | None
    """Latitude and longitude of the receiver; only SigMF has them."""
    level_db: float | None
    """Mean power relative to full scale; None for silence, which has no level in dB."""
    digest: bytes

    @classmethod
    def inspected(
        cls, path: Path, *, sample_rate_hz: float | None = None, start: datetime | None = None
    ) -> RecordingFile:
        """Decode a file.

        Args:
            path: Of a recording, or of either part of a SigMF pair.
            sample_rate_hz: Of NumPy files, which do not hold it.
            start: About when it was recorded, for the GPS week of a KiwiSDR recording.

        Raises:
            IngestError: The file cannot be read, or is of no known format.
            RecordingError: It cannot be decoded.
        """
        if start is not None:
            check_moment(start, f"{path}: its session")
        form = _FORMATS.get(path.suffix.lower())
        if form is None:
            known = ", ".join(_FORMATS)
            raise IngestError(f"{path}: {path.suffix!r} is none of {known}; convert it")
        if form == "npy" and sample_rate_hz is None:
            raise IngestError(f"{path}: a NumPy file does not hold its sample rate; give it")
        if sample_rate_hz is not None and not 0 < sample_rate_hz < math.inf:
            raise IngestError(
                f"{path}: its sample rate is given as {sample_rate_hz} Hz; correct it"
            )
        payload, metadata = _content(path)
        recording = decode(
            payload,
            form,
            name=path.name,
            sample_rate_hz=sample_rate_hz,
            start=start,
            metadata=metadata,
        )
        named = kiwi_name(path.name)
        power = float(np.mean(np.abs(recording.iq) ** 2, dtype=np.float64))
        return cls(
            path=path,
            format=form,
            sample_rate_hz=recording.sample_rate_hz,
            n_samples=len(recording.iq),
            duration_s=recording.duration_s,
            # Without a lock the recorder's own clock is the best there is.
            start=recording.start_utc or (named.start if named else None),
            center_frequency_hz=recording.center_frequency_hz,
            receiver_deg=recording.receiver_deg,
            level_db=10 * float(np.log10(power)) if power > 0 else None,
            digest=_digest(payload, metadata),
        )

    def content(self) -> tuple[bytes, bytes | None]:
        """Return the samples' bytes and, of a SigMF pair, those of the metadata.

        Raises:
            IngestError: The file cannot be read, or changed since it was inspected.
        """
        payload, metadata = _content(self.path)
        if _digest(payload, metadata) != self.digest:
            raise IngestError(
                f"{self.path}: changed since it was checked; ingest it when it is complete"
            )
        return payload, metadata


def station_in_name(path: Path) -> str:
    """Return the station in a file's own name.

    `{utc}_{Hz}_{station}_iq.wav` as KiwiSDR's recorder writes it, `websdr_{station}.npy`, or
    `{station}.npy`.
    """
    named = kiwi_name(path.name)
    return named.station if named else path.stem.removeprefix("websdr_")


def _content(path: Path) -> tuple[bytes, bytes | None]:
    """The samples' bytes and those of the metadata, which are beside the samples or name them."""
    if path.suffix.lower() not in _PAIR:
        return _read(path), None
    meta, data = path.with_suffix(".sigmf-meta"), path.with_suffix(".sigmf-data")
    metadata = _read(meta)
    about = sigmf_metadata(metadata, data.name)["global"]
    if about.get("core:metadata_only") is True and not data.exists():
        raise IngestError(
            f"{meta}: core:metadata_only says that it comes without samples; there is nothing to "
            f"ingest"
        )
    foreign = about.get("core:dataset")
    if foreign is not None:
        if not _is_plain_name(foreign):
            raise IngestError(
                f"{meta}: core:dataset is {foreign!r}; it must be the name of a file in the same "
                f"folder"
            )
        data = data.with_name(str(foreign))
    return _read(data), metadata


def _is_plain_name(name: object) -> bool:
    """Whether it can only be of a file in the folder of the metadata."""
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise IngestError(f"{path}: neither a file nor a folder of recordings; give its path")
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise IngestError(
                f"{path}: {size} bytes, more than the {_MAX_BYTES} of the longest recording that "
                f"is read ({MAX_SAMPLES} samples); cut it into several"
            )
        return path.read_bytes()
    except OSError as error:
        raise IngestError(f"cannot read the recording: {error}") from error


def _digest(payload: bytes, metadata: bytes | None) -> bytes:
    digest = hashlib.sha256(payload)
    # Fixed in length, so that no byte can move from one part to the other unnoticed.
    digest.update(hashlib.sha256(metadata or b"").digest())
    return digest.digest()


def recording_paths(given: Iterable[Path]) -> tuple[Path, ...]:
    """Return the recordings that the paths stand for, each once, in their order.

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
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _in_folder(path)
        elif path.suffix.lower() == ".sigmf-collection":
            found += _in_collection(path)
        else:
            found.append(one_of_a_pair(path))
    return tuple(dict.fromkeys(found))


def absence(path: Path) -> str | None:
    """Return why nothing can be read at `path`: empty if it is missing, None if it is there."""
    try:
        return None if path.exists() else ""
    except OSError as error:
        return error.strerror or type(error).__name__


def one_of_a_pair(path: Path) -> Path:
    """Return the metadata file for either part of a SigMF pair, any other path as it is."""
    return path.with_suffix(".sigmf-meta") if path.suffix.lower() in _PAIR else path


def _in_folder(folder: Path) -> list[Path]:
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise IngestError(f"cannot read the folder: {error}") from error
    found = [one_of_a_pair(path) for path in inside if path.suffix.lower() in _FORMATS]
    if not found:
        raise IngestError(
            f"{folder}: no recording is in this folder itself; looked for *{', *'.join(_FORMATS)}"
        )
    return found


def _in_collection(path: Path) -> list[Path]:
    """The metadata files of a collection's recordings, unchanged since it was made."""
    found, hashes, missing = [], [], []
    for stream in _streams(path):
        name = stream.get("name") if isinstance(stream, dict) else None
        if not _is_plain_name(name):
            raise IngestError(
                f"{path}: lists a recording {name!r}; its name must be that of a file in the same "
                f"folder, without an ending"
            )
        found.append(path.with_name(f"{name}.sigmf-meta"))
        hashes.append(str(stream.get("hash")).lower())
        missing += [] if found[-1].is_file() else [str(found[-1])]
    if missing:
        raise IngestError(f"{path}: lists recordings that are not beside it: {', '.join(missing)}")
    for meta, expected in zip(found, hashes, strict=True):
        try:
            actual = hashlib.sha512(meta.read_bytes()).hexdigest()
        except OSError as error:
            raise IngestError(f"cannot read the metadata: {error}") from error
        if actual != expected:
            raise IngestError(
                f"{meta}: its SHA-512 is not the one in {path.name}; it was changed after the "
                f"collection was made: restore it, or make the collection again"
            )
    return found


def _streams(path: Path) -> list[dict[str, object]]:
    """The collection's list of recordings."""
    reason = "core:streams lists no recording"
    try:
        if path.stat().st_size > _MAX_COLLECTION_BYTES:
            reason = f"more than {_MAX_COLLECTION_BYTES} bytes"
        else:
            streams = json.loads(path.read_bytes())["collection"]["core:streams"]
            if isinstance(streams, list) and streams:
                # Version 1.0 of the format wrote pairs.
                return [
                    dict(zip(("name", "hash"), each, strict=True))
                    if isinstance(each, list)
                    else each
                    for each in streams
                ]
    except OSError as error:
        raise IngestError(f"cannot read the collection: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise IngestError(f"{path}: not a SigMF collection ({reason}); write it again")
