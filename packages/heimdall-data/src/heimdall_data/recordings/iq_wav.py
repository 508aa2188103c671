"""I/Q in ordinary WAV files or in raw ones, as SDR programs write them, perhaps with a JSON file.

Two channels, I and Q, of integers or floats; a raw file has nothing but these samples. Files larger
than 4 GiB are RF64, BW64 or Wave64, and some programs always write these. What is known beside the
samples depends on the program:

- UberSDR's name has the receiver, the frequency and the start, `{receiver}_{Hz}_{start}.wav`; its
  JSON has the receiver's position.
- ka9q-radio keeps frequency and start (`unixstarttime`, with nanoseconds) in extended attributes of
  the file, and the frequency in a chunk `auxi` too.
- SpectraVue, SDR#, HDSDR and SDRuno write that chunk with the start as well, to the millisecond and
  in UTC, and names such as `HDSDR_20260301_120000Z_7100kHz_RF.wav`. SDR Console writes it as XML,
  with the start in seconds; UberSDR does too.

None states how accurate its time is. ka9q-radio counts samples from a time of its computer's
clock, which may be as good as GNSS or as bad as NTP. UberSDR stamps packets when they arrive at the
server (`audio.go`), which is milliseconds late. So a time is trusted only where the JSON file
states its uncertainty; whole seconds of a name are no clock at all.

These keys of the JSON are read, and come before all other sources:
`start_time` (as `gps_ns_from_text` reads it), `start_uncertainty_s`, `sample_rate_hz`,
`frequency_hz`, `station`, `latitude`, `longitude` and `altitude_m`.

Sources: github.com/ka9q/ka9q-radio, `pcmrecord.c`; github.com/madpsy/ka9q_ubersdr,
`clients/iq-recorder` and `audio.go`; IBM and Microsoft, "Multimedia Programming Interface and Data
Specifications 1.0" (1991), for WAV; EBU Tech 3306, for RF64; Sonic Foundry, "Sony Wave64";
RFSPACE, "SpectraVue" manual, for `auxi`; M. Nilsson, "ID3 tag version 2.4.0" (2000), id3.org.
"""

from __future__ import annotations

import math
import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from heimdall_features.outside_json import parsed_json

