"""Splits: no site on two sides, ever, and old groups stay where they are."""

import hashlib
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from heimdall_data.catalogue.session import Session
from heimdall_data.errors import SplitError
from heimdall_data.split import dataset_fingerprint, split_sessions
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pyproj import Geod

EARTH_M = 6_371_000
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def session(number, source, position=(45.0, 7.0)):
    """The `number`th session, of this source."""
    return Session(
        id=f"session {number}",
        session_name="",
        source_id=source,
        source_name=source,
        position_deg=position,
        start=EPOCH + timedelta(hours=7 * number),
        measurements=(),
    )


def spread_out(n):
    """Sessions of `n` sources, a tenth of a degree apart, three each."""
    places = [(44 + 0.1 * (i % 40), 7 + 0.1 * (i // 40)) for i in range(n)]
    return [session(3 * i + k, f"source {i}", places[i]) for i in range(n) for k in range(3)]


def distance_m(a, b):
    """On a sphere: wrong by half a per cent, and nobody's code but the test's."""
    (lat_a, lon_a), (lat_b, lon_b) = (map(math.radians, p) for p in (a, b))
    north, east = lat_b - lat_a, (lon_b - lon_a) * math.cos(lat_a)
    return EARTH_M * math.hypot(north, east)


def sides(split):
    """Which side each session is on."""
    return {s.id: side for side in ("train", "validation", "test") for s in getattr(split, side)}


def split_or_discard(sessions, **options):
    """The split, where there is one."""
    try:
        return split_sessions(sessions, **options)
    except SplitError:
        assume(condition=False)


# Positions on a grid of some 50 m, so that chains of near sources come up often.
near_places = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(
    lambda p: (45 + p[0] * 4.5e-4, 7 + p[1] * 6.4e-4)
)
sessions_somewhere = st.lists(near_places, min_size=8, max_size=60).map(
    # The sources' names must not happen to be in the order of their age.
    lambda places: [session(i, f"source {i * 37 % 61}", p) for i, p in enumerate(places)]
)


def one_site(sessions, session):
    """Ids of the sessions that a chain of steps below 100 m joins to `session`."""
    found, edge = {session.id}, [session]
    while edge:
        here = edge.pop()
        near = [s for s in sessions if distance_m(s.position_deg, here.position_deg) < 100]
        edge += [s for s in near if s.id not in found]
        found |= {s.id for s in near}
    return found


@pytest.mark.slow
@settings(max_examples=200)
@given(sessions_somewhere, st.integers(0, 10_000), st.sampled_from(["source", "region"]))
def test_no_site_is_on_two_sides_ever(sessions, seed, by):
    """A model that has seen the transmitter's site would be praised for its memory."""
    split = split_or_discard(sessions, by=by, seed=seed, fractions=(0.6, 0.2, 0.2))
    side = sides(split)
    assert side.keys() == {s.id for s in sessions}
    for a in sessions:
        for b in sessions:
            if distance_m(a.position_deg, b.position_deg) < 99:
                assert side[a.id] == side[b.id]


@given(sessions_somewhere, st.integers(1, 59), st.integers(0, 10_000))
def test_later_sources_move_an_old_one_only_if_they_bridge_two_sites(sessions, n_old, seed):
    """A test set that changes with every recording compares no two models."""
    old = sessions[:n_old]
    before = sides(split_or_discard(old, seed=seed, fractions=(0.5, 0.5, 0.0)))
    after = sides(split_or_discard(sessions, seed=seed, fractions=(0.5, 0.5, 0.0)))
    for one in old:
        if before[one.id] != after[one.id]:
            joined = one_site(sessions, one) - one_site(old, one)
            assert any(s.id in joined and s.start < one.start for s in old)


@given(st.integers(0, 10_000), st.sampled_from(["source", "session", "time", "region"]))
def test_neither_order_nor_more_recordings_move_anything(seed, by):
    """The query's order is not defined, and every day adds sessions."""
    sessions = spread_out(60)
    more = [replace(s, id=f"{s.id} again", start=s.start + timedelta(days=900)) for s in sessions]
    few = split_or_discard(sessions, by=by, seed=seed, fractions=(0.5, 0.25, 0.25))
    many = split_or_discard([*more, *sessions[::-1]], by=by, seed=seed, fractions=(0.5, 0.25, 0.25))
    assert sides(few).items() <= sides(many).items()


@given(st.floats(-80, 80), st.floats(-180, 180), st.floats(0, 360), st.floats(50, 150))
@example(0.0, 0.0, 0.0, 99.9)
@example(0.0, 0.0, 0.0, 100.1)
@example(0.0, 0.0, 90.0, 99.9)
@example(80.0, 0.0, 0.0, 100.1)
def test_a_hundred_metres_is_a_hundred_metres(latitude, longitude, azimuth, apart_m):
    """The limit is in metres on the ground, everywhere and in every direction."""
    assume(abs(apart_m - 100) > 0.01)
    east, north, _ = Geod(ellps="WGS84").fwd(longitude, latitude, azimuth, apart_m)
    pair = [session(0, "a", (latitude, longitude)), session(1, "b", (north, east))]
    split = split_sessions(pair, fractions=(1.0, 0.0, 0.0))
    assert split.report.n_groups["train"] == (1 if apart_m < 100 else 2)


def n_groups(*sessions, by):
    """How many groups these sessions are divided into."""
    return split_sessions(sessions, by=by, fractions=(1.0, 0.0, 0.0)).report.n_groups["train"]


def test_cells_north_and_south_of_the_equator_are_two():
    """A cell is a quarter of a degree everywhere; twice that around zero is another split."""
    corners = [(north, east) for north in (-0.1, 0.1) for east in (-0.1, 0.1)]
    places = [session(i, f"source {i}", place) for i, place in enumerate(corners)]
    assert n_groups(*places, by="region") == 4
    assert n_groups(places[0], session(9, "near", (-0.2, -0.01)), by="region") == 1
    assert n_groups(places[0], session(9, "next", (-0.26, -0.1)), by="region") == 2


@given(st.integers(-12, 14))
def test_a_day_is_a_day_in_utc_whatever_the_zone(hours):
    """A propagation day must not be divided because a client connects from elsewhere."""
    zone = timezone(timedelta(hours=hours))
    minutes = (0, 23 * 60 + 59, 24 * 60)  # the first and last of one day, and the next
    first, last, after = (
        replace(session(i, "a"), start=(EPOCH + timedelta(minutes=n)).astimezone(zone))
        for i, n in enumerate(minutes)
    )
    assert n_groups(first, last, by="time") == 1
    assert n_groups(last, after, by="time") == 2


def test_sessions_can_be_divided_one_by_one():
    """A test that is too favourable, for those who want to see by how much."""
    assert n_groups(session(0, "a"), session(1, "a"), by="session") == 2
    assert n_groups(session(0, "a"), session(1, "a"), by="source") == 1


def test_a_source_that_moved_is_where_it_was_first():
    """A corrected position must not move a source's old sessions to another side."""
    here, there = (45.0, 7.0), (46.0, 8.0)
    moved = [session(0, "a", here), session(1, "a", there)]
    assert n_groups(*moved, session(2, "b", here), by="source") == 1
    assert n_groups(*moved, session(2, "b", there), by="source") == 2


def test_fractions_are_met_as_well_as_chance_allows():
    """With two thousand sites a fraction is met to three standard deviations of a coin."""
    report = split_sessions(spread_out(2000), fractions=(0.7, 0.2, 0.1)).report
    for side, asked in report.asked.items():
        assert report.fractions[side] == pytest.approx(asked, abs=3 * math.sqrt(0.21 / 2000))


def test_the_report_says_what_was_asked_and_what_came_of_it():
    """It stands in the log of every training."""
    report = split_sessions(spread_out(4), fractions=(1.0, 0.0, 0.0), seed=7).report
    assert str(report) == (
        "split by source, seed 7: train 12 sessions of 4 groups (100%, asked 100%); "
        "validation 0 sessions of 0 groups (0%, asked 0%); "
        "test 0 sessions of 0 groups (0%, asked 0%)"
    )


def test_a_fingerprint_is_that_of_sides_and_ids_in_any_order():
    """Figures of two models compare only on the same sessions."""
    a, b, c = (session(number, "s") for number in range(3))
    found = dataset_fingerprint({"train": [a, b], "test": [c]})
    assert dataset_fingerprint({"test": [c], "train": [b, a]}) == found
    assert dataset_fingerprint({"train": [a], "test": [b, c]}) != found
    # Kept in runs of MLflow, so it must not change either.
    by_hand = "test\nsession 2" + "train\nsession 0\nsession 1"
    assert found == hashlib.sha256(by_hand.encode()).hexdigest()


@pytest.mark.parametrize(
    ("sessions", "options", "message"),
    [
        ([], {}, r"for train and validation and test \(there are 0\)"),
        ([session(0, "a"), session(1, "b")], {}, r"there are 1\); .* at least 3: "),
        (spread_out(20), {"by": "hour"}, "'hour'; use one of source, session"),
        ([session(0, "a")], {"by": "source"}, "no transmitter sites for"),
        ([session(0, "a")], {"by": "session"}, "no sessions for"),
        ([session(0, "a")], {"by": "time"}, "no days for"),
        ([session(0, "a")], {"by": "region"}, "no regions for"),
    ],
)
def test_an_impossible_split_names_the_remedy(sessions, options, message):
    """An empty test set would be noticed only at the end of the training."""
    with pytest.raises(SplitError, match=message):
        split_sessions(sessions, **options)


@given(st.integers(0, 10_000), st.integers(3, 30))
def test_the_seed_that_is_proposed_works(seed, n_sites):
    """A remedy that does not help is worse than none."""
    fractions, sessions = (0.9, 0.05, 0.05), spread_out(n_sites)
    try:
        split_sessions(sessions, fractions=fractions, seed=seed)
        proposed = None
    except SplitError as error:
        proposed = re.search(r"--seed (\d+)", str(error))
    assume(proposed)
    split_sessions(sessions, fractions=fractions, seed=int(proposed[1]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple))
def test_fractions_that_are_no_three_shares_are_refused(fractions):
    """A typing error must not become an empty test set."""
    assume(len(fractions) != 3 or abs(sum(fractions) - 1) > 1e-3 or fractions[0] == 0)
    with pytest.raises(SplitError, match=re.escape(str(fractions))):
        split_sessions(spread_out(20), fractions=fractions)
