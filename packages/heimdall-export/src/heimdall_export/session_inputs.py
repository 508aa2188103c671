"""From one moment's recordings to what a model takes: spectrograms, and times of arrival.

Training cuts the recordings of a session to the time that those with a clock share, before it
computes spectrograms; what is done here is the same. Recordings without a clock cannot be placed
in time and are taken from their own start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from heimdall_features import ClockedRecording

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from heimdall_features import ArrivalExtractor, FeatureExtractor
    from numpy.typing import NDArray

    Pair = tuple[NDArray[np.inexact[Any]], float]
    Recordings = Mapping[str, Pair | ClockedRecording | None]

__all__ = ["arrivals_of", "mel_of"]


def mel_of(
    extract: FeatureExtractor, recordings: Recordings, *, by_clock: bool
) -> NDArray[np.float32]:
    """The spectrograms, as training computes them.

    Args:
        extract: What computes them.
        recordings: By receiver.
        by_clock: Cut to the begin of the time that recordings with a clock share; else all
            are taken to start together.

    Raises:
        ExportError: There is no mapping, a start is no time, or a recording ends before another
            one begins.
        FeatureError: A recording cannot be used.
    """
    if not isinstance(recordings, Mapping):
        raise ExportError(f"give recordings by receiver, not {type(recordings).__name__}")
    begin_s = _begin_s(recordings) if by_clock else -math.inf
    return extract({name: _from(begin_s, name, given) for name, given in recordings.items()})


def arrivals_of(extract: ArrivalExtractor, recordings: Recordings) -> NDArray[np.float32]:
    """The times of arrival at the receivers with a clock; zero for the others.

    Raises:
        FeatureError: A recording cannot be used, or they share too little time.
    """
    return extract(
        {name: given for name, given in recordings.items() if isinstance(given, ClockedRecording)}
    )


def _begin_s(recordings: Recordings) -> float:
    """When the last one with a clock starts."""
    starts_s = {name: given.start_s for name, given in recordings.items() if _has_clock(given)}
    for name, start_s in starts_s.items():
        if not math.isfinite(start_s):
            raise ExportError(f"receiver {name!r}: start_s is {start_s}; give seconds")
    return max(starts_s.values(), default=-math.inf)


def _has_clock(given: object) -> TypeGuard[ClockedRecording]:
    return isinstance(given, ClockedRecording) and given.clock_locked


def _from(begin_s: float, name: str, given: Pair | ClockedRecording | None) -> Pair | None:
    """The samples from a time on, to the nearest whole one."""
    if not isinstance(given, ClockedRecording):
        return given
    if not given.clock_locked or begin_s <= given.start_s:
        return given.iq, given.sample_rate_hz
    n_early = (begin_s - given.start_s) * given.sample_rate_hz
    if not math.isfinite(n_early):
        return given.iq, given.sample_rate_hz  # it is refused for its rate
    if round(n_early) >= len(given.iq):
        raise ExportError(
            f"receiver {name!r} starts at {given.start_s} s and ends before another one starts, "
            f"at {begin_s} s; were they recorded together?"
        )
    return given.iq[round(n_early) :], given.sample_rate_hz
