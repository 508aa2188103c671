"""Choice of the stations that become the channels of the model's input."""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING

from heimdall_features.names import composed

from heimdall_data.catalogue.session import Station
from heimdall_data.catalogue.table import SessionTable
from heimdall_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_data.catalogue.session import Session


def choose_receivers(
    sessions: Iterable[Session], n: int, names: Sequence[str] | None = None
) -> tuple[Station, ...]:
    """Choose the stations to learn from, in channel order.

    Args:
        sessions: The sessions to train on.
        n: Number of stations.
        names: Exactly these, in this order; None takes the `n` stations present in most
            sessions, in that order, ties by name.

    Returns:
        The stations at their places in their latest session, without altitudes.

    Raises:
        DataError: There are fewer than `n` stations, or `names` has another length, a name
            twice, or a name that no session has.
    """
    names = None if names is None else [*map(composed, names)]
    n_sessions, places = _presence(sessions)
    known = sorted(n_sessions, key=lambda name: (-n_sessions[name], name))
    for name in names or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise DataError(f"no session has a recording of the receiver {name!r}; {hint}")
    chosen = known[:n] if names is None else list(names)
    if len(set(chosen)) != len(chosen):
        raise DataError(f"a receiver is named twice in {chosen}; name each once")
    if not known:
        raise DataError("no session has a recording of a station with a position; ingest some")
    if n < 1 or len(known) < n:
        raise DataError(
            f"receivers asked for: {n}; stations with recordings: {len(known)} "
            f"({', '.join(known)}); set --n_receivers to 1..{len(known)}"
        )
    if len(chosen) != n:
        raise DataError(f"{len(chosen)} receivers are named and {n} asked for; set --n_receivers")
    return tuple(Station(name, *places[name]) for name in chosen)


def _presence(
    sessions: Iterable[Session],
) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """Number of sessions with each station, and its position in the latest."""
    if isinstance(sessions, SessionTable):
        places = {station.name: station.position_deg for station in sessions.columns.stations}
        return sessions.n_sessions_of_stations(), places
    n_sessions: Counter[str] = Counter()
    latest: dict[str, tuple[float, float]] = {}
    for session in sorted(sessions, key=lambda session: session.start, reverse=True):
        found = {m.station: m.station_deg for m in session.measurements}
        n_sessions.update(found.keys())
        latest = found | latest
    return dict(n_sessions), latest
