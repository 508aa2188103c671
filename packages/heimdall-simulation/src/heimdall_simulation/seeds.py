"""The tree of seeds: who draws from which generator.

The world's seed makes what never changes, `(seed, source)` a transmitter, `(seed, session)` a
session. Session 17 is thus the same in a run of 18 sessions and in a run of a million, and in
whichever process it is made. Source: NumPy's `SeedSequence`, after M. E. O'Neill's
`seed_seq_fe` (2015).
"""

from __future__ import annotations

import zlib

import numpy as np
from heimdall_data.errors import SimulationError

__all__ = [
    "channel_rng",
    "interferer_rng",
    "interferer_waveform_rng",
    "modulation_rng",
    "noise_rng",
    "session_rng",
    "source_rng",
    "station_rng",
    "waveform_rng",
]

# Branches of the tree; a new one goes last and never moves an old one.
_SOURCE, _SESSION, _WAVEFORM, _NOISE, _MAP, _HARDWARE = range(6)
_MODULATION, _CHANNEL, _INTERFERER, _INTERFERER_WAVEFORM = range(6, 10)


def source_rng(seed: int, source: int) -> np.random.Generator:
    """What a transmitter is."""
    return _rng(seed, _SOURCE, source)


def session_rng(seed: int, session: int) -> np.random.Generator:
    """What happens in a session."""
    return _rng(seed, _SESSION, session)


def waveform_rng(seed: int, session: int) -> np.random.Generator:
    """What is said in a session."""
    return _rng(seed, _WAVEFORM, session)


def noise_rng(seed: int, session: int, station: str) -> np.random.Generator:
    """The noise of one station in a session, whichever others were there."""
    return _rng(seed, _NOISE, session, _number(station))


def modulation_rng(seed: int, source: int) -> np.random.Generator:
    """How a transmitter modulates."""
    return _rng(seed, _MODULATION, source)


def channel_rng(seed: int, session: int, station: str) -> np.random.Generator:
    """Fading and echoes between a session's source and a station."""
    return _rng(seed, _CHANNEL, session, _number(station))


def interferer_rng(seed: int, session: int, number: int) -> np.random.Generator:
    """What an interferer is, and how it reaches the stations."""
    return _rng(seed, _INTERFERER, session, number)


def interferer_waveform_rng(seed: int, session: int, number: int) -> np.random.Generator:
    """What an interferer sends."""
    return _rng(seed, _INTERFERER_WAVEFORM, session, number)


def station_rng(world_seed: int, station: str, *, hardware: bool) -> np.random.Generator:
    """What never changes of a station: its hardware, or else its shadowing map."""
    return _rng(world_seed, _HARDWARE if hardware else _MAP, _number(station))


def _number(name: str) -> int:
    # Python's own hash of a string differs from process to process.
    return zlib.crc32(name.encode())


def _rng(seed: int, *branch: int) -> np.random.Generator:
    if seed < 0:
        raise SimulationError(f"seed {seed} is negative; give 0 or more")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=branch)))
