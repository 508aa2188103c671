"""SigMF recordings: a data file with its metadata beside it, or both in one archive.

Integers are scaled to full scale as the format's own library does: two's complement by the
power of two, unsigned after subtracting half of the range. Captures that follow each other
without a gap are joined, and every stretch keeps its own frequency, time and position. Headers
and trailers of non-conforming datasets are cut out.

The format has no field for the accuracy of `core:datetime`, neither in its core nor in its
published extensions. A time is trusted only where `heimdall:clock_uncertainty_s`, in the capture
or in `global`, states its standard deviation in seconds.

Source: The Signal Metadata Format Specification, v1.2, sigmf.org.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
from heimdall_features.outside_json import parsed_json

from heimdall_data.errors import RecordingError, reason_of
from heimdall_data.recordings.formats import TAR, kind_of
from heimdall_data.recordings.recording import (
    MAX_BYTES,
    MAX_SAMPLES,
    ComplexSamples,
    ReceiverPosition,
    Recording,
    gps_ns_from_iso,
    require_on_globe,
    utc_text,
)

CLOCK_KEY = "heimdall:clock_uncertainty_s"
"""Standard deviation of `core:datetime` in seconds."""

MOST_CAPTURES = 10_000
_AN_INSTANT = "'2026-03-01T12:00:00.123456789Z'"
_MOST_HEADERS = 100
"""Of an archive, which has two members with up to two headers each, and macOS's notes on them."""
_BLOCK = 512
_LARGEST_HEADER_BYTES = 2**20
"""macOS keeps the addresses of a download in one, which are some kilobytes."""
_LONGEST_LENGTH = 20
_XZ_MEMORY_BYTES = 2**27
"""For unpacking; the highest level of xz takes half of it."""
_DATATYPE = re.compile(r"([cr])(f32|f64|[iu](?:8|16|32))(_le|_be)?")

_TOP_LEVEL = {"global": dict, "captures": list}

_Captures = list[tuple[int, dict[str, Any]]]
"""For each capture, the index of its first sample in the dataset and its metadata."""


def recording_from_sigmf(
    data: bytes, metadata: bytes | None, name: str, full_scale: float = 1.0
) -> Recording:
    """Decode a SigMF recording.

    `metadata` is the `.sigmf-meta` beside the samples; None: `data` is a whole archive. Floats are
    divided by `full_scale`.

    Raises:
        RecordingError: The metadata are not valid, the samples are not complex or have several
            channels, or the checksum does not match.
    """
    if metadata is None:
        data, metadata = _from_archive(data, name)
    meta = sigmf_metadata(metadata, name)
    about = meta["global"]
    expected = about.get("core:sha512")
    if expected and hashlib.sha512(data).hexdigest() != str(expected).lower():
        raise RecordingError(
            f"{name}: the samples' SHA-512 is not the {str(expected)[:16]}... of core:sha512; "
            f"store the recording again"
        )
    dtype = _checked_type(about, name)
    try:
        captures = _captures(about, meta["captures"])
        data = _without_foreign_bytes(data, about, captures, 2 * dtype.itemsize)
        recording = _recording(_samples(data, dtype, full_scale), about, captures)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(
            f"{name}: unusable SigMF metadata or samples ({reason_of(error)}); "
            f"correct the .sigmf-meta, or store the recording again"
        ) from error
    return replace(recording, metadata=metadata)


def sigmf_metadata(metadata: bytes, name: str) -> dict[str, Any]:
    """Return the metadata, with an object `global` and a list `captures`.

    Raises:
        RecordingError: They are not JSON, or have another form.
    """
    try:
        meta = parsed_json(metadata)
    except ValueError as error:
        why = reason_of(error)
    else:
        is_object = isinstance(meta, dict)
        if is_object and all(isinstance(meta.get(k), t) for k, t in _TOP_LEVEL.items()):
            return dict(meta)
        why = "not an object with an object `global` and a list `captures`"
    raise RecordingError(f"{name}: the SigMF metadata cannot be read ({why}); write them again")


