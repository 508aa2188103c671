"""A million sessions behave as a few do, and are read when they are asked for."""

import multiprocessing
import pickle
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from heimdall_data import (
    HeimdallDataset,
    SessionFilter,
    Station,
    choose_receivers,
    split_sessions,
)
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session
from heimdall_features import FeatureConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = new_session().start
FAR = [Station(f"far {n:02d}", 40 + n / 10, 9.0) for n in range(17)]


@pytest.fixture
def few(catalogue, raw_iq_store):
    """Nine sessions of five sources, read as usual."""
    first = new_session()
    sources = [replace(first.source, name=f"s{n}", latitude_deg=45 + n / 3) for n in range(5)]
    sessions = [
        replace(
            first,
            name=f"{n}",
            start=first.start + timedelta(hours=n * 7),
            source=sources[n % 5],
            measurements=tuple(new_recording(station) for station in stations_of(n)),
        )
        for n in range(9)
    ]
    ingest(catalogue, raw_iq_store, sessions, progress=False)
    return catalogue.sessions()


def stations_of(n):
    """Two or three stations, from all over a list that takes more than two bytes of bits."""
    return [TORINO, *([GENOVA] if n % 2 else []), FAR[2 * n]]


@pytest.fixture
def many(few, catalogue):
    """The same sessions, read as if they were too many to hold."""
    return catalogue.sessions(load_up_to=0)


def test_many_sessions_are_the_same_as_few(few, many):
    """A catalogue that outgrows the memory must give the same samples."""
    assert many == few == list(many)
    assert many.read([7, 0, 7]) == [few[7], few[0], few[7]]
    assert [many.session_id(n) for n in range(9)] == [session.id for session in few]
    assert many != few[:8]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    index=st.integers(-12, 12),
    part=st.slices(9),
    left_out=st.sets(st.integers(0, 8)),
    loaded=st.booleans(),
)
def test_a_table_is_indexed_as_a_list(few, many, index, part, left_out, loaded):
    """A split and a loader take parts of it in any order."""
    table, listed = (few if loaded else many), list(few)
    assert table[part] == listed[part]
    kept = [session for n, session in enumerate(listed) if n not in left_out]
    assert table.without({listed[n].id for n in left_out}) == kept
    assert table.without(()) is table
    if -9 <= index < 9:
        assert table[index] == listed[index]
    else:
        with pytest.raises(IndexError, match=f"session {index} of 9"):
            table[index]


def test_many_sessions_are_not_read_until_they_are_asked_for(catalogue, many):
    """Splitting and choosing receivers needs none of the seven million measurements."""
    with catalogue.transaction() as connection:
        connection.execute("ALTER TABLE heimdall.measurements RENAME TO moved")
    split_sessions(many, fractions=(0.5, 0.25, 0.25), seed=2)
    choose_receivers(many, 3)
    with pytest.raises(CatalogueError, match=r"relation .*measurements"):
        many[0]


@pytest.mark.parametrize("by", ["source", "session", "time", "region"])
def test_many_sessions_are_divided_as_few_are(few, many, by):
    """The split must not depend on how large the catalogue has become."""
    expected = split_sessions(list(few), by, (0.6, 0.4, 0.0), seed=3)
    split = split_sessions(many, by, (0.6, 0.4, 0.0), seed=3)
    assert split.report == expected.report
    for side in ("train", "validation", "test"):
        assert getattr(split, side) == list(getattr(expected, side))


def test_receivers_are_counted_without_reading_sessions(few, many):
    """Each station has a bit, and there may be more than eight."""
    expected = choose_receivers(list(few), 11)
    assert {s.name for s in choose_receivers(many, 11)} == {s.name for s in expected}
    assert choose_receivers(many, 2) == choose_receivers(list(few), 2)
    assert many.n_sessions_of_stations() == {
        "Torino": 9,
        "Genova": 4,
        **{f"far {2 * n:02d}": 1 for n in range(9)},
    }


def test_the_positions_are_those_of_the_sources(few, many):
    """They are the labels."""
    np.testing.assert_array_equal(many.positions_deg, [s.position_deg for s in few])


@pytest.mark.parametrize(
    ("only", "n"),
    [
        (SessionFilter(stations=("Genova",)), 4),
        (SessionFilter(stations=("Genova",), since=START + timedelta(hours=20)), 3),
        (SessionFilter(until=START + timedelta(hours=21)), 3),
        (SessionFilter(sources=("s1", "s4")), 3),
        (SessionFilter(sources=("s1",), stations=("far 02",)), 1),
        (SessionFilter(source_types=("beacon",)), 9),
        (SessionFilter(min_snr_db=1e6), 0),
    ],
)
def test_a_filter_holds_for_what_is_read_later(catalogue, few, only, n):
    """Else a batch would bring back the stations that were not asked for."""
    expected = [
        replace(session, measurements=found)
        for session in few
        if (found := tuple(m for m in session.measurements if chooses(only, session, m)))
    ]
    assert len(expected) == n
    assert catalogue.sessions(only) == expected
    many = catalogue.sessions(only, load_up_to=0)
    assert many == expected
    heard = Counter(m.station for session in expected for m in session.measurements)
    assert many.n_sessions_of_stations() == heard


def chooses(only, session, measurement):
    """As the docstrings of `SessionFilter` say."""
    return (
        (only.since is None or session.start >= only.since)
        and (only.until is None or session.start < only.until)
        and (only.sources is None or session.source_name in only.sources)
        and (only.source_types is None or session.source_type in only.source_types)
        and (only.stations is None or measurement.station in only.stations)
        and (only.min_snr_db is None or (measurement.snr_db or -np.inf) >= only.min_snr_db)
    )


def test_a_session_that_is_withdrawn_meanwhile_is_named(catalogue, few, many):
    """An operator rejects it while the run goes on: the run must not go on without saying."""
    with catalogue.transaction() as connection:
        connection.execute(
            "UPDATE heimdall.recording_sessions SET approval_status = 'rejected' WHERE id = %s",
            (few[4].id,),
        )
    assert few[4].session_name == "4"
    with pytest.raises(CatalogueError, match=f"session {few[4].id} was removed or rejected"):
        many.read([3, 4])


def test_a_start_of_another_type_is_an_error_that_says_so(catalogue, few):
    """Rows of another width would be read as nonsense."""
    with catalogue.transaction() as connection:
        connection.execute("ALTER TABLE heimdall.recording_sessions ALTER session_start TYPE date")
    with pytest.raises(CatalogueError, match=r"heimdall\.recording_sessions"):
        catalogue.sessions()


def test_no_sessions_at_all_are_an_empty_table(catalogue):
    """A fresh catalogue."""
    assert list(catalogue.sessions()) == []
    assert catalogue.sessions() == []
    assert catalogue.sessions().n_sessions_of_stations() == {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_for_itself(many, method):
    """A DataLoader's workers: a connection that two use at once answers neither."""
    assert many[0].session_name == "0"
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(many.__getitem__, range(9), chunksize=1) == list(many)


def test_a_dataset_of_many_sessions_reads_only_its_batches(many, few, s3_settings):
    """The first batch follows at once."""
    config = FeatureConfig(receivers=("Torino",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
    dataset = HeimdallDataset(many, config, s3_settings)
    assert dataset.sessions is many
    assert dataset[4]["session_id"] == few[4].id
    assert len(dataset.subset(many[:3])) == 3


def test_a_table_is_pickled_without_its_connections(many):
    """And with the password, which a worker needs: it goes through a pipe, never to disk."""
    assert pickle.loads(pickle.dumps(many)) == many
    assert "heimdall:" not in repr(many)
