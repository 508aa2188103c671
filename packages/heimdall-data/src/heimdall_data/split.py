"""Division of sessions into training, validation and test.

Sessions that belong together form a group, and a group is never divided. Its side follows from
a hash of the seed and of the group's key alone, so that adding recordings never moves an old
group. In exchange, fractions are met only as well as chance allows.

With `by="source"` a group is a site: all sources that are joined by a chain of steps below
100 m. The key of a site is its oldest source, so that a source found later at an old site joins
the old side; only a source that bridges two sites can move the younger of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from heimdall_data.catalogue.table import SessionTable, SourcePlace
from heimdall_data.errors import SplitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heimdall_data.catalogue.session import Session

SplitBy = Literal["source", "session", "time", "region"]
SIDES = ("train", "validation", "test")
SEEDS_TRIED = 1000
REGION_CELL_DEG = 0.25
"""About 28 km from north to south, so that a neighbouring cell is another place."""
WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694_379_990_141_33e-3

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """Result of a split beside what was asked for."""

    by: SplitBy
    seed: int
    asked: Mapping[str, float]
    """Fraction of the sessions asked for on each side; they sum to 1."""
    n_groups: Mapping[str, int]
    n_sessions: Mapping[str, int]

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of the sessions on each side."""
        total = sum(self.n_sessions.values())
        return {side: n / total for side, n in self.n_sessions.items()}

    def __str__(self) -> str:
        sides = (
            f"{side} {self.n_sessions[side]} sessions of {self.n_groups[side]} groups "
            f"({self.fractions[side]:.0%}, asked {self.asked[side]:.0%})"
            for side in SIDES
        )
        return f"split by {self.by}, seed {self.seed}: " + "; ".join(sides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The sessions of each side, in the order they were given."""

    train: Sequence[Session]
    """Sessions that weights and statistics are learned from."""
    validation: Sequence[Session]
    """Sessions that choose the checkpoint and calibrate it."""
    test: Sequence[Session]
    """Sessions that only the final evaluation uses."""
    report: SplitReport
    """Counts, and what was left out, for reports."""


def split_sessions(
    sessions: Sequence[Session],
    by: SplitBy = "source",
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 42,
    *,
    same_site_m: float = 100.0,
) -> Split:
    """Divide sessions into training, validation and test.

    Args:
        sessions: All sessions.
        by: What stays together. `source`: a transmitter site. `region`: all sites of a cell
            of a quarter of a degree. `time`: a day in UTC. `session`: only the session itself
            (a transmitter is then on all sides, and the test is too favourable).
        fractions: Shares of training, validation and test; zero leaves a side empty.
        seed: Another seed gives another split.
        same_site_m: Largest distance of two sources at one site, for `source` and `region`.

    Raises:
        SplitError: The fractions are invalid, or a side that was asked for stays empty; the
            message names a seed or another remedy.
    """
    bounds = _bounds(fractions)
    if by not in get_args(SplitBy):
        raise SplitError(f"cannot split by {by!r}; use one of {', '.join(get_args(SplitBy))}")
    keys, key_of = _group_keys(sessions, by, same_site_m)
    sides = [_side(key, seed, bounds) for key in keys]
    _require_all_sides(keys, sides, fractions, by, seed)
    side_of = np.array([SIDES.index(side) for side in sides], np.int8)[key_of]
    parts: dict[str, Sequence[Session]] = {}
    for number, side in enumerate(SIDES):
        indices = np.flatnonzero(side_of == number)
        if isinstance(sessions, SessionTable):
            parts[side] = sessions.take(indices)
        else:
            parts[side] = tuple(sessions[index] for index in indices.tolist())
    report = SplitReport(
        by=by,
        seed=seed,
        asked={side: f / sum(fractions) for side, f in zip(SIDES, fractions, strict=True)},
        n_groups={side: sides.count(side) for side in SIDES},
        n_sessions={side: len(part) for side, part in parts.items()},
    )
    return Split(**parts, report=report)


def _bounds(fractions: tuple[float, float, float]) -> tuple[float, float]:
    """Points of the unit interval where validation and test begin."""
    good = len(fractions) == 3 and all(0 <= f <= 1 for f in fractions) and fractions[0] > 0
    if not good or abs(sum(fractions) - 1) > 1e-6:
        raise SplitError(
            f"fractions {fractions} are not three shares (train, validation, test) that sum "
            "to 1 with some training; use for example (0.7, 0.15, 0.15)"
        )
    return fractions[0], fractions[0] + fractions[1]


def _side(key: str, seed: int, bounds: tuple[float, float]) -> str:
    """Side of a group: where a uniform hash of its key and the seed is among the bounds."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    uniform = int.from_bytes(digest, "big") / 2**64
    return SIDES[sum(uniform >= bound for bound in bounds)]


def _require_all_sides(
    keys: list[str],
    sides: list[str],
    fractions: tuple[float, float, float],
    by: SplitBy,
    seed: int,
) -> None:
    """Refuse a split with an empty side that was asked for."""
    wanted = [side for side, fraction in zip(SIDES, fractions, strict=True) if fraction > 0]
    empty = [side for side in wanted if side not in sides]
    if not empty:
        return
    groups = {"source": "transmitter sites", "time": "days", "region": "regions"}.get(by, by + "s")
    found = f"no {groups} for {' and '.join(empty)} (there are {len(keys)})"
    if len(keys) < len(wanted):
        raise SplitError(
            f"{found}; a split into {len(wanted)} sides needs at least {len(wanted)}: record "
            "more, or set fewer sides"
        )
    bounds = _bounds(fractions)
    for other in range(SEEDS_TRIED):
        if {*wanted} <= {_side(key, other, bounds) for key in keys}:
            raise SplitError(
                f"{found} at seed {seed} and fractions {fractions}; record more, raise the "
                f"fraction, or use --seed {other}, which fills every side"
            )
    raise SplitError(f"{found} at fractions {fractions}; record more or raise the fraction")


def _group_keys(
    sessions: Sequence[Session], by: SplitBy, same_site_m: float
) -> tuple[list[str], Indices]:
    """Keys of all groups, and the index of each session's key, `(n,)`."""
    starts, sources, source_of = _columns(sessions)
    if by == "session":
        if isinstance(sessions, SessionTable):
            ids = [sessions.session_id(index) for index in range(len(sessions))]
        else:
            ids = [session.id for session in sessions]
        return ids, np.arange(len(sessions))
    if by == "time":
        days, day_of = np.unique(starts.astype("M8[D]"), return_inverse=True)
        return [str(day) for day in days], day_of
    founders = _founders(sources, source_of, starts, same_site_m)
    if by == "source":
        keys = [founder.id for founder in founders]
    else:
        cells = ([int(d // REGION_CELL_DEG) for d in f.position_deg] for f in founders)
        keys = [f"cell {north} {east}" for north, east in cells]
    names, number = np.unique(np.array(keys, str), return_inverse=True)
    used, key_of = np.unique(number[source_of], return_inverse=True)
    return [str(names[index]) for index in used], key_of


def _columns(
    sessions: Sequence[Session],
) -> tuple[npt.NDArray[np.datetime64], list[SourcePlace], Indices]:
    """Start of each session in UTC, sources that occur, and index of each session's source."""
    if isinstance(sessions, SessionTable):
        columns = sessions.columns
        used, source_of = np.unique(columns.source, return_inverse=True)
        sources = [columns.sources[index] for index in used.tolist()]
        return columns.start_us.view("M8[us]"), sources, source_of
    naive = [session.start.astimezone(UTC).replace(tzinfo=None) for session in sessions]
    numbers: dict[str, int] = {}
    source_of = np.array([numbers.setdefault(s.source_id, len(numbers)) for s in sessions], np.intp)
    firsts = {s.source_id: s.position_deg for s in reversed(sessions)}
    sources = [SourcePlace(identity, firsts[identity]) for identity in numbers]
    return np.array(naive, "M8[us]"), sources, source_of


def _founders(
    sources: Sequence[SourcePlace],
    source_of: Indices,
    starts: npt.NDArray[np.datetime64],
    same_site_m: float,
) -> list[SourcePlace]:
    """For each source, the source at the same site that was heard first."""
    if not sources:
        return []
    first_heard = np.full(len(sources), np.iinfo(np.int64).max)
    np.minimum.at(first_heard, source_of, starts.view(np.int64))
    site_of = _site_numbers([source.position_deg for source in sources], same_site_m).tolist()
    founder: dict[int, int] = {}
    for index in sorted(range(len(sources)), key=lambda i: (first_heard[i], sources[i].id)):
        founder.setdefault(site_of[index], index)
    return [sources[founder[site]] for site in site_of]


def _site_numbers(positions_deg: Sequence[tuple[float, float]], distance_m: float) -> Indices:
    """Number for each position, equal where positions share a site."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    points, place = np.unique(_ecef_m(positions_deg), axis=0, return_inverse=True)
    near = KDTree(points).query_pairs(distance_m, output_type="ndarray")
    edges = np.ones(len(near)), (near[:, 0], near[:, 1])
    _, number = connected_components(coo_array(edges, shape=(len(points), len(points))))
    return np.asarray(number[place.ravel()])


def _ecef_m(positions_deg: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Earth-centred coordinates on WGS84, `(n, 3)`; within a site, a chord equals the geodesic."""
    latitude, longitude = np.radians(positions_deg).T
    radius = WGS84_A_M / np.sqrt(1 - WGS84_E2 * np.sin(latitude) ** 2)
    across = radius * np.cos(latitude)
    x, y = across * np.cos(longitude), across * np.sin(longitude)
    return np.stack([x, y, radius * (1 - WGS84_E2) * np.sin(latitude)], axis=1)


def dataset_fingerprint(sides: Mapping[str, Iterable[Session]]) -> str:
    """SHA-256 of a split; the order of sides and sessions does not matter.

    Args:
        sides: The sessions of each side, by its name.
    """
    digest = hashlib.sha256()
    for side, sessions in sorted(sides.items()):
        digest.update("\n".join([side, *sorted(session.id for session in sessions)]).encode())
    return digest.hexdigest()
