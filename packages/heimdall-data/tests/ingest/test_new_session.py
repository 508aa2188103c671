"""Sessions to be: which are refused, and the ids and keys of the others."""

import math
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import (
    check_session,
    measurement_id,
    object_key,
    session_id,
    source_id,
    station_id,
)
from heimdall_data.testing.fixtures import TORINO, new_recording, new_session
from hypothesis import given
from hypothesis import strategies as st

START = new_session().start
EAST = timezone(timedelta(hours=14))


def with_recording(**changes):
    """A session with one recording that is changed so."""
    return replace(new_session(), measurements=(replace(new_recording(), **changes),))


def with_source(**changes):
    """A session of a source that is changed so."""
    session = new_session()
    return replace(session, source=replace(session.source, **changes))


def test_a_session_as_it_should_be_is_accepted():
    """The refusals below can be avoided."""
    check_session(new_session())


def outside(low, high):
    """Numbers that are not in a range, NaN and infinity among them."""
    return st.floats().filter(lambda value: not low <= value <= high)


not_finite = st.sampled_from([math.nan, math.inf, -math.inf])
IMPOSSIBLE = st.one_of(
    st.tuples(st.just(with_source), st.just("latitude_deg"), outside(-90, 90)),
    st.tuples(st.just(with_source), st.just("longitude_deg"), outside(-180, 180)),
    st.tuples(st.just(with_source), st.just("frequency_hz"), outside(0, 3e12)),
    st.tuples(st.just(with_source), st.just("power_dbm"), not_finite),
    st.tuples(st.just(with_source), st.just("error_margin_m"), outside(0, sys.float_info.max)),
    st.tuples(st.just(with_recording), st.just("sample_rate_hz"), outside(1, 2**31 - 1)),
    st.tuples(st.just(with_recording), st.just("frequency_hz"), outside(0, 3e12)),
    st.tuples(st.just(with_recording), st.just("n_samples"), st.integers(max_value=0)),
    st.tuples(st.just(with_recording), st.just("snr_db"), not_finite),
    st.tuples(st.just(with_recording), st.just("signal_strength_db"), not_finite),
    st.tuples(
        st.just(with_recording), st.just("station"), outside(-90, 90).map(lambda v: at(v, 8.0))
    ),
    st.tuples(
        st.just(with_recording),
        st.just("station"),
        outside(-1_000, 100_000).map(lambda v: at(1.0, 2.0, v)),
    ),
)


def at(*place):
    """A station there."""
    return Station("X", *place)


@given(IMPOSSIBLE)
def test_a_value_that_cannot_be_is_refused_by_its_value(case):
    """The operator finds the one row of a thousand that is wrong."""
    make, name, value = case
    session = make(**{name: value})
    with pytest.raises(IngestError) as caught:
        check_session(session)
    numbers = (value,) if name != "station" else (value.latitude_deg, value.altitude_m)
    assert any(str(number) in str(caught.value) for number in numbers)
    assert repr(session.source.name) in str(caught.value)


@given(
    st.datetimes(datetime(1, 1, 3), datetime(1900, 12, 31))
    | st.datetimes(datetime(2199, 1, 1), datetime(9999, 12, 29)),
    st.sampled_from([UTC, EAST, timezone(-timedelta(hours=12))]),
)
def test_a_start_outside_of_all_recordings_is_refused(moment, zone):
    """Spreadsheets fill the calendar's ends in."""
    for session in (replace(new_session(), start=moment.replace(tzinfo=zone)),
                    with_recording(start=moment.replace(tzinfo=zone))):  # fmt: skip
        with pytest.raises(IngestError, match=f"{moment:%m-%d}"):
            check_session(session)


NAMES = st.one_of(
    st.text(" \t\n\u3000"),
    st.text().map(lambda text: text + "\0"),
    st.integers(601, 700).map(lambda n: "x" * n),
    st.text().map(lambda text: text + "x\udcff"),
)


@given(NAMES)
def test_a_name_that_cannot_be_shown_or_stored_is_refused(name):
    """Postgres would refuse it, when the objects are stored already."""
    for session in (new_session(name), new_session(source=name), new_session(stations=(
        Station(name, 1.0, 2.0),)), with_source(source_type=name)):  # fmt: skip
        with pytest.raises(IngestError):
            check_session(session)


