"""Recordings as heimdall-features compares them: with their starts on one clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_features import ClockedRecording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heimdall_data.recordings.recording import Recording


def clocked(recordings: Mapping[str, Recording]) -> dict[str, ClockedRecording]:
    """Recordings with a clock, by receiver, with starts in seconds after the earliest.

    Seconds since 1980 in a float would be rounded to 240 ns: 70 m.
    """
    locked = {name: r for name, r in recordings.items() if r.clock_locked}
    starts_ns = {name: r.start_gps_ns for name, r in locked.items() if r.start_gps_ns is not None}
    first_ns = min(starts_ns.values(), default=0)
    return {
        name: ClockedRecording(
            locked[name].iq,
            locked[name].sample_rate_hz,
            (start_ns - first_ns) * 1e-9,
            clock_sigma_s=locked[name].clock_sigma_s,
        )
        for name, start_ns in starts_ns.items()
    }
