"""I/Q in an ordinary WAV file, as ka9q-radio and UberSDR write it, with a JSON file beside it.

Two channels, I and Q, of 16-bit integers or 32-bit floats. The name of UberSDR's file has the
receiver, the frequency and the start, `{receiver}_{Hz}_{start}.wav`; its JSON has the receiver's
position. ka9q-radio keeps frequency and start (`unixstarttime`, with nanoseconds) in extended
attributes of the file, and the frequency in a chunk `auxi` too.

Neither states how accurate its time is. ka9q-radio counts samples from a time of its computer's
clock, which may be as good as GNSS or as bad as NTP. UberSDR stamps packets when they arrive at the
server (`audio.go`), which is milliseconds late. So a time is trusted only where the JSON file
states its uncertainty; whole seconds of a name are no clock at all.

These keys of the JSON are read, and come before all other sources:
`start_time` (as `gps_ns_from_text` reads it), `start_uncertainty_s`, `sample_rate_hz`,
`frequency_hz`, `station`, `latitude`, `longitude` and `altitude_m`.

Sources: github.com/ka9q/ka9q-radio, `pcmrecord.c`; github.com/madpsy/ka9q_ubersdr,
`clients/iq-recorder` and `audio.go`; IBM and Microsoft, "Multimedia Programming Interface and Data
Specifications 1.0" (1991), for WAV.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from heimdall_features.outside_json import parsed_json

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.kiwi_wav import kiwi_name
from heimdall_data.recordings.recording import (
    INT16_FULL_SCALE,
    MAX_SAMPLES,
    ComplexSamples,
    ReceiverPosition,
    Recording,
    gps_ns_from_text,
    gps_ns_from_utc,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_AUXILIARY_FREQUENCY = struct.Struct("<32xI")
"""SpectraVue's chunk: two times of the Windows API, then the centre frequency in Hz."""
_EXTENSIBLE = 0xFFFE
_UNFINISHED = (0, 0xFFFFFFFF)
"""Size of a data chunk whose recorder was stopped, or wrote into a pipe."""
_NAME = re.compile(
    r"(?P<station>.+)_(?P<frequency_hz>\d+)_(?P<start>\d{4}-\d\d-\d\dT[\d:.]+Z)\.wav$",
    re.IGNORECASE | re.ASCII,
)
_MOST_CHUNKS = 1000
"""Recorders write five."""
_UNIX_SECONDS = re.compile(r"(\d{1,10})\.(\d{9})", re.ASCII)
_UNIX_EPOCH_NS = gps_ns_from_utc(datetime(1970, 1, 1, tzinfo=UTC))


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
    try:
        return _described(iq, rate_hz, _auxiliary_hz(chunks), said, notes.attributes, name)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RecordingError(
            f"{name}: unusable JSON or attributes beside it ({type(error).__name__}: {error}); "
            f"correct them"
        ) from error


def _described(
    iq: ComplexSamples,
    rate_hz: float,
    auxiliary_hz: float | None,
    said: Mapping[str, Any],
    attributes: Mapping[str, str],
    name: str,
) -> Recording:
    station = start_gps_ns = None
    start_from_name = False
    frequency_hz = auxiliary_hz
    if named := iq_wav_name(name):
        station, frequency_hz, start_gps_ns = named
    elif plain := kiwi_name(name):  # also ka9q-radio's, for the programs of WSJT
        frequency_hz, start_gps_ns = plain.frequency_hz, gps_ns_from_utc(plain.start)
        start_from_name = said.get("start_uncertainty_s") is None
    if "frequency" in attributes:
        frequency_hz = _finite(attributes["frequency"])
    if unix := _UNIX_SECONDS.fullmatch(attributes.get("unixstarttime", "")):
        start_gps_ns = _UNIX_EPOCH_NS + int(unix[1]) * 10**9 + int(unix[2])
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
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise ValueError(f"latitude {latitude_deg}, longitude {longitude_deg}; swapped?")
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
            f"{name}: the JSON beside it cannot be read ({type(error).__name__}: {error}); correct "
            f"or remove it"
        ) from error
    if not isinstance(said, dict):
        raise RecordingError(f"{name}: the JSON beside it is not an object; correct or remove it")
    return said


def _chunks(data: bytes, name: str) -> dict[bytes, memoryview]:
    """The first chunk of each kind."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise RecordingError(f"{name}: not a WAV file; copy or record it again")
    view = memoryview(data)
    chunks: dict[bytes, memoryview] = {}
    here, n_chunks = 12, 0
    while here + _CHUNK.size <= len(data):
        if (n_chunks := n_chunks + 1) > _MOST_CHUNKS:
            raise RecordingError(f"{name}: more than {_MOST_CHUNKS} chunks; record it again")
        kind, size = _CHUNK.unpack_from(data, here)
        here += _CHUNK.size
        if kind == b"data" and size in _UNFINISHED:
            size = len(data) - here
        if here + size > len(data):
            raise RecordingError(
                f"{name}: truncated: {len(data) - here} bytes of {size} in chunk "
                f"`{kind.decode('ascii', 'replace')}`; copy the file again"
            )
        if kind in (b"RIFF", b"RF64") or (kind == b"data" and kind in chunks):
            raise RecordingError(
                f"{name}: a second recording at byte {here - _CHUNK.size}; store each by itself"
            )
        chunks.setdefault(kind, view[here : here + size])
        here += size + size % 2
    if any(data[here:]):
        raise RecordingError(
            f"{name}: {len(data) - here} bytes after the last chunk; copy the file again"
        )
    return chunks


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
    kinds = {(1, 16): "<i2", (3, 32): "<f4"}
    if channels != 2 or (coding, bits) not in kinds or not rate_hz:
        raise RecordingError(
            f"{name}: WAV coding {coding} with {channels} channel(s) of {bits} bit at {rate_hz} "
            f"Hz; I and Q take two channels of 16-bit integers (1) or 32-bit floats (3)"
        )
    n_samples = len(body) // (bits // 4)
    if not 0 < n_samples <= MAX_SAMPLES:
        raise RecordingError(f"{name}: {n_samples} samples; a recording has 1 to {MAX_SAMPLES}")
    values = np.frombuffer(body, kinds[coding, bits], 2 * n_samples).astype(np.float32)
    values /= INT16_FULL_SCALE if coding == 1 else np.float32(full_scale)
    return float(rate_hz), values.view(np.complex64)


def _auxiliary_hz(chunks: Mapping[bytes, memoryview]) -> float | None:
    auxiliary = chunks.get(b"auxi", b"")
    if len(auxiliary) < _AUXILIARY_FREQUENCY.size:
        return None
    (frequency_hz,) = _AUXILIARY_FREQUENCY.unpack_from(auxiliary)
    return float(frequency_hz) or None
