"""KiwiSDR's GNSS-stamped IQ in a WAV container.

A 36-byte header (RIFF, WAVE, `fmt `: PCM, two channels, 16 bit) is followed by blocks of a
10-byte `kiwi` chunk (seconds since the last GNSS solution, GPS second of the week, and
nanosecond) and a `data` chunk of I/Q pairs. Ordinary WAV readers see the first block only.

The header's rate is rounded: most stamps lie on a straight line over the block number, whose
slope is the true rate. The other stamps are stale (the first blocks after a receiver starts),
glitches, or lie beyond a gap where blocks were lost. The GPS week is not in the file, so that a
date must come from its name or from the caller. Recorders usually leave the automatic gain
control on, in steps of 2 dB: levels of one receiver are comparable within a block, not between
receivers.

Source: the recorder, github.com/jks-prv/kiwiclient, `kiwirecorder.py`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import (
    INT16_FULL_SCALE,
    MAX_SAMPLES,
    WEEK_NS,
    Recording,
    gps_ns_near,
)

__all__ = [
    "HEADER",
    "STAMP_BYTES",
    "KiwiName",
    "block_layout",
    "kiwi_name",
    "recording_from_kiwi_wav",
]

HEADER = struct.Struct("<4sI4s4sIHHIIHH")
STAMP_BYTES = 10
_CHUNK = struct.Struct("<4sI")
_FIRST_UNLOCKED_AGE = 254
"""254: no GNSS solution recently; 255: never. Smaller values are its age in seconds."""
_FIRST_YEAR, _LAST_YEAR = 1970, 2199
"""A recorder that was never told the time writes the first."""
_TOLERATED_STEP_ERROR = 1e-3
"""Half a sample of a 512-sample block: ten times the error of a rounded header rate, and a
thousandth of the smallest gap, one block."""
_NAME = re.compile(
    r"(?P<utc>\d{8}T\d{6}Z)_(?P<frequency_hz>\d+)_(?P<station>.+?)(?:_iq)?\.wav$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class KiwiName:
    """The parts of a recorder's file name, `{utc}_{Hz}_{station}_iq.wav`."""

    start: datetime
    frequency_hz: float
    station: str


