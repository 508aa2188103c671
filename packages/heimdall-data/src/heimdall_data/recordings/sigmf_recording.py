"""SigMF recordings: a data file with its metadata beside it, or both in one archive.

Integers are scaled to full scale as the format's own library does: two's complement by the
power of two, unsigned after subtracting half of the range. Of several captures the longest
is read, with its own frequency, time and position. The time is that of the recorder's computer,
not a GNSS stamp. Headers and trailers of non-conforming datasets are cut out.

Source: The Signal Metadata Format Specification, v1.2, sigmf.org.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import (
    MAX_SAMPLES,
    ComplexSamples,
    Recording,
    gps_ns_from_utc,
)

_DATATYPE = re.compile(r"([cr])(f32|f64|[iu](?:8|16|32))(_le|_be)?")

_Captures = list[tuple[int, dict[str, Any]]]
"""For each capture, the index of its first sample in the dataset and its metadata."""


def recording_from_sigmf(data: bytes, metadata: bytes | None, name: str) -> Recording:
    """Decode a SigMF recording.

    `metadata` is the `.sigmf-meta` beside the samples; None: `data` is a whole archive.

    Raises:
        RecordingError: The metadata are not valid, the samples are not complex or have several
            channels, or the checksum does not match.
    """
    if metadata is None:
        data, metadata = _from_archive(data, name)
    meta = sigmf_metadata(metadata, name)
    about = meta["global"]
    expected = about.get("core:sha512")
    if expected is not None and hashlib.sha512(data).hexdigest() != str(expected).lower():
        raise RecordingError(
            f"{name}: the samples' SHA-512 is not the {str(expected)[:16]}... of core:sha512; "
            f"store the recording again"
        )
    dtype = _checked_type(about, name)
    try:
        captures = _captures(about, meta["captures"])
        data = _without_foreign_bytes(data, about, captures, 2 * dtype.itemsize)
        return _longest_capture(_samples(data, dtype), about, captures)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(
            f"{name}: unusable SigMF metadata or samples ({type(error).__name__}: {error}); "
            f"correct the .sigmf-meta, or store the recording again"
        ) from error


def sigmf_metadata(metadata: bytes, name: str) -> dict[str, Any]:
    """Return the metadata, with an object `global` and a list `captures`.

    Raises:
        RecordingError: They are not JSON, or have another form.
    """
    try:
        meta = json.loads(metadata)
        if isinstance(meta["global"], dict) and isinstance(meta["captures"], list):
            return dict(meta)
        why = "global is not an object, or captures not a list"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise RecordingError(f"{name}: the SigMF metadata cannot be read ({why}); write them again")


def _from_archive(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Samples and metadata of the one recording in an archive, an uncompressed tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            # A sparse member would claim more than the archive contains.
            files = [m for m in archive.getmembers() if m.isreg() and not m.issparse()]
            samples, meta = (
                [m for m in files if m.name.endswith(f".sigmf-{end}")] for end in ("data", "meta")
            )
            if (len(samples), len(meta)) != (1, 1):
                raise RecordingError(
                    f"{name}: the archive holds {len(samples)} data and {len(meta)} metadata "
                    f"files; store each recording by itself"
                )
            streams = (archive.extractfile(member) for member in (*samples, *meta))
            content, described = (stream.read() if stream else b"" for stream in streams)
            return content, described
    except (tarfile.TarError, OSError) as error:
        raise RecordingError(
            f"{name}: not a SigMF archive ({error}); a data file needs its .sigmf-meta beside it"
        ) from error


def _checked_type(about: dict[str, Any], name: str) -> np.dtype[Any]:
    """The type of I and of Q, in the file's byte order."""
    said = about.get("core:datatype")
    match = _DATATYPE.fullmatch(str(said))
    if match is None:
        raise RecordingError(f"{name}: core:datatype is {said!r}; use one such as 'ci16_le'")
    kind, number, order = match.groups()
    if kind != "c":
        raise RecordingError(f"{name}: core:datatype {said!r} is real; record complex I and Q")
    if (channels := about.get("core:num_channels", 1)) != 1:
        raise RecordingError(f"{name}: {channels} channels; store each receiver by itself")
    return np.dtype(f"{'>' if order == '_be' else '<'}{number[0]}{int(number[1:]) // 8}")


