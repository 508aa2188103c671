"""A recording on disk: decoded, or its properties and later its bytes.

Thousands of files can be checked before the first is stored, with none of them kept in memory;
a digest shows whether a file changed in between. In a list of paths a folder stands for the
recordings directly in it, a SigMF collection for those that it lists, and either file of a
SigMF pair for one recording.

Source: The Signal Metadata Format Specification, v1.2, "SigMF Collection format", sigmf.org.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features.names import composed, spellings
from heimdall_features.outside_json import LARGEST_BYTES, parsed_json

from heimdall_data.errors import IngestError, reason_of
from heimdall_data.recordings.decode import NO_MEMORY, decode, decoding, require_sound
from heimdall_data.recordings.formats import (
    JSON,
    PAIR,
    RAW,
    SUFFIXES,
    TAR,
    WAV,
    kind_of,
    suffix_of,
)
from heimdall_data.recordings.iq_wav import (
    WavNotes,
    iq_wav_name,
    recording_from_iq_wav,
    recording_from_raw_iq,
)
from heimdall_data.recordings.kiwi_wav import kiwi_name
from heimdall_data.recordings.recording import MAX_BYTES
from heimdall_data.recordings.sigmf_emitter import Emitter, emitters_in
from heimdall_data.recordings.sigmf_recording import sigmf_archive, sigmf_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from heimdall_data.recordings.recording import ReceiverPosition, Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Facts about a recording that its file may lack."""

    sample_rate_hz: float | None = None
    """For NumPy and raw files, which have none."""
    start: datetime | None = None
    """Approximate time, aware, for the GPS week of a KiwiSDR recording without a date."""
    start_gps_ns: int | None = None
    """Instant of the first sample, where the file states none with its uncertainty."""
    clock_sigma_s: float | None = None
    """Standard deviation of the start, where the file states none."""
    full_scale: float | None = None
    """Largest value of samples that are floats, such as 32768 for counts; 1 where unset."""

    def __post_init__(self) -> None:
        if self.full_scale is not None and not 0 < self.full_scale < math.inf:
            raise IngestError(
                f"full_scale is {self.full_scale}; give the largest value of the receiver's "
                "converter, such as 32768 for 16 bits"
            )

    def completed(self, recording: Recording) -> Recording:
        """Return the recording with these facts where it states no uncertainty of its start."""
        if math.isfinite(recording.clock_sigma_s):
            return recording
        if self.start_gps_ns is not None:
            recording = replace(recording, start_gps_ns=self.start_gps_ns, start_from_name=False)
        is_timed = recording.start_gps_ns is not None and not recording.start_from_name
        if self.clock_sigma_s is not None and is_timed:
            recording = replace(recording, clock_sigma_s=self.clock_sigma_s)
        return replace(recording, others=tuple(map(self.completed, recording.others)))


_NOTHING = Details()


