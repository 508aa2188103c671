"""Recordings of one session, cut to the same span of true time.

Receivers start when they please, up to a second apart. Those with GNSS stamps are cut to the
time that all of them cover. The cut is to whole samples, and what is left over, less than half
a sample, is reported and not resampled away. Those without a clock cannot be placed in time:
they are cut to the same duration from their own start, and reported as unplaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_data.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heimdall_data.recording import Recording

__all__ = ["Aligned", "align"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """Recordings over one span, by receiver."""

    recordings: dict[str, Recording]
    start_gps_ns: int | None
    """Begin of the common span; None if no recording has a clock."""
    duration_s: float
    """Length of the span; each recording is within half a sample of it."""
    late_s: dict[str, float | None]
    """How long after the span's begin the first sample of each is; at most half a sample
    either way. None where the recording has no clock."""


def align(recordings: Mapping[str, Recording]) -> Aligned:
    """Cut recordings of one session to the same span of true time.

    Args:
        recordings: By receiver, at least one; their rates may differ.

    Raises:
        RecordingError: If two recordings with a clock do not overlap, or none is given.
    """
    if not recordings:
        raise RecordingError("no recording to align; give at least one")
    starts_ns = {name: _start_ns(r) for name, r in recordings.items()}
    begin_ns = max((start for start in starts_ns.values() if start is not None), default=None)
    duration_s = min(
        recording.duration_s - _wait_s(starts_ns[name], begin_ns)
        for name, recording in recordings.items()
    )
    cuts = {
        name: _cut(recording, _wait_s(starts_ns[name], begin_ns), duration_s)
        for name, recording in recordings.items()
    }
    if None in cuts.values():
        raise RecordingError(
            f"the recordings of {', '.join(recordings)} have no time in common: "
            + ", ".join(_span(name, recording) for name, recording in recordings.items())
            + "; were they made in one session?"
        )
    kept = {name: recording for name, recording in cuts.items() if recording is not None}
    return Aligned(
        recordings=kept,
        start_gps_ns=begin_ns,
        duration_s=duration_s,
        late_s={name: _late_s(recording, begin_ns) for name, recording in kept.items()},
    )


def _start_ns(recording: Recording) -> int | None:
    return recording.start_gps_ns if recording.clock_locked else None


def _wait_s(start_ns: int | None, begin_ns: int | None) -> float:
    """Seconds from a recording's start to the common begin; 0 where there is no clock."""
    return 0.0 if start_ns is None or begin_ns is None else (begin_ns - start_ns) * 1e-9


def _cut(recording: Recording, wait_s: float, duration_s: float) -> Recording | None:
    """The span's samples, or None if there are none."""
    first = round(wait_s * recording.sample_rate_hz)
    n_samples = min(round(duration_s * recording.sample_rate_hz), len(recording.iq) - first)
    return recording.cut(first, n_samples) if n_samples > 0 else None


def _late_s(recording: Recording, begin_ns: int | None) -> float | None:
    start_ns = _start_ns(recording)
    return None if start_ns is None or begin_ns is None else (start_ns - begin_ns) * 1e-9


def _span(name: str, recording: Recording) -> str:
    if not recording.clock_locked:
        return f"{name} {recording.duration_s:.3f} s without a clock"
    return f"{name} {recording.duration_s:.3f} s from {recording.start_utc}"
