"""Simulated samples in KiwiSDR's WAV, with GNSS stamps: recordings fit for time differences.

As from a receiver in lock: blocks of 512 samples, each stamped to the nanosecond with its first
sample's time. There are whole blocks only; what would be a part of one is left out. Layout: see
`heimdall_data.recordings.kiwi_wav`, which reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.errors import SimulationError
from heimdall_data.recordings.kiwi_wav import HEADER, STAMP_BYTES, block_layout
from heimdall_data.recordings.recording import WEEK_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCK_SAMPLES", "kiwi_wav_payload"]

BLOCK_SAMPLES = 512
_NS = 10**9
_RIFF_HEAD_BYTES = 8
_FORMAT_BYTES = 16
_PAIR_BYTES = 4


def kiwi_wav_payload(
    iq: NDArray[np.int16], sample_rate_hz: float, start_gps_ns: int, *, age_s: int = 1
) -> bytes:
    """The samples as a KiwiSDR WAV.

    Args:
        iq: I and Q, `(2, n_samples)`.
        sample_rate_hz: The true rate, which the stamps tell; the header has it rounded.
        start_gps_ns: Instant of the first sample, nanoseconds since 1980-01-06.
        age_s: Seconds since the last GNSS solution; 254 and 255 are a receiver without a lock.

    Raises:
        SimulationError: Less than two blocks, of which no clock can be told.
    """
    n_blocks = iq.shape[1] // BLOCK_SAMPLES
    if n_blocks < 2:
        raise SimulationError(
            f"{iq.shape[1]} samples are less than two KiwiSDR blocks; give n_samples of at least "
            f"{2 * BLOCK_SAMPLES}"
        )
    # To whole nanoseconds block by block: a sum of rounded steps would drift away.
    late_ns = np.rint(np.arange(n_blocks) * (BLOCK_SAMPLES * _NS / sample_rate_hz))
    stamps_ns = (start_gps_ns % WEEK_NS + late_ns.astype(np.int64)) % WEEK_NS
    blocks = np.zeros(n_blocks, block_layout(BLOCK_SAMPLES))
    blocks["kiwi"], blocks["kiwi_bytes"] = b"kiwi", STAMP_BYTES
    blocks["age_s"] = age_s
    blocks["gps_s"], blocks["gps_ns"] = stamps_ns // _NS, stamps_ns % _NS
    blocks["data"], blocks["data_bytes"] = b"data", _PAIR_BYTES * BLOCK_SAMPLES
    blocks["iq"] = iq[:, : n_blocks * BLOCK_SAMPLES].T.reshape(n_blocks, BLOCK_SAMPLES, 2)
    return _header(round(sample_rate_hz), blocks.nbytes) + blocks.tobytes()


def _header(rate_hz: int, n_bytes: int) -> bytes:
    return HEADER.pack(
        b"RIFF",
        HEADER.size - _RIFF_HEAD_BYTES + n_bytes,
        b"WAVE",
        b"fmt ",
        _FORMAT_BYTES,
        1,  # PCM
        2,  # channels, I and Q
        rate_hz,
        rate_hz * _PAIR_BYTES,
        _PAIR_BYTES,
        16,  # bits
    )