def read_recording(path: Path, details: Details = _NOTHING) -> Recording:
    """Return the recording in a local file.

    Read are KiwiSDR's WAV, SigMF (an archive, compressed or not, or either file of a pair), NumPy
    and raw samples with the sample rate in `details`, and the WAV of other programs. Raw samples
    and other programs' WAV may have a JSON file beside them. The content tells what a file is,
    except for SigMF pairs and raw samples, where the suffix does.

    Raises:
        IngestError: The file cannot be read, or has an unknown format.
        RecordingError: It cannot be decoded. Both are a `DataError`.
    """
    return _read_file(path, details).recording


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFile:
    """A file that can be decoded, and its properties."""

    path: Path
    format: str
    """In the store: `npy`, `sigmf` or `kiwi_wav`."""
    station: str
    """By the JSON beside the file, or else by the file's name."""
    sample_rate_hz: float
    n_samples: int
    duration_s: float
    start: datetime | None
    """Aware; None if neither the file nor its name has it."""
    center_frequency_hz: float | None
    position: ReceiverPosition | None
    """Place of the receiver, if the file or the JSON beside it has it."""
    level_db: float | None
    """Mean power relative to full scale; None for silence, which has no level in dB."""
    digest: bytes
    samples_digest: bytes
    """Of the decoded samples, which are the same in every container."""
    emitters: tuple[Emitter, ...] = ()
    """Transmitters that its annotations place."""
    converted: Details | None = None
    """Stored as a SigMF archive with these facts, as the file's own format cannot hold them."""

    @classmethod
    def inspected(cls, path: Path, details: Details = _NOTHING) -> RecordingFile:
        """Decode a file, or a SigMF pair of which `path` is either file.

        NumPy files need a sample rate; KiwiSDR files need a start if their name has none.

        Raises:
            IngestError: The file cannot be read, or has an unknown format.
            RecordingError: It cannot be decoded.
        """
        read = _read_file(path, details)
        recording = read.recording
        named = kiwi_name(path.name)
        power = float(np.mean(np.abs(recording.iq) ** 2, dtype=np.float64))
        return cls(
            path=path,
            format=read.stored_format,
            station=recording.station or station_in_name(path),
            sample_rate_hz=recording.sample_rate_hz,
            n_samples=len(recording.iq),
            duration_s=recording.duration_s,
            # Without a lock, the recorder's own clock in the name is the best there is.
            start=recording.start_utc or (named.start if named else None),
            center_frequency_hz=recording.center_frequency_hz,
            position=recording.position,
            level_db=10 * float(np.log10(power)) if power > 0 else None,
            digest=read.digest,
            samples_digest=samples_digest(recording),
            emitters=emitters_in(recording.metadata, path.name) if recording.metadata else (),
            converted=details if read.is_converted else None,
        )

    @property
    def is_pair(self) -> bool:
        """True for a SigMF recording that is stored with its metadata in a second object."""
        return self.converted is None and _is_of_pair(self.path)

    def content(self) -> tuple[bytes, bytes | None]:
        """Return the samples' bytes and, for a SigMF pair, those of the metadata.

        Raises:
            IngestError: The file cannot be read, or changed since it was inspected.
        """
        if self.converted is None:
            payload, metadata = _content(self.path)
            digest = _digest(payload, metadata)
        else:
            read = _read_file(self.path, self.converted)
            payload, metadata = sigmf_archive(read.recording, "recording"), None
            digest = read.digest
        if digest != self.digest:
            raise IngestError(
                f"{self.path}: changed since it was checked; ingest it when it is complete"
            )
        return payload, metadata


@dataclass(frozen=True, slots=True)
class _Read:
    """A decoded file."""

    recording: Recording
    stored_format: str
    digest: bytes
    is_converted: bool


def _read_file(path: Path, details: Details) -> _Read:
    rate_hz, full_scale = details.sample_rate_hz, details.full_scale or 1.0
    try:
        payload, beside = _content(path)
        suffix = suffix_of(path).lower()
        kind = None if suffix in PAIR else kind_of(payload)
        if suffix in RAW and kind is JSON:  # or samples that begin with the same byte
            kind = None
        is_raw = suffix in RAW and kind is None
        is_foreign = kind is WAV or is_raw
        form = SUFFIXES.get(suffix) if kind is None else kind.format
        if form is None and not is_foreign:
            what = f"none of {', '.join(SUFFIXES)}; convert it"
            what = f"{kind.name}; {kind.remedy}" if kind else f"{path.suffix!r} is {what}"
            raise IngestError(f"{path}: {what}")
        if form == "npy" and not (rate_hz and 0 < rate_hz < math.inf):
            raise IngestError(
                f"{path}: a NumPy file has no sample rate"
                + ("" if rate_hz is None else f", and {rate_hz} Hz is none")
                + "; give --sample-rate-hz, or sample_rate_hz in a manifest"
            )
        if is_foreign:
            with decoding(path.name):
                if is_raw:
                    decoded = recording_from_raw_iq(
                        payload, RAW[suffix], path.name, rate_hz, beside, full_scale
                    )
                else:
                    notes = WavNotes(beside, _attributes(path))
                    decoded = recording_from_iq_wav(payload, path.name, notes, full_scale)
                require_sound(decoded, path.name)
        else:
            decoded = decode(
                payload,
                form,
                name=path.name,
                sample_rate_hz=rate_hz,
                start=details.start,
                metadata=beside,
                full_scale=full_scale,
            )
    except MemoryError as error:
        raise IngestError(f"{path}: {NO_MEMORY}") from error
    if details.start_gps_ns is not None and decoded.others:
        raise IngestError(
            f"{path}: one start is given for {1 + len(decoded.others)} captures with gaps between "
            f"them; write core:datetime into each"
        )
    recording = details.completed(decoded)
    now, before = (
        [(one.start_gps_ns, one.clock_sigma_s) for one in (whole, *whole.others)]
        for whole in (recording, decoded)
    )
    # The store's SigMF is a pair or a plain tar.
    is_packed = form == "sigmf" and kind is not None and kind is not TAR
    is_scaled = details.full_scale is not None and form != "kiwi_wav"
    is_converted = is_foreign or is_packed or is_scaled or now != before
    station = composed(recording.station or station_in_name(path))
    recording = replace(recording, station=station)
    stored = "sigmf" if is_converted else str(form)
    return _Read(recording, stored, _digest(payload, beside), is_converted)


