"""One recording on disk: what it is, found by decoding it, and its bytes when they are stored.

The two are apart so that thousands of files can be checked one by one before the first is
stored, with none of them kept in memory. A digest tells whether a file is still what was
checked.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_data.decode import decode
from heimdall_data.errors import IngestError
from heimdall_data.kiwi_wav import kiwi_name
from heimdall_data.recording import MAX_SAMPLES
from heimdall_data.sigmf_file import sigmf_metadata
from heimdall_data.validation import check_moment

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from heimdall_data.recording import ComplexSamples

__all__ = ["FORMATS", "RecordingFile", "is_plain_name", "station_in_name"]

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
