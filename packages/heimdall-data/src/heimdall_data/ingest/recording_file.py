"""One recording on disk: what it is, found by decoding it, and its bytes when they are stored.

The two are apart so that thousands of files can be checked one by one before the first is
stored, with none of them kept in memory. A digest tells whether a file is still what was
checked.

Which recordings a list of paths means: files, folders of them, and SigMF collections.

A folder stands for the recordings directly in it, a collection for those that it lists, and a
SigMF pair for one recording, whichever of its two files is given.

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
from heimdall_data.ingest.checks import check_moment
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.kiwi_wav import kiwi_name
from heimdall_data.recordings.recording import MAX_SAMPLES
from heimdall_data.recordings.sigmf_recording import sigmf_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from heimdall_data.recordings.recording import ComplexSamples

__all__ = [
    "FORMATS",
    "RecordingFile",
    "absence",
    "is_plain_name",
    "one_of_a_pair",
    "recording_paths",
    "station_in_name",
]


FORMATS = {
    ".npy": "npy",
    ".wav": "kiwi_wav",
    ".sigmf": "sigmf",
    ".sigmf-data": "sigmf",
    ".sigmf-meta": "sigmf",
}
PAIR = (".sigmf-data", ".sigmf-meta")
MAX_BYTES = 16 * MAX_SAMPLES + 2**20
"""The longest recording that is decoded, in the widest type: larger files are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFile:
    """A file that decodes, and what it says."""

    path: Path
    format: str
    sample_rate_hz: float
    n_samples: int
    duration_s: float
    start: datetime | None
    """Aware; None where neither the file nor its name tells."""
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
        form = _format(path)
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
        return cls(
            path=path,
            format=form,
            sample_rate_hz=recording.sample_rate_hz,
            n_samples=len(recording.iq),
            duration_s=recording.duration_s,
            # Without a lock the recorder's own clock is what there is.
            start=recording.start_utc or (named.start if named else None),
            center_frequency_hz=recording.center_frequency_hz,
            receiver_deg=recording.receiver_deg,
            level_db=_level_db(recording.iq),
            digest=_digest(payload, metadata),
        )

    def content(self) -> tuple[bytes, bytes | None]:
        """The samples' bytes and, of a SigMF pair, those of the metadata.

        Raises:
            IngestError: The file cannot be read, or is no longer what was inspected.
        """
        payload, metadata = _content(self.path)
        if _digest(payload, metadata) != self.digest:
            raise IngestError(
                f"{self.path}: changed since it was checked; ingest it when it is complete"
            )
        return payload, metadata


def station_in_name(path: Path) -> str:
    """The station that a file's own name tells.

    `{utc}_{Hz}_{station}_iq.wav` as KiwiSDR's recorder writes it, `websdr_{station}.npy`, or
    `{station}.npy`.
    """
    named = kiwi_name(path.name)
    return named.station if named else path.stem.removeprefix("websdr_")


def is_plain_name(name: object) -> bool:
    """Whether it can only be of a file in the folder that it is said to be in."""
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def _format(path: Path) -> str:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise IngestError(f"{path}: {path.suffix!r} is none of {', '.join(FORMATS)}; convert it")
    return form


def _content(path: Path) -> tuple[bytes, bytes | None]:
    if path.suffix.lower() not in PAIR:
        return _read(path), None
    metadata = _read(path.with_suffix(".sigmf-meta"))
    return _read(_dataset(path.with_suffix(".sigmf-data"), metadata)), metadata


def _dataset(beside: Path, metadata: bytes) -> Path:
    """Where the samples of the metadata are: beside them, under their name or a foreign one."""
    about = sigmf_metadata(metadata, beside.name)["global"]
    if about.get("core:metadata_only") is True and not beside.exists():
        raise IngestError(
            f"{beside.with_suffix('.sigmf-meta')}: core:metadata_only says that it comes without "
            f"samples; there is nothing to ingest"
        )
    foreign = about.get("core:dataset")
    if foreign is None:
        return beside
    if not is_plain_name(foreign):
        raise IngestError(
            f"{beside.with_suffix('.sigmf-meta')}: core:dataset is {foreign!r}; it must be the "
            f"name of a file in the same folder"
        )
    return beside.with_name(str(foreign))


def _read(path: Path) -> bytes:
    """The file's bytes, unless there are too many or it is no file that ends."""
    try:
        if path.exists() and not path.is_file():
            raise IngestError(f"{path}: neither a file nor a folder of recordings; give its path")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise IngestError(
                f"{path}: {size} bytes, more than the {MAX_BYTES} of the longest recording that "
                f"is read ({MAX_SAMPLES} samples); cut it into several"
            )
        return path.read_bytes()
    except OSError as error:
        raise IngestError(f"cannot read the recording: {error}") from error


def _level_db(iq: ComplexSamples) -> float | None:
    power = float(np.mean(np.abs(iq) ** 2, dtype=np.float64))
    return 10 * float(np.log10(power)) if power > 0 else None


def _digest(payload: bytes, metadata: bytes | None) -> bytes:
    digest = hashlib.sha256(payload)
    # Fixed in length, so that no byte can move from one part to the other unnoticed.
    digest.update(hashlib.sha256(metadata or b"").digest())
    return digest.digest()


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