def station_in_name(path: Path) -> str:
    """Return the station in a file's name.

    The forms are `{utc}_{Hz}_{station}_iq.wav` (KiwiSDR), `{station}_{Hz}_{utc}.wav` (UberSDR),
    `websdr_{station}.npy`, `{station}.npy`.
    """
    named = kiwi_name(path.name) or iq_wav_name(path.name)
    station = path.name.removesuffix(suffix_of(path)).removeprefix("websdr_")
    return composed(named.station if named else station)


def _attributes(path: Path) -> dict[str, str]:
    """The file's extended attributes that ka9q-radio writes; not all systems have any."""
    found = {}
    for name in ("frequency", "unixstarttime"):
        try:
            found[name] = os.getxattr(path, f"user.{name}").decode()
        except (AttributeError, OSError, ValueError):  # not Linux, none there, or not text
            continue
    return found


def _content(path: Path) -> tuple[bytes, bytes | None]:
    """The bytes of the samples and, for a SigMF pair or a WAV with JSON, those of its metadata."""
    if not _is_of_pair(path):
        sidecar = path.with_suffix(".json")
        payload = _read(path)
        may_be_described = path.suffix.lower() in RAW or kind_of(payload) is WAV
        is_described = may_be_described and sidecar.is_file()
        return payload, _read(sidecar, LARGEST_BYTES) if is_described else None
    meta, data = (_beside(path, suffix) for suffix in (".sigmf-meta", ".sigmf-data"))
    metadata = _read(meta, LARGEST_BYTES)
    about = sigmf_metadata(metadata, data.name)["global"]
    foreign = about.get("core:dataset")
    if foreign is not None:
        if not _is_plain_name(foreign):
            raise IngestError(f"{meta}: core:dataset is {foreign!r}, not a file in the same folder")
        data = as_spelt(data.with_name(str(foreign)))
    return _read(data), metadata


def _is_of_pair(path: Path) -> bool:
    return path.suffix.lower() in PAIR


def _beside(path: Path, suffix: str) -> Path:
    """The file of a pair with this suffix, in capital letters as the other one's or not."""
    if path.suffix.lower() == suffix:
        return path
    small, large = path.with_suffix(suffix), path.with_suffix(suffix.upper())
    first, second = (large, small) if path.suffix.isupper() else (small, large)
    return second if path_problem(first) and not path_problem(second) else first


def _is_plain_name(name: object) -> bool:
    """Return True if the name can only be that of a file in the folder of the metadata."""
    if not isinstance(name, str) or name in {"", ".", ".."} or set(name) & set("/\\\0"):
        return False
    return not re.search("[\ud800-\udfff]", name)  # no name of a file in UTF-8