from heimdall_data.errors import RecordingError, reason_of
from heimdall_data.recordings.formats import W64_RIFF, is_wav
from heimdall_data.recordings.kiwi_wav import kiwi_name
from heimdall_data.recordings.recording import (
    MAX_SAMPLES,
    ComplexSamples,
    ReceiverPosition,
    Recording,
    gps_ns_from_text,
    gps_ns_from_utc,
    require_on_globe,
    utc_from_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHUNK = struct.Struct("<4sI")
_W64_CHUNK = struct.Struct("<4s12xQ")
"""A GUID that begins with the chunk's name, and the size with these 24 bytes."""
_SIZES = struct.Struct("<4xIQQ")
"""RF64's chunk `ds64`: its own size, that of the file and that of the samples."""
_FORMAT = struct.Struct("<HHIIHH")
_AUXILIARY = struct.Struct("<8H16xI")
"""SpectraVue's chunk: two times of the Windows API (year, month, day of the week, day, hour,
minute, second, millisecond), start and end, then the centre frequency in Hz."""
_XML_FREQUENCY = re.compile(rb"RadioCenterFreq\s?=\s?[\"'](\d{1,12})[\"']")
_XML_START = re.compile(rb"UTCSeconds\s?=\s?[\"'](\d{1,10})[\"']")
_MOST_XML_BYTES = 2**16
_ID3_1_BYTES = 128
_ID3_2 = struct.Struct("<3s3B4B")
"""Version, flags, and the size behind it in four digits to the base of 128."""
_EXTENSIBLE = 0xFFFE
_UNFINISHED = 0x7FFFF000
"""Least size in the header of a program that writes into a pipe, and so does not know it; 0 is
that of one that was stopped."""
_INTEGER, _FLOAT = 1, 3
_KINDS = {
    (_INTEGER, 8): "u1",
    (_INTEGER, 16): "<i2",
    (_INTEGER, 24): "<i4",
    (_INTEGER, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
"""Type of I and of Q by coding and bits; samples of 24 bits are widened to 32."""
_NAME = re.compile(
    r"(?P<station>.+)_(?P<frequency_hz>\d+)_(?P<start>\d{4}-\d\d-\d\dT[\d:.]+Z)\.wav$",
    re.IGNORECASE | re.ASCII,
)
_PROGRAM_NAME = re.compile(
    r"(?P<program>[A-Za-z#]+)_(?P<utc>\d{8}_\d{6})Z_(?P<number>\d+)(?P<unit>[kM]?Hz)"
    r"(?:_(?P<kind>RF|IQ|AF))?\.(?:wav|rf64|w64)",
    re.IGNORECASE | re.ASCII,
)
_HZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6}
_MOST_CHUNKS = 1000
"""Recorders write five."""
_UNIX_SECONDS = re.compile(r"(\d{1,10})\.(\d{9})", re.ASCII)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ProgramName(NamedTuple):
    """The parts of a name by SDR# or HDSDR, `{program}_{utc}_{frequency}_{kind}.wav`.

    No part of it is the station.
    """

    program: str
    start_gps_ns: int
    frequency_hz: float
    is_audio: bool
    """Demodulated, which no I and Q can be made of."""


def program_name(name: str) -> ProgramName | None:
    """Return the parts of such a name, or None if the name has another form."""
    match = _PROGRAM_NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    try:
        start_gps_ns = gps_ns_from_utc(utc_from_text(match["utc"].replace("_", "T")))
    except ValueError:
        return None
    frequency_hz = float(match["number"]) * _HZ[match["unit"].lower()]
    is_audio = (match["kind"] or "").upper() == "AF"
    return ProgramName(match["program"], start_gps_ns, frequency_hz, is_audio)


class IqWavName(NamedTuple):
    """The parts of UberSDR's file name, `{station}_{Hz}_{utc}.wav`."""

    station: str
    frequency_hz: float
    start_gps_ns: int


def iq_wav_name(name: str) -> IqWavName | None:
    """Return the parts of UberSDR's file name, or None if the name has another form."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    try:
        start_gps_ns = gps_ns_from_text(match["start"])
    except ValueError:
        return None
    return IqWavName(match["station"], float(match["frequency_hz"]), start_gps_ns)


@dataclass(frozen=True, slots=True)
class WavNotes:
    """Notes about an ordinary WAV file that are kept outside of it."""

    sidecar: bytes | None = None
    """Content of the JSON file of the same name."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Extended attributes of the file, without the prefix `user.`."""


def recording_from_iq_wav(
    data: bytes, name: str, notes: WavNotes | None = None, full_scale: float = 1.0
) -> Recording:
    """Decode an ordinary WAV file with I and Q as its two channels; floats by their full scale.

    Raises:
        RecordingError: The file or its JSON is of another kind, damaged or truncated.
    """
    notes = notes or WavNotes()
    said = _sidecar(notes.sidecar, name)
    chunks = _chunks(data, name)
    rate_hz, iq = _samples(chunks, name, full_scale)
    with _notes_of(name):
        return _described(iq, rate_hz, _auxiliary(chunks), said, notes.attributes, name)


def recording_from_raw_iq(
    data: bytes,
    kind: str,
    name: str,
    sample_rate_hz: float | None,
    sidecar: bytes | None = None,
    full_scale: float = 1.0,
) -> Recording:
    """Decode a file of I and Q in turn, each of this type of NumPy.

    Floats are divided by `full_scale`.

    Raises:
        RecordingError: The rate is unknown, the samples are incomplete, or the JSON is unusable.
    """
    said = _sidecar(sidecar, name)
    rate_hz = said.get("sample_rate_hz", sample_rate_hz)
    if rate_hz is None:
        raise RecordingError(
            f"{name}: raw samples, without a sample rate; give --sample-rate-hz, or sample_rate_hz "
            f"in a JSON file beside it"
        )
    n_samples, rest = divmod(len(data), 2 * np.dtype(kind).itemsize)
    if rest or not 0 < n_samples <= MAX_SAMPLES:
        raise RecordingError(
            f"{name}: {len(data)} bytes are not 1 to {MAX_SAMPLES} samples of "
            f"{2 * np.dtype(kind).itemsize} bytes; copy the file again"
        )
    iq = _values(memoryview(data), kind, full_scale).view(np.complex64)
    with _notes_of(name):
        return _described(iq, rate_hz, (None, None), said, {}, name)


@contextmanager
def _notes_of(name: str) -> Iterator[None]:
    """Context in which values that cannot be used are those of the notes beside this file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RecordingError(
            f"{name}: unusable JSON or attributes beside it ({reason_of(error)}); correct them"
        ) from error


def _described(
    iq: ComplexSamples,
    rate_hz: float,
    auxiliary: tuple[int | None, float | None],
    said: Mapping[str, Any],
    attributes: Mapping[str, str],
    name: str,
) -> Recording:
    station = None
    start_from_name = False
    start_gps_ns, frequency_hz = auxiliary
    if named := iq_wav_name(name):
        station, frequency_hz, start_gps_ns = named
    elif seconds := _start_in_name(name):
        start_from_name = start_gps_ns is None and said.get("start_uncertainty_s") is None
        start_gps_ns = start_gps_ns or seconds[0]
        frequency_hz = frequency_hz or seconds[1]
    if "frequency" in attributes:
        frequency_hz = _finite(attributes["frequency"])
    if unix := _UNIX_SECONDS.fullmatch(attributes.get("unixstarttime", "")):
        utc = _UNIX_EPOCH + timedelta(seconds=int(unix[1]))
        start_gps_ns = gps_ns_from_utc(utc) + int(unix[2])
        start_from_name = False
    if (start := said.get("start_time")) is not None:
        start_gps_ns = gps_ns_from_text(str(start))
        start_from_name = False
    if (frequency := said.get("frequency_hz")) is not None:
        frequency_hz = _finite(frequency)
    sigma_s = said.get("start_uncertainty_s")
    return Recording(
        iq=iq,
        sample_rate_hz=_finite(said.get("sample_rate_hz", rate_hz)),
        start_gps_ns=start_gps_ns,
        clock_sigma_s=math.inf if sigma_s is None else _finite(sigma_s),
        start_from_name=start_from_name,
        center_frequency_hz=frequency_hz,
        station=str(said["station"]) if "station" in said else station,
        position=_position(said),
    )


def _start_in_name(name: str) -> tuple[int, float] | None:
    """Start to the second and frequency in a name that ka9q-radio, SDR# or HDSDR writes."""
    if program := program_name(name):
        return program.start_gps_ns, program.frequency_hz
    plain = kiwi_name(name)  # ka9q-radio's too, for the programs of WSJT
    return plain and (gps_ns_from_utc(plain.start), plain.frequency_hz)


def _position(said: Mapping[str, Any]) -> ReceiverPosition | None:
    """The receiver's place by our keys, or else by UberSDR's, whose altitude is above the sea."""
    if "latitude" in said or "longitude" in said:
        place, altitude = (said["latitude"], said["longitude"]), said.get("altitude_m")
    else:
        receiver = said.get("receiver") or {}
        gps = receiver.get("gps") or {}
        if "lat" not in gps and "lon" not in gps:
            return None
        place, altitude = (gps["lat"], gps["lon"]), receiver.get("asl")
    latitude_deg, longitude_deg = map(_finite, place)
    require_on_globe(latitude_deg, longitude_deg)
    return ReceiverPosition(
        latitude_deg, longitude_deg, None if altitude is None else _finite(altitude)
    )


def _finite(value: object) -> float:
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _sidecar(content: bytes | None, name: str) -> Mapping[str, Any]:
    try:
        said = {} if content is None else parsed_json(content)
    except ValueError as error:
        raise RecordingError(
            f"{name}: the JSON beside it cannot be read ({reason_of(error)}); correct or remove it"
        ) from error
    if not isinstance(said, dict):
        raise RecordingError(f"{name}: the JSON beside it is not an object; correct or remove it")
    return said


def _chunks(data: bytes, name: str) -> dict[bytes, memoryview]:
    """The first chunk of each kind."""
    if not is_wav(data):
        raise RecordingError(f"{name}: not a WAV file; copy or record it again")
    is_w64 = data.startswith(W64_RIFF)
    header, here, boundary = (_W64_CHUNK, 40, 8) if is_w64 else (_CHUNK, 12, 2)
    n_data_bytes = None
    view = memoryview(data)
    chunks: dict[bytes, memoryview] = {}
    n_chunks = 0
    while here + header.size <= len(data) and not (chunks.get(b"data") and _is_tag(data, here)):
        if (n_chunks := n_chunks + 1) > _MOST_CHUNKS:
            raise RecordingError(f"{name}: more than {_MOST_CHUNKS} chunks; record it again")
        kind, size = header.unpack_from(data, here)
        if kind == b"ds64" and not is_w64 and here + _SIZES.size <= len(data):
            *_, n_data_bytes = _SIZES.unpack_from(data, here)
        here += header.size
        size = max(size - header.size, 0) if is_w64 else size
        ends_beyond = size >= _UNFINISHED and here + size > len(data)
        is_none = size == 0 and not is_w64 and kind == b"data" and _are_chunks(data, here)
        if kind == b"data" and ((size == 0 and not is_none) or ends_beyond):
            size = n_data_bytes or len(data) - here
        if here + size > len(data):
            raise RecordingError(
                f"{name}: truncated: {len(data) - here} bytes of {size} in chunk "
                f"`{kind.decode('ascii', 'replace')}`; copy the file again"
            )
        if kind in (b"RIFF", b"RF64", b"riff") or (kind == b"data" and kind in chunks):
            raise RecordingError(
                f"{name}: a second recording at byte {here - _CHUNK.size}; store each by itself"
            )
        if size or kind != b"data":
            chunks.setdefault(kind, view[here : here + size])
        here += size + (-size % boundary if is_w64 else _padding(data, here + size, size))
    if any(data[here:]) and not _is_tag(data, here):
        raise RecordingError(
            f"{name}: {len(data) - here} bytes after the last chunk; copy the file again"
        )
    return chunks


def _padding(data: bytes, end: int, size: int) -> int:
    """Bytes after a chunk that make its size even; some programs leave this zero out."""
    return size % 2 if data[end : end + 1] in (b"", b"\0") else 0


def _are_chunks(data: bytes, here: int) -> bool:
    """Return True if chunks fill the rest of a file, and not the samples of a stopped program."""
    n_chunks = 0
    while here + _CHUNK.size <= len(data):
        kind, size = _CHUNK.unpack_from(data, here)
        if not re.fullmatch(rb"[ -~]{4}", kind) or (n_chunks := n_chunks + 1) > _MOST_CHUNKS:
            return False
        here += _CHUNK.size + size
        here += _padding(data, here, size)
    return n_chunks > 0 and here == len(data)


def _is_tag(data: bytes, here: int) -> bool:
    """Return True if all that is left are a player's notes on title and artist, ID3 1 or 2."""
    size = len(data) - here
    if data[here : here + 3] == b"TAG":
        return size == _ID3_1_BYTES
    if data[here : here + 3] != b"ID3" or size < _ID3_2.size:
        return False
    *_, high, upper, lower, low = _ID3_2.unpack_from(data, here)
    return bool(size == _ID3_2.size + (high << 21 | upper << 14 | lower << 7 | low))


def _samples(
    chunks: Mapping[bytes, memoryview], name: str, full_scale: float
) -> tuple[float, ComplexSamples]:
    """Sample rate in Hz, and the samples relative to full scale."""
    described, body = chunks.get(b"fmt "), chunks.get(b"data")
    if described is None or body is None or len(described) < _FORMAT.size:
        raise RecordingError(f"{name}: no complete chunk `fmt ` and `data`; copy the file again")
    coding, channels, rate_hz, _, _, bits = _FORMAT.unpack_from(described)
    if coding == _EXTENSIBLE and len(described) >= 26:
        (coding,) = struct.unpack_from("<H", described, 24)
    if channels == 1 or ((named := program_name(name)) and named.is_audio):
        raise RecordingError(
            f"{name}: {channels} channel(s) of demodulated sound, which has no phases; record I "
            f"and Q"
        )
    if channels != 2 or (coding, bits) not in _KINDS or not rate_hz:
        raise RecordingError(
            f"{name}: WAV coding {coding} with {channels} channel(s) of {bits} bit at {rate_hz} "
            f"Hz; I and Q take two channels of 8, 16, 24 or 32-bit integers (1), or of 32 or "
            f"64-bit floats (3)"
        )
    n_samples = len(body) // (bits // 4)
    if not 0 < n_samples <= MAX_SAMPLES:
        raise RecordingError(f"{name}: {n_samples} samples; a recording has 1 to {MAX_SAMPLES}")
    body = body[: n_samples * (bits // 4)]
    if bits == 24:
        widened = np.zeros((2 * n_samples, 4), np.uint8)
        widened[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        body = widened.reshape(-1).data
    return float(rate_hz), _values(body, _KINDS[coding, bits], full_scale).view(np.complex64)


def _values(body: memoryview, kind: str, full_scale: float) -> npt.NDArray[np.float32]:
    """I and Q in turn, of a type of NumPy, relative to full scale."""
    dtype = np.dtype(kind)
    with np.errstate(over="ignore"):  # beyond single precision is infinite, which is refused
        values = np.frombuffer(body, dtype).astype(np.float32)
    half_range = np.float32(2 ** (8 * dtype.itemsize - 1))
    if dtype.kind == "u":
        values -= half_range
    values /= np.float32(full_scale) if dtype.kind == "f" else half_range
    return values


def _auxiliary(chunks: Mapping[bytes, memoryview]) -> tuple[int | None, float | None]:
    """The start in GPS nanoseconds and the centre frequency, each if the chunk has it."""
    auxiliary = chunks.get(b"auxi", b"")
    if bytes(auxiliary[:1]) == b"<":
        # XML in UTF-16, perhaps too large or hostile for a parser: two attributes are enough.
        text = bytes(auxiliary[:_MOST_XML_BYTES]).replace(b"\0", b"")
        tuned, began = _XML_FREQUENCY.search(text), _XML_START.search(text)
        return (
            gps_ns_from_utc(_UNIX_EPOCH + timedelta(seconds=int(began[1]))) if began else None,
            float(tuned[1]) or None if tuned else None,
        )
    if len(auxiliary) < _AUXILIARY.size:
        return None, None
    year, month, _, day, hour, minute, second, milli, hz = _AUXILIARY.unpack_from(auxiliary)
    try:
        start = datetime(year, month, day, hour, minute, second, milli * 1000, UTC)
    except ValueError:  # zeros, where a program has no time
        return None, float(hz) or None
    return gps_ns_from_utc(start), float(hz) or None
