"""New sessions: which are refused, and the ids and keys of the others."""

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import (
    check_session,
    measurement_id,
    name_id,
    object_key,
    session_id,
)
from heimdall_data.testing.fixtures import TORINO, new_recording, new_session
from heimdall_features.names import composed, is_printable
from heimdall_features.testing import hostile_names
from hypothesis import given
from hypothesis import strategies as st

START = new_session().start
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))])


def with_recording(**changes):
    """A session of one recording with these changes."""
    return replace(new_session(), measurements=(replace(new_recording(), **changes),))


def with_source(**changes):
    """A session of a source with these changes."""
    session = new_session()
    return replace(session, source=replace(session.source, **changes))


def with_station(**changes):
    """A session of one recording, of a station with these changes."""
    return with_recording(station=replace(TORINO, **changes))


ANY = (-1e30, 1e30)
LIMITS = [
    (with_source, "latitude_deg", (-90, 90)),
    (with_source, "longitude_deg", (-180, 180)),
    (with_source, "frequency_hz", (0, 3e12)),
    (with_source, "power_dbm", ANY),
    (with_source, "error_margin_m", (0, 1e30)),
    (with_recording, "sample_rate_hz", (1, 2**31 - 1)),
    (with_recording, "frequency_hz", (0, 3e12)),
    (with_recording, "n_samples", (1, 2**31 - 1)),
    (with_recording, "snr_db", ANY),
    (with_recording, "signal_strength_db", ANY),
    (with_recording, "frequency_offset_hz", (-(2**31) + 1, 2**31 - 1)),
    (with_station, "latitude_deg", (-90, 90)),
    (with_station, "longitude_deg", (-180, 180)),
    (with_station, "altitude_m", (-1_000, 100_000)),
]
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.sampled_from(LIMITS), st.floats() | not_finite)
def test_a_number_outside_its_limits_is_refused_by_its_value(limits, value):
    """The operator has to find the one wrong row of a thousand."""
    make, name, (low, high) = limits
    session = make(**{name: value})
    if low <= value <= high:
        check_session(session)
    else:
        with pytest.raises(IngestError, match=re.escape(f"{name} is {value};")) as caught:
            check_session(session)
        assert repr(session.source.name) in str(caught.value)


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), ZONES)
def test_a_start_outside_of_1901_to_2198_is_refused(moment, zone):
    """Spreadsheets fill in the calendar's ends."""
    start = moment.replace(tzinfo=zone)
    for session in (replace(new_session(), start=start), with_recording(start=start)):
        if 1901 <= moment.year <= 2198:
            check_session(session)
        else:
            with pytest.raises(IngestError, match=f"{moment:%m-%d}"):
                check_session(session)


bad_names = st.one_of(
    st.text(" \t\n\u3000"),
    st.integers(601, 700).map(lambda n: "x" * n),
    hostile_names(),
)


@given(
    bad_names,
    st.sampled_from([
        lambda name: new_session(name),
        lambda name: new_session(source=name),
        lambda name: with_source(source_type=name),
        lambda name: with_station(name=name),
    ]),
)  # fmt: skip
def test_a_name_that_cannot_be_shown_or_stored_is_refused(name, make):
    """Terminals, logs and reports would show another one; Postgres would refuse some, but late."""
    with pytest.raises(IngestError) as caught:
        check_session(make(name))
    assert is_printable(str(caught.value))


@pytest.mark.parametrize(
    ("session", "value"),
    [
        (new_session(status="done"), "'done'"),
        (new_session(approval_status="ok"), "'ok'"),
        (new_session(stations=()), "completed"),
        (replace(new_session(), start=START.replace(tzinfo=None)), "time zone"),
        (with_recording(start=START.replace(tzinfo=None)), "time zone"),
        (with_source(latitude_deg=None), "latitude None and longitude 8.0"),
        (with_recording(payload=b""), "0 bytes"),
        (with_recording(format="mp3"), "'mp3'"),
        (new_session(stations=(Station("X", 1, 2),) * 2), "2 recordings of 'X'"),
    ],
)
def test_what_must_not_be_stored_is_named_with_its_value(session, value):
    """The operator has to find the one wrong row of a thousand."""
    with pytest.raises(IngestError, match=value) as caught:
        check_session(session)
    assert repr(session.source.name) in str(caught.value)


def test_failures_and_unknown_sources_are_accepted():
    """They are stored, and the catalogue's rules keep them out of training."""
    check_session(new_session(status="failed", stations=()))
    check_session(with_source(latitude_deg=None, longitude_deg=None))


def test_the_longest_name_fits_into_the_catalogue(catalogue, raw_iq_store):
    """Postgres would refuse it after the objects are stored, if its index had no room."""
    name = "".join(chr(0x1F000 + n) for n in range(600))
    session = new_session(name, name, (Station(name, 45.0, 8.0),))
    ingest(catalogue, raw_iq_store, [session], progress=False)
    assert catalogue.sessions()[0].source_name == name


names = st.text(min_size=1, max_size=80)


def key_of(name):
    """The key of a recording by a station of that name."""
    session = new_session()
    recording = replace(new_recording(), station=Station(name, 45.0, 8.0))
    return object_key(session_id(session), recording)


@given(names)
def test_a_key_is_safe_for_every_station_name(name):
    """No name leads out of its folder, breaks a URL or hides a file."""
    assert re.fullmatch(r"sessions/[0-9a-f-]{36}/websdr_[A-Za-z0-9_-]+\.npy", key_of(name))


@given(names, names)
def test_two_stations_never_share_a_key(one, other):
    """The second upload would replace the first."""
    assert (key_of(one) == key_of(other)) == (composed(one) == composed(other))


@given(names, names)
def test_different_names_have_different_ids(one, other):
    """The parts of an identity must not run together."""
    sessions = [new_session(name=a, source=b) for a, b in [(one, other), (one + other, "x")]]
    assert len({session_id(session) for session in sessions}) == 2
    assert (name_id("station", one) == name_id("station", other)) == (one == other)
    assert name_id("station", one) != name_id("source", one)


def test_ids_never_change():
    """With other ids, everything would be ingested twice."""
    session = session_id(new_session())
    assert str(name_id("source", "Beacon")) == "297e8252-e6d8-5a12-b2ff-d0ca3e654b83"
    assert str(session) == "5a67095a-f090-537e-843f-690be736699b"
    assert str(measurement_id(session, "Torino")) == "6bbb3210-31e4-5844-af7d-6da9ee265ee5"
    assert str(name_id("station", "Torino")) == "d33fe923-c528-52c2-81e9-80c7af15229c"


@given(st.integers(-23, 23))
def test_an_instant_is_the_same_in_every_time_zone(hours):
    """A laptop in Rome and a server in UTC ingest the same file once."""
    session = new_session()
    there = session.start.astimezone(timezone(timedelta(hours=hours)))
    assert session_id(replace(session, start=there)) == session_id(session)


@pytest.mark.parametrize(
    ("changes", "suffix"),
    [
        ({}, ".npy"),
        ({"format": "kiwi_wav"}, ".wav"),
        ({"format": "sigmf"}, ".sigmf"),
        ({"format": "sigmf", "metadata": b"{}"}, ".sigmf-data"),
    ],
)
def test_a_key_is_the_contracts_with_the_suffix_of_its_format(changes, suffix):
    """Other systems look for exactly this, and people can open what they download."""
    session = session_id(new_session())
    key = object_key(session, replace(new_recording(TORINO), **changes))
    assert key == f"sessions/{session}/websdr_Torino{suffix}"
