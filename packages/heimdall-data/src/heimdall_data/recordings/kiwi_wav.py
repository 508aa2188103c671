"""KiwiSDR's GNSS-stamped IQ in a WAV container.

A 36-byte header (RIFF, WAVE, `fmt `: PCM, two channels, 16 bit) is followed by blocks of a
10-byte `kiwi` chunk (seconds since the last GNSS solution, GPS second of the week, and
nanosecond) and a `data` chunk of I/Q pairs. Ordinary WAV readers see only the first block.

The header's rate is rounded. Most stamps lie on a straight line over the block number, and its
slope gives the true rate. The other stamps are stale (the first blocks after a receiver starts),
glitches, or lie beyond a gap where blocks were lost. The file does not contain the GPS week, so
the date must come from its name or from the caller. Recorders usually leave automatic gain
control on, in steps of 2 dB: levels of one receiver are comparable within a block, not between
receivers.

Sources: the recorder, github.com/jks-prv/kiwiclient, `kiwirecorder.py`; the receiver,
github.com/jks-prv/Beagle_SDR_GPS, `rx/rx_sound.cpp` and `dev/clk.cpp`.
"""

from __future__ import annotations

import math
import re
import struct
from datetime import UTC, datetime
from typing import NamedTuple

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

HEADER = struct.Struct("<4sI4s4sIHHIIHH")
STAMP_BYTES = 10
_CHUNK = struct.Struct("<4sI")
_MOST_BLOCKS = 2**20
"""Fitting takes a hundred bytes for each. Receivers send 512 samples a block: 2**18 at most."""
_FIRST_UNLOCKED_AGE = 252
"""The receiver counts up to 251 s since the last GNSS solution; 252 means that or any longer time,
254 no recent solution, and 255 never one."""
SOLUTION_SIGMA_S = 1e-7
"""Uncertainty of the time in a GNSS solution. The receiver samples satellites every 61 ns
(`dev/clk.h`), on one frequency, often with half of the sky hidden."""
DRIFT_S_PER_S = 7e-8
"""Error of the receiver's frequency between GNSS solutions. Its crystal changes by about 0.5 ppm a
degree, in a room that changes by 2 degrees an hour (B. Camp, time-nuts, 2015-11-01): 2.8e-10 per
second. The receiver takes its frequency from a moving average over 32 solutions of some 4 s
(`dev/clk.cpp`), which is 130 s late: 3.6e-8. After 250 s without a solution it is 1.1e-7."""
_YEARS = range(1970, 2200)
"""A recorder whose clock was never set writes the first."""
_TOLERATED_STEP_ERROR = 1e-3
"""Half a sample of a 512-sample block: ten times the error of a rounded header rate, and a
thousandth of the smallest gap, one block."""
_NAME = re.compile(
    r"(?P<utc>\d{8}T\d{6}Z)_(?P<frequency_hz>\d+)_(?P<station>.+?)(?:_iq)?\.wav$", re.IGNORECASE
)


class KiwiName(NamedTuple):
    """The parts of a recorder's file name, `{utc}_{Hz}_{station}_iq.wav`."""

    start: datetime
    frequency_hz: float
    station: str