def _read(path: Path, most_bytes: int = MAX_BYTES) -> bytes:
    if "\0" in str(path):
        raise IngestError(f"{str(path)!r} contains a NUL character; correct the path")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise IngestError(f"{path}: not a file; give the path of a recording")
        if (size := path.stat().st_size) > most_bytes:
            raise IngestError(
                f"{path}: {size} bytes, more than the {most_bytes} that are read; cut the "
                f"recording into several"
            )
        return path.read_bytes()
    except OSError as error:
        raise IngestError(f"cannot read the recording: {error}") from error


def samples_digest(recording: Recording) -> bytes:
    """Return the digest of a recording's samples, which no container changes."""
    return hashlib.sha256(np.ascontiguousarray(recording.iq).data).digest()


def _digest(payload: bytes, metadata: bytes | None) -> bytes:
    # Of two digests, so that moving a byte from one part to the other changes the result.
    parts = (hashlib.sha256(part).digest() for part in (payload, metadata or b""))
    return hashlib.sha256(b"".join(parts)).digest()


def recording_paths(given: Iterable[Path]) -> tuple[Path, ...]:
    """Return the recordings that the paths stand for, each once, in their order.

    Raises:
        IngestError: Paths are missing (all are named), a folder has no recording, or a collection
            cannot be read or does not match its files.
    """
    given = tuple(map(as_spelt, given))
    if problems := [problem for path in given if (problem := path_problem(path))]:
        raise IngestError("\n".join(problems))
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += _in_folder(path)
        elif path.suffix.lower() == ".sigmf-collection":
            found += _in_collection(path)
        else:
            found.append(path)
    return tuple(dict.fromkeys(map(one_of_a_pair, found)))


def as_spelt(path: str | os.PathLike[str]) -> Path:
    """Return the path as the file system spells it, if a file of the same look is there.

    macOS writes decomposed names, and a keyboard composed ones (see `heimdall_features.names`).
    """
    path = Path(path)
    found = Path(path.anchor)
    try:
        if path.exists():
            return path
        for part in path.relative_to(found).parts:
            tried = [found / each for each in (part, *spellings(part))]
            found = next((each for each in tried if each.exists()), tried[0])
    except OSError:
        return path
    return found


def path_problem(path: Path) -> str | None:
    """Return why nothing can be read at `path`, or None if something is there."""
    try:
        return None if path.exists() else f"there is no {path}; correct the path"
    except OSError as error:
        return f"cannot reach {path} ({error.strerror}); correct the path, or its permissions"


def one_of_a_pair(path: Path) -> Path:
    """Return the metadata file for either file of a SigMF pair, and other paths unchanged."""
    return _beside(path, ".sigmf-meta") if _is_of_pair(path) else path


def _in_folder(folder: Path) -> list[Path]:
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise IngestError(f"cannot read the folder: {error}") from error
    found = [path for path in inside if suffix_of(path).lower() in SUFFIXES]
    if not found:
        raise IngestError(f"{folder}: no recording directly in it (*{', *'.join(SUFFIXES)})")
    return found


def _in_collection(path: Path) -> list[Path]:
    """The metadata files of a collection's recordings, which must match its hashes."""
    content = _read(path, LARGEST_BYTES)
    try:
        streams = parsed_json(content)["collection"]["core:streams"]
        # Version 1.0 of the format has pairs instead of objects.
        hashes = dict(
            (each["name"], each["hash"]) if isinstance(each, dict) else each for each in streams
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IngestError(
            f"{path}: not a SigMF collection ({reason_of(error)}); write it again"
        ) from error
    if not hashes:
        raise IngestError(f"{path}: core:streams lists no recording; write it again")
    found = []
    for name, expected in hashes.items():
        if not _is_plain_name(name):
            raise IngestError(f"{path}: lists {name!r}, not the name of a recording beside it")
        meta = as_spelt(path.with_name(f"{name}.sigmf-meta"))
        if hashlib.sha512(_read(meta, LARGEST_BYTES)).hexdigest() != str(expected).lower():
            raise IngestError(
                f"{meta}: its SHA-512 is not the one in {path.name}; restore it, or make the "
                f"collection again"
            )
        found.append(meta)
    return found
