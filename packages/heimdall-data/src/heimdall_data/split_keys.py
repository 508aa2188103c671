"""What stays together in a split: the key of each session's group.

Keys come from the sessions' columns, so that a million sessions are grouped without being
read.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heimdall_data.session_columns import SourcePlace
from heimdall_data.session_table import SessionTable
from heimdall_data.sites import site_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_data.sessions import Session
    from heimdall_data.split import SplitBy

__all__ = ["group_keys"]

REGION_CELL_DEG = 0.25
"""About 28 km north to south: far enough that a neighbouring cell is another place."""

Indices = npt.NDArray[np.intp]


def group_keys(
    sessions: Sequence[Session], by: SplitBy, same_site_m: float
) -> tuple[list[str], Indices]:
    """The keys of all groups, and the index of each session's, `(n,)`.

    Args:
        sessions: all there are.
        by: what makes a group.
        same_site_m: sources this close are one site.
    """
    match by:
        case "session":
            return _session_ids(sessions), np.arange(len(sessions))
        case "time":
            days, day_of = np.unique(_starts(sessions).astype("M8[D]"), return_inverse=True)
            return [str(day) for day in days], day_of
    sources, source_of = _sources(sessions)
    founders = _founders(sources, source_of, _starts(sessions), same_site_m)
    keys = {
        "source": [founder.id for founder in founders],
        "region": [_cell(founder.position_deg) for founder in founders],
    }[by]
    names, number = np.unique(np.array(keys, str), return_inverse=True)
    used, key_of = np.unique(number[source_of], return_inverse=True)
    return [str(names[index]) for index in used], key_of


def _session_ids(sessions: Sequence[Session]) -> list[str]:
    if isinstance(sessions, SessionTable):
        return [sessions.session_id(index) for index in range(len(sessions))]
    return [session.id for session in sessions]


def _starts(sessions: Sequence[Session]) -> npt.NDArray[np.datetime64]:
    """When each began, in UTC, to the microsecond."""
    if isinstance(sessions, SessionTable):
        return sessions.columns.start_us.view("M8[us]")
    naive = (s.start.astimezone(UTC).replace(tzinfo=None) for s in sessions)
    return np.array(list(naive), "M8[us]")


def _sources(sessions: Sequence[Session]) -> tuple[list[SourcePlace], Indices]:
    """The sources that occur, and the index of each session's."""
    if isinstance(sessions, SessionTable):
        used, source_of = np.unique(sessions.columns.source, return_inverse=True)
        return [sessions.columns.sources[index] for index in used.tolist()], source_of
    numbers: dict[str, int] = {}
    source_of = np.array([numbers.setdefault(s.source_id, len(numbers)) for s in sessions], np.intp)
    firsts = {s.source_id: s.position_deg for s in reversed(sessions)}
    return [SourcePlace(identity, firsts[identity]) for identity in numbers], source_of


def _founders(
    sources: Sequence[SourcePlace],
    source_of: Indices,
    starts: npt.NDArray[np.datetime64],
    same_site_m: float,
) -> list[SourcePlace]:
    """For each source, the one at its site that was heard first."""
    if not sources:
        return []
    first_heard = np.full(len(sources), np.iinfo(np.int64).max)
    np.minimum.at(first_heard, source_of, starts.view(np.int64))
    site_of = site_numbers([source.position_deg for source in sources], same_site_m).tolist()
    founder: dict[int, int] = {}
    for index in sorted(range(len(sources)), key=lambda i: (first_heard[i], sources[i].id)):
        founder.setdefault(site_of[index], index)
    return [sources[founder[site]] for site in site_of]


def _cell(position_deg: tuple[float, float]) -> str:
    """The cell of the map that a position is in."""
    north, east = (int(degrees // REGION_CELL_DEG) for degrees in position_deg)
    return f"cell {north} {east}"