@pytest.mark.parametrize(
    ("session", "told"),
    [
        (new_session(status="done"), "status is 'done'"),
        (new_session(approval_status="ok"), "approval_status is 'ok'"),
        (new_session(stations=()), "no recording"),
        (replace(new_session(), start=START.replace(tzinfo=None)), "time zone"),
        (with_recording(start=START.replace(tzinfo=None)), "time zone"),
        (with_source(latitude_deg=None), "latitude None and longitude 8.0"),
        (with_recording(payload=b""), "0 bytes"),
        (with_recording(format="mp3"), "format is 'mp3'"),
        (with_recording(metadata=b"{}"), "'npy'"),
        (new_session(stations=(Station("X", 1, 2),) * 2), "2 recordings of 'X'"),
    ],
)
def test_what_must_not_be_stored_is_named_with_its_value(session, told):
    """So it is for what is no number."""
    with pytest.raises(IngestError, match=told) as caught:
        check_session(session)
    assert repr(session.source.name) in str(caught.value)


def test_a_failed_session_may_have_no_recording():
    """The catalogue knows of what did not work, too."""
    check_session(new_session(status="failed", stations=()))


def test_the_longest_name_fits_into_the_catalogue(catalogue, raw_iq_store):
    """Postgres refuses what its index cannot hold, when the objects are stored already."""
    name = "".join(chr(0x1F000 + n) for n in range(600))
    session = new_session(name, name, (Station(name, 45.0, 8.0),))
    ingest(catalogue, raw_iq_store, [session], progress=False)
    assert catalogue.sessions()[0].source_name == name


def test_a_source_may_be_unknown():
    """It is stored, and the catalogue's rules keep it out of training."""
    check_session(with_source(latitude_deg=None, longitude_deg=None))


names = st.text(min_size=1, max_size=80)


def key_of(name):
    """The key of a recording by a station of that name."""
    session = new_session()
    recording = replace(new_recording(), station=Station(name, 45.0, 8.0))
    return object_key(session_id(session), recording)


@given(names)
def test_a_key_is_safe_whatever_the_station_is_called(name):
    """No name climbs out of its folder, breaks a URL or hides a file."""
    assert re.fullmatch(r"sessions/[0-9a-f-]{36}/websdr_[A-Za-z0-9_-]+\.npy", key_of(name))


@given(names, names)
def test_two_stations_never_share_a_key(one, other):
    """Or the second upload would replace the first."""
    assert (key_of(one) == key_of(other)) == (one == other)


@given(names, names)
def test_different_names_have_different_ids(one, other):
    """The parts of an identity must not run into each other."""
    sessions = [new_session(name=a, source=b) for a, b in [(one, other), (one + other, "x")]]
    assert len({session_id(session) for session in sessions}) == 2
    assert (station_id(one) == station_id(other)) == (one == other)


def test_an_id_is_the_same_for_ever():
    """Golden values: were they to change, everything would be ingested twice."""
    session = new_session()
    assert str(source_id(session.source)) == "297e8252-e6d8-5a12-b2ff-d0ca3e654b83"
    assert str(session_id(session)) == "5a67095a-f090-537e-843f-690be736699b"
    assert (
        str(measurement_id(session_id(session), "Torino")) == "6bbb3210-31e4-5844-af7d-6da9ee265ee5"
    )
    assert str(station_id("Torino")) == "d33fe923-c528-52c2-81e9-80c7af15229c"


@given(st.integers(-23, 23))
def test_an_instant_is_the_same_in_every_time_zone(hours):
    """A laptop in Rome and a server in UTC ingest the same file once."""
    session = new_session()
    there = session.start.astimezone(timezone(timedelta(hours=hours)))
    assert session_id(replace(session, start=there)) == session_id(session)


def test_a_station_with_a_plain_name_has_the_contracts_key():
    """Other systems look for exactly this."""
    session = new_session()
    key = object_key(session_id(session), new_recording(TORINO))
    assert key == f"sessions/{session_id(session)}/websdr_Torino.npy"


def test_the_suffix_follows_the_format():
    """A person who downloads an object can open it."""
    identity = session_id(new_session())
    recording = new_recording()
    wav = object_key(identity, replace(recording, format="kiwi_wav"))
    archive = object_key(identity, replace(recording, format="sigmf"))
    pair = object_key(identity, replace(recording, format="sigmf", metadata=b"{}"))
    assert (wav[-4:], archive[-6:], pair[-11:]) == (".wav", ".sigmf", ".sigmf-data")
