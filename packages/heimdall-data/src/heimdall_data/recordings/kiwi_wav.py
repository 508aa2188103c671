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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from heimdall_data.errors import RecordingError
from heimdall_data.recordings.formats import KIWI_STAMP
from heimdall_data.recordings.recording import (
    INT16_FULL_SCALE,
    MAX_SAMPLES,
    WEEK_NS,
    Recording,
    gps_ns_near,
    utc_from_text,
)

if TYPE_CHECKING:
    from datetime import datetime

HEADER = struct.Struct("<4sI4s4sIHHIIHH")
STAMP_BYTES = 10
UNFINISHED = 2**32 - 1
"""Size in a header whose recorder was stopped, or wrote into a pipe."""
_CHUNK = struct.Struct("<4sI")
_MOST_BLOCKS = 2**20
"""Fitting takes a hundred bytes for each. Receivers send 512 samples a block: 2**18 at most."""
_RECEIVERS_BLOCK = 512
"""Samples in a block as receivers send it. In others the recorder resampled them (`--resample`),
with a filter that is late by up to a block, and left the stamps as they were."""
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
        start = utc_from_text(match["utc"])
    except ValueError:
        return None
    if start.year not in _YEARS:
        return None
    return KiwiName(start, float(match["frequency_hz"]), match["station"])


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
        The recording. Its clock is less certain the longer the GNSS solutions are ago, and of
        resampled samples by a block, which is too much for time differences. Without a
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
        steps_ns = np.diff(stamps_ns) % WEEK_NS
        stamped_hz = n_pairs * 1e9 / float(np.median(steps_ns)) if steps_ns.any() else rate_hz
        if _fit_stamps(stamps_ns, n_pairs, stamped_hz) is not None:
            raise RecordingError(
                f"{name}: the stamps are of {stamped_hz:.1f} Hz and the header is of "
                f"{rate_hz:g} Hz, as after resampling or a change of the header; give the file as "
                f"it was recorded, without --resample"
            )
        raise RecordingError(
            f"{name}: no two of {len(blocks)} time stamps are {n_pairs} samples apart at the "
            f"header's {rate_hz:g} Hz; record again"
        )
    sigma_s = _clock_sigma_s(kept["age_s"])
    if n_pairs != _RECEIVERS_BLOCK:
        sigma_s = math.hypot(sigma_s, n_pairs / true_rate_hz)
    named = kiwi_name(name)
    date = named.start if named else start
    scaled = kept["iq"].astype(np.float32)
    scaled /= INT16_FULL_SCALE
    return Recording(
        iq=scaled.reshape(-1).view(np.complex64),
        sample_rate_hz=true_rate_hz if locked else rate_hz,
        start_gps_ns=gps_ns_near(start_ns, date) if locked and date else None,
        clock_sigma_s=sigma_s if locked and date else math.inf,
        station=named.station if named else None,
        center_frequency_hz=named.frequency_hz if named else None,
        n_dropped_samples=(len(blocks) - len(kept)) * n_pairs,
    )


def _clock_sigma_s(age_s: npt.NDArray[np.uint8]) -> float:
    """Uncertainty of a line through stamps of these ages, in seconds."""
    return math.hypot(SOLUTION_SIGMA_S, DRIFT_S_PER_S * float(np.mean(age_s)))


def _header_rate_hz(data: bytes, name: str) -> float:
    """The rounded sample rate in the header of a complete file."""
    if not data.startswith(b"RIFF"):
        raise RecordingError(f"{name}: not a WAV file; copy or record it again")
    if len(data) < HEADER.size + block_layout(0).itemsize:
        raise RecordingError(
            f"{name}: truncated: {len(data)} bytes are no header and block; store it again"
        )
    riff, riff_size, wave, fmt, _, coding, channels, rate, _, _, bits = HEADER.unpack_from(data)
    if (riff, wave, fmt) != (b"RIFF", b"WAVE", b"fmt "):
        raise RecordingError(
            f"{name}: begins with {data[:16]!r}, not with the header of a KiwiSDR's recorder; give "
            f"the file as it was recorded"
        )
    if (coding, channels, bits) != (1, 2, 16) or not rate:
        raise RecordingError(
            f"{name}: WAV coding {coding} with {channels} channel(s) of {bits} bit at {rate} Hz, "
            f"not PCM (1) with 2 of 16 bit; record in IQ mode"
        )
    if riff_size != UNFINISHED and riff_size + 8 > len(data):
        raise RecordingError(
            f"{name}: truncated: {len(data)} bytes of {riff_size + 8}; store the recording again"
        )
    return float(rate)


def _blocks(data: bytes, name: str) -> npt.NDArray[np.void]:
    """All complete blocks as a structured array; an incomplete last one is left out."""
    body = len(data) - HEADER.size
    data_bytes = _samples_bytes(data, HEADER.size)
    if data_bytes is None:
        raise _damage(data, HEADER.size, 0, 0, name)
    layout = block_layout(min(data_bytes, body) // 4)
    second = HEADER.size + layout.itemsize
    if _samples_bytes(data, second) not in (None, data_bytes):
        raise _damage(data, second, 1, data_bytes, name)
    blocks = np.frombuffer(data, layout, body // layout.itemsize, HEADER.size)
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
        raise _damage(data, HEADER.size + bad * layout.itemsize, bad, data_bytes, name)
    rest = data[HEADER.size + blocks.nbytes :]
    if not b"kiwi".startswith(rest[:4]):
        raise RecordingError(
            f"{name}: {len(rest)} bytes after the last block, which are no part of one; store each "
            f"recording by itself"
        )
    return blocks


def _samples_bytes(data: bytes, place: int) -> int | None:
    """Size of the samples in the block at this byte; None if none begins there."""
    header = data[place : place + block_layout(0).itemsize]
    if not header.startswith(KIWI_STAMP) or header[-8:-4] != b"data":
        return None
    return int.from_bytes(header[-4:], "little")


def _damage(data: bytes, place: int, block: int, data_bytes: int, name: str) -> RecordingError:
    """The error about a block that is not like the first one."""
    if data.startswith(b"data", place):
        return RecordingError(
            f"{name}: block {block} has no GNSS stamp before its samples, at byte {place}; give "
            f"the file as it was recorded, or record again"
        )
    other_bytes = _samples_bytes(data, place)
    if other_bytes is not None:
        after = place + block_layout(0).itemsize + other_bytes
        if after >= len(data) or _samples_bytes(data, after) is not None:
            return RecordingError(
                f"{name}: block 0 has {data_bytes // 4} samples and block {block} has "
                f"{other_bytes // 4}, as after resampling by the recorder, whose stamps no longer "
                f"tell when a sample was received; record without --resample"
            )
    return RecordingError(
        f"{name}: damaged at byte {place}, in block {block}; store the recording again"
    )


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
