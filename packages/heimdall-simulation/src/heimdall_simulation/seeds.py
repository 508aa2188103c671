"""Random generators in a tree of seeds.

The world's seed makes everything that never changes, `(seed, source)` a transmitter, and
`(seed, session)` a session. Session 17 is thus the same in a run of 18 sessions and of a million,
in any process. Source: NumPy's `SeedSequence`, after M. E. O'Neill's `seed_seq_fe` (2015).
"""

import zlib
from enum import IntEnum

import numpy as np
from heimdall_data.errors import SimulationError


class Branch(IntEnum):
    """Purpose of a generator. Append new branches; existing numbers must never change."""

    SOURCE = 0
    SESSION = 1
    WAVEFORM = 2
    NOISE = 3
    SHADOWING = 4
    HARDWARE = 5
    MODULATION = 6
    CHANNEL = 7
    INTERFERER = 8
    INTERFERER_WAVEFORM = 9
    DELAY = 10
    GROUND = 11
    IONOSPHERE = 12


def generator(branch: Branch, seed: int, *path: int | str) -> np.random.Generator:
    """Return the generator of a branch, for example of a session's number and a station's name.

    Raises:
        SimulationError: The seed is negative.
    """
    if seed < 0:
        raise SimulationError(f"seed {seed} is negative; give 0 or more")
    # Python's own hash of a string differs between processes.
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    sequence = np.random.SeedSequence(seed, spawn_key=(int(branch), *numbers))
    return np.random.Generator(np.random.PCG64(sequence))