def kiwi_name(name: str) -> KiwiName | None:
    """Return the parts of a recorder's file name, or None if the name has another form."""
    match = _NAME.search(name.rpartition("/")[2])
    if match is None:
        return None
    try:
        start = datetime.strptime(match["utc"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    if start.year not in _YEARS:
        return None
    return KiwiName(start, float(match["frequency_hz"]), match["station"])


def is_kiwi_wav(data: bytes) -> bool:
    """Return True if a WAV file begins with a stamp, and is none of another program."""
    return data[HEADER.size : HEADER.size + 4] == b"kiwi"


def block_layout(n_pairs: int) -> np.dtype[np.void]:
    """Return the dtype of a `kiwi` chunk followed by a `data` chunk of `n_pairs` I/Q pairs."""
    return np.dtype([
        ("kiwi", "S4"), ("kiwi_bytes", "<u4"),
        ("age_s", "u1"), ("reserved", "u1"), ("gps_s", "<u4"), ("gps_ns", "<u4"),
        ("data", "S4"), ("data_bytes", "<u4"), ("iq", "<i2", (n_pairs, 2)),
    ])  # fmt: skip


def recording_from_kiwi_wav(data: bytes, name: str, start: datetime | None = None) -> Recording:
    """Decode a KiwiSDR IQ WAV.

    A recorder's own file name gives the date and the frequency. `start` is the approximate time
    of recording, to choose the GPS week if the name has no date.

    Returns:
        The recording. Its clock is less certain the longer the GNSS solutions are ago. Without a
        lock or without any date the start is unknown; without a lock the rate is the header's.

    Raises:
        RecordingError: The file is of another kind or truncated, or its stamps contradict the
            header.
    """
    rate_hz = _header_rate_hz(data, name)
    blocks = _blocks(data, name)
    n_pairs = blocks["iq"].shape[1]
    stamps_ns = blocks["gps_s"].astype(np.int64) * 10**9 + blocks["gps_ns"]
    # Without a lock, stamps count the receiver's own samples, and usually still show which
    # blocks belong together. If they do not, there is no fit, and all blocks are kept.
    fit = _fit_stamps(stamps_ns, n_pairs, rate_hz)
    together, true_rate_hz, start_ns = fit or (slice(None), rate_hz, 0)
    kept = blocks[together]
    locked = not bool((kept["age_s"] >= _FIRST_UNLOCKED_AGE).any())
    if fit is None and locked:
        raise RecordingError(
            f"{name}: no two of {len(blocks)} time stamps are {n_pairs} samples apart at the "
            f"header's {rate_hz:g} Hz; record again"
        )
    named = kiwi_name(name)
    date = named.start if named else start
    scaled = kept["iq"].astype(np.float32)
    scaled /= INT16_FULL_SCALE
    return Recording(
        iq=scaled.reshape(-1).view(np.complex64),
        sample_rate_hz=true_rate_hz if locked else rate_hz,
        start_gps_ns=gps_ns_near(start_ns, date) if locked and date else None,
        clock_sigma_s=_clock_sigma_s(kept["age_s"]) if locked and date else math.inf,
        station=named.station if named else None,
        center_frequency_hz=named.frequency_hz if named else None,
        n_dropped_samples=(len(blocks) - len(kept)) * n_pairs,
    )


def _clock_sigma_s(age_s: npt.NDArray[np.uint8]) -> float:
    """Uncertainty of a line through stamps of these ages, in seconds."""
    return math.hypot(SOLUTION_SIGMA_S, DRIFT_S_PER_S * float(np.mean(age_s)))


def _header_rate_hz(data: bytes, name: str) -> float:
    """The rounded sample rate in the header of a complete file."""
    if len(data) < HEADER.size + block_layout(0).itemsize:
        raise RecordingError(
            f"{name}: truncated: {len(data)} bytes are no header and block; store it again"
        )
    riff, riff_size, wave, fmt, _, coding, channels, rate, _, _, bits = HEADER.unpack_from(data)
    if (riff, wave, fmt) != (b"RIFF", b"WAVE", b"fmt "):
        raise RecordingError(f"{name}: begins with {data[:16]!r}; correct iq_data_format")
    if (coding, channels, bits) != (1, 2, 16) or not rate:
        raise RecordingError(
            f"{name}: WAV coding {coding} with {channels} channel(s) of {bits} bit at {rate} Hz, "
            f"not PCM (1) with 2 of 16 bit; record in IQ mode"
        )
    if riff_size + 8 > len(data):
        raise RecordingError(
            f"{name}: truncated: {len(data)} bytes of {riff_size + 8}; store the recording again"
        )
    return float(rate)


def _blocks(data: bytes, name: str) -> npt.NDArray[np.void]:
    """All complete blocks as a structured array; an incomplete last one is left out."""
    body = len(data) - HEADER.size
    if data[HEADER.size : HEADER.size + 4] == b"data":
        raise RecordingError(
            f"{name}: an ordinary WAV without `kiwi` stamps; record it with GNSS stamps, or "
            f"convert it to a NumPy file and set iq_data_format to 'npy'"
        )
    _, data_bytes = _CHUNK.unpack_from(data, HEADER.size + _CHUNK.size + STAMP_BYTES)
    layout = block_layout(min(data_bytes, body) // 4)
    blocks = np.frombuffer(data, layout, body // layout.itemsize, HEADER.size)
    rest = data[HEADER.size + blocks.nbytes :]
    if not b"kiwi".startswith(rest[:4]):
        raise RecordingError(
            f"{name}: {len(rest)} bytes after the last block, which are no part of one; store each "
            f"recording by itself"
        )
    if not 0 < len(blocks) * data_bytes // 4 <= MAX_SAMPLES or len(blocks) > _MOST_BLOCKS:
        raise RecordingError(
            f"{name}: {len(blocks)} blocks of {data_bytes // 4} samples; a recording has 1 to "
            f"{MAX_SAMPLES} samples in up to {_MOST_BLOCKS} blocks"
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
            f"{name}: damaged at byte {HEADER.size + bad * layout.itemsize}, in block {bad} of "
            f"{len(blocks)}; store the recording again"
        )
    return blocks


def _fit_stamps(
    stamps_ns: npt.NDArray[np.int64], block_samples: int, nominal_rate_hz: float
) -> tuple[slice, float, int] | None:
    """The longest stretch of blocks without a gap, its fitted rate in Hz, and its start.

    The start is in GPS nanoseconds of the week. None if no two neighbouring stamps are one block
    apart. The week may roll over inside, and the nominal rate is good to some 500 ppm.
    """
    block_ns = block_samples / nominal_rate_hz * 1e9
    steps_ns = (np.diff(stamps_ns) + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2
    good = np.abs(steps_ns - block_ns) < _TOLERATED_STEP_ERROR * block_ns
    edges = np.diff(np.concatenate([[False], good, [False]]).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(begins):
        return None
    longest = int(np.argmax(ends - begins))
    first = int(begins[longest])
    run = slice(first, int(ends[longest]) + 1)
    # Relative to the run's first stamp, so that a float resolves every nanosecond.
    elapsed_ns = np.concatenate([[0], np.cumsum(steps_ns)])
    relative_ns = (elapsed_ns - elapsed_ns[first]).astype(np.float64)
    block = np.arange(len(stamps_ns), dtype=np.float64) - first
    slope, offset = np.polyfit(block[run], relative_ns[run], 1)
    # A single glitch splits a run in two, and both halves are still on one line.
    on_line = np.abs(relative_ns - (slope * block + offset)) < _TOLERATED_STEP_ERROR * block_ns
    on_line[run] = True
    kept = np.flatnonzero(on_line)
    x, y = block[kept], relative_ns[kept]
    slope, offset = np.polyfit(x, y, 1)
    # Fitted again without the outliers.
    distance = np.abs(y - (slope * x + offset))
    near = distance <= 5 * np.median(distance) + 1
    slope, offset = map(float, np.polyfit(x[near], y[near], 1))
    start_ns = int(stamps_ns[first]) + round(offset + slope * block[kept[0]])
    together = slice(int(kept[0]), int(kept[-1]) + 1)
    return together, block_samples * 1e9 / slope, start_ns % WEEK_NS