def kiwi_name(name: str) -> KiwiName | None:
    """Return the parts of a recorder's file name, or None for a name of another kind."""
    match = _NAME.search(name.rpartition("/")[2])
    if match is None:
        return None
    try:
        start = datetime.strptime(match["utc"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    if not _FIRST_YEAR <= start.year <= _LAST_YEAR:
        return None
    return KiwiName(start, float(match["frequency_hz"]), match["station"])


def block_layout(n_pairs: int) -> np.dtype[np.void]:
    """Return the bytes of a `kiwi` chunk and a `data` chunk of `n_pairs` I/Q pairs, as a dtype."""
    return np.dtype([
        ("kiwi", "S4"), ("kiwi_bytes", "<u4"),
        ("age_s", "u1"), ("reserved", "u1"), ("gps_s", "<u4"), ("gps_ns", "<u4"),
        ("data", "S4"), ("data_bytes", "<u4"), ("iq", "<i2", (n_pairs, 2)),
    ])  # fmt: skip


def recording_from_kiwi_wav(data: bytes, name: str, start: datetime | None = None) -> Recording:
    """Decode a KiwiSDR IQ WAV.

    Args:
        data: The whole file.
        name: Its name or key; one of the recorder's own gives the date and the frequency.
        start: About when it was recorded, to choose the GPS week, where the name has no date.

    Returns:
        The recording. Without a GNSS lock, or without any date, `clock_locked` is false and
        the start unknown; without a lock the rate is the header's.

    Raises:
        RecordingError: For a file of another kind, a truncated one, or stamps that
            contradict the header.
    """
    rate_hz = _header_rate_hz(data, name)
    blocks = _blocks(data, name)
    n_pairs = blocks["iq"].shape[1]
    stamps_ns = blocks["gps_s"].astype(np.int64) * 10**9 + blocks["gps_ns"]
    # Stamps of a receiver without a lock count its own samples, and so still tell which blocks
    # belong together; where they do not even do that, there is no fit.
    fit = _fit_stamps(stamps_ns, n_pairs, rate_hz)
    kept = blocks[fit.first : fit.first + fit.n_blocks] if fit else blocks
    locked = not bool((kept["age_s"] >= _FIRST_UNLOCKED_AGE).any())
    if fit is None and locked:
        raise RecordingError(
            f"{name}: no two of {len(blocks)} time stamps are {n_pairs} samples "
            f"apart at the header's {rate_hz:g} Hz; stamps or header are wrong, record again"
        )
    named = kiwi_name(name)
    date = named.start if named else start
    scaled = kept["iq"].astype(np.float32)
    scaled /= INT16_FULL_SCALE
    return Recording(
        iq=scaled.reshape(-1).view(np.complex64),
        sample_rate_hz=fit.sample_rate_hz if fit and locked else rate_hz,
        start_gps_ns=gps_ns_near(fit.start_ns_of_week, date) if fit and locked and date else None,
        clock_locked=locked and date is not None,
        center_frequency_hz=named.frequency_hz if named else None,
        n_dropped_samples=(len(blocks) - len(kept)) * n_pairs,
    )


def _header_rate_hz(data: bytes, name: str) -> float:
    """The rounded sample rate of a complete file's header."""
    if len(data) < HEADER.size:
        raise RecordingError(
            f"{name}: {len(data)} bytes, less than a WAV header; store the recording again"
        )
    riff, riff_size, wave, fmt, _, coding, channels, rate, _, _, bits = HEADER.unpack_from(data)
    if (riff, wave, fmt) != (b"RIFF", b"WAVE", b"fmt "):
        raise RecordingError(
            f"{name}: begins with {data[:16]!r}, unlike a WAV; correct iq_data_format"
        )
    if (coding, channels, bits) != (1, 2, 16) or not rate:
        raise RecordingError(
            f"{name}: WAV coding {coding} with {channels} channel(s) of {bits} bit at {rate} Hz; "
            f"KiwiSDR IQ is PCM (1), 2 channels, 16 bit: record in IQ mode"
        )
    if riff_size + 8 > len(data):
        raise RecordingError(
            f"{name}: truncated: the header promises {riff_size + 8} bytes and the object "
            f"holds {len(data)}; store the recording again"
        )
    return float(rate)


def _blocks(data: bytes, name: str) -> npt.NDArray[np.void]:
    """All complete blocks as a structured array; a last one cut short is left out."""
    body = len(data) - HEADER.size
    iq_tag_at = HEADER.size + _CHUNK.size + STAMP_BYTES
    if body < _CHUNK.size + STAMP_BYTES + _CHUNK.size:
        raise RecordingError(f"{name}: holds no block of samples; record again")
    if data[HEADER.size : HEADER.size + 4] == b"data":
        raise RecordingError(
            f"{name}: an ordinary WAV without `kiwi` stamps; record it with GNSS stamps, or "
            f"convert it to a NumPy file and set iq_data_format to 'npy'"
        )
    _, data_bytes = _CHUNK.unpack_from(data, iq_tag_at)
    layout = block_layout(min(data_bytes, body) // 4)
    blocks = np.frombuffer(data, layout, body // layout.itemsize, HEADER.size)
    if not 0 < len(blocks) * data_bytes // 4 <= MAX_SAMPLES:
        raise RecordingError(
            f"{name}: {len(blocks)} complete blocks of {data_bytes // 4} samples; a recording "
            f"holds 1 to {MAX_SAMPLES} samples, record again"
        )
    good = (
        (blocks["kiwi"] == b"kiwi")
        & (blocks["kiwi_bytes"] == STAMP_BYTES)
        & (blocks["data"] == b"data")
        & (blocks["data_bytes"] == data_bytes)
    )
    if not good.all():
        bad = int(np.argmin(good))
        raise RecordingError(
            f"{name}: block {bad} of {len(blocks)}, at byte "
            f"{HEADER.size + bad * layout.itemsize}, is not a `kiwi` chunk followed by "
            f"a `data` chunk of {data_bytes} bytes; the file is damaged, store it again"
        )
    return blocks


@dataclass(frozen=True, slots=True)
class _StampFit:
    """The blocks that belong together, and their clock."""

    first: int
    n_blocks: int
    sample_rate_hz: float
    start_ns_of_week: int
    """GPS nanoseconds of the week at the first sample of block `first`."""


def _fit_stamps(
    stamps_ns: npt.NDArray[np.int64], block_samples: int, nominal_rate_hz: float
) -> _StampFit | None:
    """The longest stretch of blocks without a gap, with its fitted rate and start.

    None if no two neighbouring stamps are one block apart. The week may roll over inside, and
    the nominal rate is good to some 500 ppm.
    """
    block_ns = block_samples / nominal_rate_hz * 1e9
    steps_ns = (np.diff(stamps_ns) + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2
    first, last = _longest_run(np.abs(steps_ns - block_ns) < _TOLERATED_STEP_ERROR * block_ns)
    if last == first:
        return None
    # Relative to the run's first stamp, so that a float holds every nanosecond.
    elapsed_ns = np.concatenate([[0], np.cumsum(steps_ns)])
    relative_ns = (elapsed_ns - elapsed_ns[first]).astype(np.float64)
    block = np.arange(len(stamps_ns), dtype=np.float64) - first
    run = slice(first, last + 1)
    slope, offset = np.polyfit(block[run], relative_ns[run], 1)
    # A lone glitch splits a run in two; both halves are still on one line.
    on_line = np.abs(relative_ns - (slope * block + offset)) < _TOLERATED_STEP_ERROR * block_ns
    on_line[run] = True
    kept = np.flatnonzero(on_line)
    slope, offset = _trimmed_line(block[kept], relative_ns[kept])
    start_ns = int(stamps_ns[first]) + round(offset + slope * block[kept[0]])
    n_blocks = int(kept[-1] - kept[0]) + 1
    return _StampFit(int(kept[0]), n_blocks, block_samples * 1e9 / slope, start_ns % WEEK_NS)


def _longest_run(good: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First and last block of the longest stretch of good steps; equal if there is none."""
    edges = np.diff(np.concatenate([[False], good, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(begins):
        return 0, 0
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def _trimmed_line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset by least squares, twice: once on all, once without the outliers."""
    slope, offset = np.polyfit(x, y, 1)
    distance = np.abs(y - (slope * x + offset))
    near = distance <= 5 * np.median(distance) + 1
    slope, offset = np.polyfit(x[near], y[near], 1)
    return float(slope), float(offset)