def _from_archive(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Samples and metadata of the one recording in an archive, a tar or a zip."""
    kind = kind_of(data)
    try:
        members = [
            (member, read)
            for member, read in (
                _zip_members(data) if data.startswith(b"PK") else _tar_members(_unpacked(data))
            )
            # macOS keeps notes on each file beside it, under the same name after `._`.
            if not member.rpartition("/")[2].startswith("._")
        ]
        samples, meta = (
            [read for member, read in members if member.lower().endswith(f".sigmf-{end}")]
            for end in ("data", "meta")
        )
        described = meta[0]() if len(meta) == 1 else b""
        if described and not samples:
            # A non-conforming dataset is in the archive under its own name.
            dataset = sigmf_metadata(described, name)["global"].get("core:dataset")
            samples = [read for member, read in members if member.rpartition("/")[2] == dataset]
        if (len(samples), len(meta)) == (1, 1):
            return samples[0](), described
    except RecordingError:
        raise
    except (ValueError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, BadZipFile) as error:
        remedy = "a data file needs its .sigmf-meta beside it"
        if kind:
            remedy = kind.remedy or "store it again"
        what = f"not a SigMF archive{f' but {kind.name}' if kind else ''}"
        raise RecordingError(f"{name}: {what} ({error}); {remedy}") from error
    remedy = "store each recording by itself" if samples or meta else "unpack it"
    raise RecordingError(
        f"{name}: {kind.name if kind else 'an archive'}; this one has {len(samples)} data and "
        f"{len(meta)} metadata files of SigMF; {remedy}"
    )


_Members = Iterator[tuple[str, Callable[[], bytes]]]
"""Name of each file of an archive, and what reads it."""


def _unpacked(data: bytes) -> bytes:
    """An archive without its compression by gzip or xz, in one stream or several."""
    if data.startswith(b"\x1f\x8b"):
        start: Callable[[], Any] = partial(zlib.decompressobj, wbits=16 + zlib.MAX_WBITS)
    elif data.startswith(b"\xfd7zXZ\0"):
        start = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
    else:
        return data
    parts: list[bytes] = []
    n_left = MAX_BYTES
    for _ in range(_MOST_HEADERS):
        stream = start()
        parts.append(stream.decompress(data, n_left + 1))
        n_left -= len(parts[-1])
        if n_left < 0:
            raise ValueError(f"unpacked it is more than {MAX_BYTES} bytes; cut it into several")
        if not stream.eof:
            raise EOFError("truncated")
        data = stream.unused_data
        if not data.startswith((b"\x1f\x8b", b"\xfd7zXZ\0")):
            if data.strip(b"\0"):
                raise ValueError(f"{len(data)} bytes after its end")
            unpacked = b"".join(parts)
            if (inside := kind_of(unpacked)) and inside is not TAR:
                raise ValueError(f"it holds {inside.name}; unpack it")
            return unpacked
    raise ValueError(f"more than {_MOST_HEADERS} compressed streams")


def _zip_members(data: bytes) -> _Members:
    # Its list is in memory before it can be counted; each entry begins with these bytes.
    if data.count(b"PK\1\2") > _MOST_HEADERS:
        raise ValueError(f"more than {_MOST_HEADERS} members")
    archive = ZipFile(io.BytesIO(data))
    if (n_bytes := sum(info.file_size for info in archive.infolist())) > MAX_BYTES:
        raise ValueError(
            f"unpacked it is {n_bytes} bytes, more than {MAX_BYTES}; cut it into several"
        )
    if min((info.header_offset for info in archive.infolist()), default=0) > 0:
        raise ValueError("bytes before its begin, such as of another archive")
    for info in archive.infolist():
        # Other methods may claim gigabytes of memory.
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"compressed by method {info.compress_type}; zip it with deflate")
        yield info.filename, partial(archive.read, info)


def _tar_members(data: bytes) -> _Members:
    """The regular files of an uncompressed tar: POSIX with pax headers, GNU or old.

    Python's own parser takes the square of a header's length and recurses for each that continues
    another, and macOS's headers of downloaded files are long.

    Source: POSIX.1-2017, pax, "ustar Interchange Format".
    """
    here = 0
    told: dict[bytes, bytes] = {}
    view = memoryview(data)
    for _ in range(_MOST_HEADERS + 1):
        head = data[here : here + _BLOCK]
        if not head.strip(b"\0"):
            if (n_after := len(data) - here) != data.count(b"\0", here):
                raise ValueError(f"{n_after} bytes after its end, such as of a second archive")
            return
        if len(head) < _BLOCK:
            raise ValueError("truncated")
        # The checksum counts its own eight bytes as blanks.
        if _octal(head[148:156]) != sum(head) - sum(head[148:156]) + 8 * ord(" "):
            raise ValueError("bad checksum")
        size = int(told.get(b"size", b"%d" % _octal(head[124:136])))
        first, last = here + _BLOCK, here + _BLOCK + size
        if not first <= last <= len(data):
            raise ValueError(f"truncated: {len(data) - first} bytes of {size} in a member")
        here = last + -size % _BLOCK
        kind = head[156:157]
        if kind in (b"L", b"x") and size > _LARGEST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        if kind == b"L":
            told = {b"path": data[first:last].rstrip(b"\0")}
        elif kind == b"x":
            told = _pax_records(data[first:last])
        elif kind not in b"gK":
            prefix = head[345:500].rstrip(b"\0") if head[257:263] == b"ustar\0" else b""
            path = told.get(b"path", prefix + b"/" + head[:100].partition(b"\0")[0])
            # A sparse member claims more than the archive contains.
            if kind in (b"0", b"\0", b"7") and not any(
                key.startswith(b"GNU.sparse") for key in told
            ):
                yield path.decode(errors="replace"), partial(bytes, view[first:last])
            told = {}
    raise ValueError(f"more than {_MOST_HEADERS} members")


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        raise ValueError("no header of a tar where one must be")
    return int(digits, 8)


def _pax_records(header: bytes) -> dict[bytes, bytes]:
    """Keys and values of a header, each `LENGTH KEY=VALUE` and a line feed."""
    records = {}
    here = 0
    while here < len(header):
        length, blank, _ = header[here : here + _LONGEST_LENGTH].partition(b" ")
        end = here + int(length)
        if not blank or not here < end <= len(header):
            raise ValueError(f"a damaged record of a pax header at byte {here}")
        key, _, value = header[here + len(length) + 1 : end - 1].partition(b"=")
        records[key] = value
        here = end
    return records


def _checked_type(about: dict[str, Any], name: str) -> np.dtype[Any]:
    """The type of I and of Q, in the file's byte order."""
    said = about.get("core:datatype")
    match = _DATATYPE.fullmatch(str(said).lower())
    if match is None:
        raise RecordingError(f"{name}: core:datatype is {said!r}; use one such as 'ci16_le'")
    kind, number, order = match.groups()
    if kind != "c":
        raise RecordingError(f"{name}: core:datatype {said!r} is real; record complex I and Q")
    if (channels := about.get("core:num_channels")) not in (None, 1):
        raise RecordingError(f"{name}: {channels} channels; store each receiver by itself")
    return np.dtype(f"{'>' if order == '_be' else '<'}{number[0]}{int(number[1:]) // 8}")


def _captures(about: dict[str, Any], captures: list[dict[str, Any]]) -> _Captures:
    """The captures, or one without metadata from sample 0 on."""
    if len(captures) > MOST_CAPTURES:
        raise ValueError(f"{len(captures)} captures, more than {MOST_CAPTURES}")
    # Indices are absolute over all files of a recording; core:offset is the first one of this.
    offset = _count(about, "core:offset", 0)
    placed = [(_count(each, "core:sample_start", offset) - offset, each) for each in captures]
    starts = [start for start, _ in placed]
    if any(after < before for before, after in pairwise([0, *starts])):
        raise ValueError(
            f"captures start at {starts} after core:offset {offset}, and must begin at 0 and ascend"
        )
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
    # JSON has one kind of number, and some programs write 0.0.
    if type(value) not in (int, float) or not 0 <= value < math.inf or value != int(value):
        raise ValueError(f"{key} is {value!r}, not a whole number of 0 or more")
    return int(value)


def _samples(data: bytes, dtype: np.dtype[Any], full_scale: float) -> ComplexSamples:
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
            floats = values.astype(np.float32)
        floats /= np.float32(full_scale)
        return floats.view(np.complex64)
    half_range = 2.0 ** (8 * dtype.itemsize - 1)
    centre = half_range if dtype.kind == "u" else 0.0
    # Exact in the smallest type that has room for all integers, and in place: samples of 8 bits
    # would take 24 bytes of memory.
    scaled: npt.NDArray[np.floating[Any]] = values.astype(
        np.float32 if dtype.itemsize <= 2 else np.float64
    )
    scaled -= centre
    scaled /= half_range
    return scaled.astype(np.float32, copy=False).view(np.complex64)


def _recording(iq: ComplexSamples, about: dict[str, Any], captures: _Captures) -> Recording:
    """The longest stretch of samples without a gap, and the others beside it."""
    rate_hz = _number(about, "core:sample_rate")
    if rate_hz is None:
        raise ValueError("no core:sample_rate")
    whole = Recording(iq=iq, sample_rate_hz=rate_hz)
    ends = [first for first, _ in captures[1:]] + [len(iq)]
    timed: tuple[int, int, float] | None = None
    stretches: list[_Stretch] = []
    for (first, said), end in zip(captures, ends, strict=True):
        # Without an index of its own, a capture goes on where the one before ended.
        index = _count(said, "core:global_index", _count(said, "core:sample_start", first))
        if moment := said.get("core:datetime"):
            if not isinstance(moment, str):
                raise ValueError(f"core:datetime is {moment!r}, not text such as {_AN_INSTANT}")
            timed = index, gps_ns_from_iso(moment), _clock_sigma_s(said, about)
        start_ns, sigma_s = None, math.inf
        if timed is not None:
            timed_index, timed_ns, sigma_s = timed
            start_ns = timed_ns + round((index - timed_index) / rate_hz * 1e9)
        coming = _Stretch(
            first=first,
            end=end,
            start_gps_ns=start_ns,
            center_frequency_hz=_number(said, "core:frequency"),
            clock_sigma_s=sigma_s,
            position=geojson_place(
                said.get("core:geolocation", about.get("core:geolocation")), "core:geolocation"
            ),
        )
        if first == end:
            continue
        if stretches and coming.continues(stretches[-1], rate_hz):
            stretches[-1] = replace(stretches[-1], end=end)
        else:
            stretches.append(coming)
    found = [
        replace(
            whole.cut(each.first, each.end - each.first),
            start_gps_ns=each.start_gps_ns,
            clock_sigma_s=each.clock_sigma_s,
            center_frequency_hz=each.center_frequency_hz,
            position=each.position,
        )
        for each in stretches or [_Stretch(captures[-1][0], len(iq))]
    ]
    longest = max(found, key=lambda stretch: len(stretch.iq))
    return replace(
        longest,
        n_dropped_samples=len(iq) - len(longest.iq),
        others=tuple(stretch for stretch in found if stretch is not longest),
    )


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Samples `first` to `end` of one capture, or of several without a gap between them."""

    first: int
    end: int
    start_gps_ns: int | None = None
    clock_sigma_s: float = math.inf
    center_frequency_hz: float | None = None
    position: ReceiverPosition | None = None

    def continues(self, before: _Stretch, rate_hz: float) -> bool:
        """Return True if this begins where another one ends, within half a sample."""
        mine, theirs = (
            (one.center_frequency_hz, one.position, math.isinf(one.clock_sigma_s))
            for one in (self, before)
        )
        if mine != theirs:
            return False
        if self.start_gps_ns is None or before.start_gps_ns is None:
            return False
        n_samples = before.end - before.first
        late_s = (self.start_gps_ns - before.start_gps_ns) * 1e-9 - n_samples / rate_hz
        return abs(late_s) * rate_hz <= 0.5


def _number(said: dict[str, Any], key: str) -> float | None:
    if (value := said.get(key)) is None:
        return None
    number = float(str(value))
    if not math.isfinite(number):  # Python's JSON allows it
        raise ValueError(f"{key} is {value!r}, not a finite number")
    return number


def _clock_sigma_s(said: dict[str, Any], about: dict[str, Any]) -> float:
    """Uncertainty of a capture's time in seconds; infinite if nobody vouches for it."""
    stated = _number(said, CLOCK_KEY)
    stated = _number(about, CLOCK_KEY) if stated is None else stated
    return math.inf if stated is None else stated


def geojson_place(said: dict[str, Any] | None, key: str) -> ReceiverPosition | None:
    """Return the place of a GeoJSON point (RFC 7946, section 3.1.2), or None where there is none.

    Another value is a `ValueError` that names the key, a `KeyError`, a `TypeError` or an
    `OverflowError`.
    """
    if said is None:
        return None
    # The extension `signal` has a `point` in its own example.
    if str(said["type"]).lower() != "point":
        raise ValueError(f"{key} is a {said['type']!r} and must be a 'Point'")
    told = said["coordinates"]
    # Text and booleans would pass as numbers.
    if not (
        isinstance(told, list)
        and len(told) in (2, 3)
        and all(type(each) in (int, float) for each in told)
    ):
        raise ValueError(
            f"{key} has the coordinates {told!r}, not longitude, latitude and perhaps altitude"
        )
    longitude_deg, latitude_deg, *above = map(float, told)
    try:
        require_on_globe(latitude_deg, longitude_deg)
    except ValueError as error:
        raise ValueError(f"{key} is {error}") from None
    if not all(map(math.isfinite, above)):
        raise ValueError(f"{key} has the altitude {above[0]}")
    return ReceiverPosition(latitude_deg, longitude_deg, *above)


def sigmf_archive(recording: Recording, name: str) -> bytes:
    """Return a recording with all its stretches as a SigMF archive, the same bytes every time.

    A start and its uncertainty are kept, which other formats of the store cannot hold.
    """
    # The others would be read as continuing the one before them.
    timed = [one for one in (recording, *recording.others) if one.start_gps_ns is not None]
    stretches = sorted(timed, key=lambda one: one.start_gps_ns or 0) or [recording]
    captures = []
    first = 0
    for one in stretches:
        capture: dict[str, Any] = {"core:sample_start": first}
        if one.start_gps_ns is not None:
            capture["core:datetime"] = utc_text(one.start_gps_ns)
        if one.center_frequency_hz is not None:
            capture["core:frequency"] = one.center_frequency_hz
        if math.isfinite(one.clock_sigma_s):
            capture[CLOCK_KEY] = one.clock_sigma_s
        if (place := one.position) is not None:
            above = () if place.altitude_m is None else (place.altitude_m,)
            coordinates = [place.longitude_deg, place.latitude_deg, *above]
            capture["core:geolocation"] = {"type": "Point", "coordinates": coordinates}
        captures.append(capture)
        first += len(one.iq)
    samples = np.concatenate([one.iq for one in stretches]).astype("<c8").tobytes()
    about = {
        "core:datatype": "cf32_le",
        "core:sample_rate": recording.sample_rate_hz,
        "core:sha512": hashlib.sha512(samples).hexdigest(),
        "core:version": "1.2.0",
        "core:extensions": [{"name": "heimdall", "version": "1.0.0", "optional": True}],
    }
    meta = json.dumps({"global": about, "captures": captures, "annotations": []}, indent=2)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for end, content in (("meta", meta.encode()), ("data", samples)):
            member = tarfile.TarInfo(f"{name}/{name}.sigmf-{end}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()
