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
import math
import re
import tarfile
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from heimdall_features.outside_json import parsed_json

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import (
    MAX_SAMPLES,
    ComplexSamples,
    ReceiverPosition,
    Recording,
    gps_ns_from_text,
    utc_text,
)

CLOCK_KEY = "heimdall:clock_uncertainty_s"
"""Standard deviation of `core:datetime` in seconds."""

MOST_CAPTURES = 10_000
_MOST_HEADERS = 100
"""Of an archive, which has two members with up to two headers each."""
_LARGEST_HEADER_BYTES = 4096
"""Of a header that continues another. Python's parser takes the square of its length."""
_DATATYPE = re.compile(r"([cr])(f32|f64|[iu](?:8|16|32))(_le|_be)?")

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
    if expected is not None and hashlib.sha512(data).hexdigest() != str(expected).lower():
        raise RecordingError(
            f"{name}: the samples' SHA-512 is not the {str(expected)[:16]}... of core:sha512; "
            f"store the recording again"
        )
    dtype = _checked_type(about, name)
    try:
        captures = _captures(about, meta["captures"])
        data = _without_foreign_bytes(data, about, captures, 2 * dtype.itemsize)
        return _recording(_samples(data, dtype, full_scale), about, captures)
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
        meta = parsed_json(metadata)
        if isinstance(meta["global"], dict) and isinstance(meta["captures"], list):
            return dict(meta)
        why = "global is not an object, or captures not a list"
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    raise RecordingError(f"{name}: the SigMF metadata cannot be read ({why}); write them again")


def _from_archive(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Samples and metadata of the one recording in an archive, an uncompressed tar."""
    numbers = count(1)

    class Header(tarfile.TarInfo):
        def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
            if next(numbers) > _MOST_HEADERS:
                raise tarfile.ReadError(f"more than {_MOST_HEADERS} members")
            if not self.isreg() and self.size > _LARGEST_HEADER_BYTES:
                raise tarfile.ReadError(f"a header of {self.size} bytes")
            found: tarfile.TarInfo | None = super()._proc_member(archive)  # type: ignore[misc]
            return found

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", tarinfo=Header) as archive:
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
            if any(data[archive.offset :]):
                raise RecordingError(
                    f"{name}: {len(data) - archive.offset} bytes after the archive's end, such as "
                    f"of a second archive; store each recording by itself"
                )
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
    if len(captures) > MOST_CAPTURES:
        raise ValueError(f"{len(captures)} captures, more than {MOST_CAPTURES}")
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
    if type(value) is not int or value < 0:
        raise ValueError(f"{key} is {value!r}, not a whole number of 0 or more")
    return value


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
        if (moment := said.get("core:datetime")) is not None:
            timed = index, gps_ns_from_text(moment), _clock_sigma_s(said, about)
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
            position=_position(said.get("core:geolocation", about.get("core:geolocation"))),
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


def _position(said: dict[str, Any] | None) -> ReceiverPosition | None:
    """Place of a GeoJSON point (RFC 7946, section 3.1.2)."""
    if said is None:
        return None
    if said["type"] != "Point":
        raise ValueError(f"core:geolocation is a {said['type']!r} and must be a 'Point'")
    longitude_deg, latitude_deg, *above = map(float, said["coordinates"][:3])
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise ValueError(
            f"core:geolocation is latitude {latitude_deg}, longitude {longitude_deg}; swapped?"
        )
    if not all(map(math.isfinite, above)):
        raise ValueError(f"core:geolocation has the altitude {above[0]}")
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
