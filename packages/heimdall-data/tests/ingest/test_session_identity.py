import re
from dataclasses import replace
from datetime import timedelta, timezone

from heimdall_data.catalogue.session import Station
from heimdall_data.ingest.new_session import (
    measurement_id,
    object_key,
    session_id,
    source_id,
    station_id,
)
from heimdall_data.testing.fixtures import TORINO, new_recording, new_session
from hypothesis import given
from hypothesis import strategies as st

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


def test_an_instant_is_the_same_in_every_time_zone():
    """A laptop in Rome and a server in UTC ingest the same file once."""
    session = new_session()
    rome = session.start.astimezone(timezone(timedelta(hours=1)))
    assert session_id(replace(session, start=rome)) == session_id(session)


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