def _captures(about: dict[str, Any], captures: list[dict[str, Any]]) -> _Captures:
    """The captures, or one without metadata from sample 0 on."""
    # Indices are absolute over all files of a recording; core:offset is the first one of this.
    offset = _count(about, "core:offset", 0)
    placed = [(_count(each, "core:sample_start", offset) - offset, each) for each in captures]
    starts = [start for start, _ in placed]
    if any(after < before for before, after in pairwise([0, *starts])):
        raise ValueError(f"captures start at {starts} and must begin at 0 and ascend")
    return placed or [(0, {})]


def _without_foreign_bytes(
    data: bytes, about: dict[str, Any], captures: _Captures, sample_bytes: int
) -> bytes:
    """The samples alone, without a non-conforming dataset's headers and trailer."""
    headers = [_count(capture, "core:header_bytes", 0) for _, capture in captures]
    trailing = _count(about, "core:trailing_bytes", 0)
    if sum(headers) + trailing > len(data):
        raise ValueError(
            f"{sum(headers) + trailing} bytes of headers and trailer in {len(data)} bytes of data"
        )
    data = data[: len(data) - trailing]
    if not any(headers):
        return data
    pieces, here, done = [], 0, 0
    for (start, _), header in zip(captures, headers, strict=True):
        end = here + (start - done) * sample_bytes
        pieces.append(data[here:end])
        here, done = end + header, start
    return b"".join([*pieces, data[here:]])


def _count(values: dict[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is {value!r}, not a whole number of 0 or more")
    return value


def _samples(data: bytes, dtype: np.dtype[Any]) -> ComplexSamples:
    """All samples, complex64 relative to full scale."""
    n_samples, rest = divmod(len(data), 2 * dtype.itemsize)
    if rest or not 0 < n_samples <= MAX_SAMPLES:
        raise ValueError(
            f"{len(data)} bytes are not 1 to {MAX_SAMPLES} samples of {2 * dtype.itemsize} bytes"
        )
    values = np.frombuffer(data, dtype)
    if dtype.kind == "f":
        # Values beyond single precision become infinite, which `decode` refuses.
        with np.errstate(over="ignore"):
            return values.astype(np.float32).view(np.complex64)
    half_range = 2.0 ** (8 * dtype.itemsize - 1)
    centre = half_range if dtype.kind == "u" else 0.0
    return ((values - centre) / half_range).astype(np.float32).view(np.complex64)


def _longest_capture(iq: ComplexSamples, about: dict[str, Any], captures: _Captures) -> Recording:
    """The samples of the longest capture, with its frequency, time and position."""
    starts = [start for start, _ in captures]
    lengths = [end - start for start, end in pairwise([*starts, len(iq)])]
    longest = int(np.argmax(lengths))
    said = captures[longest][1]
    whole = Recording(iq=iq, sample_rate_hz=float(about["core:sample_rate"]))
    part = whole.cut(starts[longest], lengths[longest])
    start_gps_ns = None
    if (moment := said.get("core:datetime")) is not None:
        instant = datetime.fromisoformat(moment)  # in UTC even without a zone
        # Raises OverflowError at the calendar's ends in other zones.
        utc = instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
        start_gps_ns = gps_ns_from_utc(utc)
    frequency_hz = None
    if (frequency := said.get("core:frequency")) is not None:
        frequency_hz = float(str(frequency))
        if not math.isfinite(frequency_hz):  # Python's JSON allows it
            raise ValueError(f"core:frequency is {frequency!r}, not a finite number")
    return replace(
        part,
        start_gps_ns=start_gps_ns,
        center_frequency_hz=frequency_hz,
        receiver_deg=_position(said.get("core:geolocation", about.get("core:geolocation"))),
        n_dropped_samples=len(iq) - len(part.iq),
    )


def _position(said: dict[str, Any] | None) -> tuple[float, float] | None:
    """Latitude and longitude of a GeoJSON point (RFC 7946, section 3.1.2).

    Its altitude is not taken, as it is above the ellipsoid; a station's is above sea level.
    """
    if said is None:
        return None
    if said["type"] != "Point":
        raise ValueError(f"core:geolocation is a {said['type']!r} and must be a 'Point'")
    longitude_deg, latitude_deg = map(float, said["coordinates"][:2])
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise ValueError(
            f"core:geolocation is latitude {latitude_deg}, longitude {longitude_deg}; swapped?"
        )
    return latitude_deg, longitude_deg
