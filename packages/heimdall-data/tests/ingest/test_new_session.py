import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.new_session import check_session
from heimdall_data.testing.fixtures import new_recording, new_session
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


@given(
    st.floats().filter(lambda value: not -90 <= value <= 90) | st.just(math.nan),
    st.floats(-180, 180),
)
def test_no_position_off_the_globe_is_accepted(latitude_deg, longitude_deg):
    """A swapped or missing coordinate would teach the model nonsense."""
    session = with_source(latitude_deg=latitude_deg, longitude_deg=longitude_deg)
    with pytest.raises(IngestError, match="is not a latitude in -90 to 90"):
        check_session(session)


@pytest.mark.parametrize(
    ("session", "told"),
    [
        (new_session(name=" "), "its name is ' '; give it at least one visible"),
        (new_session(name="a\x00b"), r"its name is 'a\\x00b'"),
        (new_session(status="done"), "status is 'done'; it must be one of pending, in_progress"),
        (new_session(approval_status="ok"), "approval_status is 'ok'; it must be one of pending"),
        (new_session(stations=()), "is completed and has no recording"),
        (replace(new_session(), start=START.replace(tzinfo=None)), "without a time zone"),
        (with_source(latitude_deg=None), "latitude None and longitude 8.0; give both"),
        (with_source(longitude_deg=181.0), "position 45.0, 181.0 is not"),
        (with_source(error_margin_m=-1.0), "error margin -1.0 m is not a distance"),
        (with_source(frequency_hz=math.nan), "a value is nan; leave unknown values out"),
        (with_recording(payload=b""), "the recording is empty"),
        (with_recording(format="mp3"), "format is 'mp3'; it must be one of npy, sigmf"),
        (with_recording(metadata=b"{}"), "metadata beside format 'npy'; only sigmf"),
        (with_recording(sample_rate_hz=0.0), "sample rate 0.0 Hz is not in"),
        (with_recording(sample_rate_hz=math.nan), "sample rate nan Hz is not in"),
        (with_recording(n_samples=0), "0 samples; a recording has at least one"),
        (with_recording(frequency_hz=math.inf), "frequency inf Hz is no frequency"),
        (with_recording(snr_db=math.nan), "a value is nan"),
        (with_recording(start=START.replace(tzinfo=None)), "without a time zone"),
        (with_recording(station=Station("X", 91.0, 8.0)), "position 91.0, 8.0 is not"),
        (with_recording(sample_rate_hz=0.4), "sample rate 0.4 Hz is not in 1 to"),
        (with_recording(station=Station("X", 1, 2, 1e10)), "altitude 10000000000.0 m is not in"),
        (with_recording(station=Station("X", 1, 2, math.nan)), "altitude nan m is not in"),
        (with_recording(start=START.replace(year=2300)), "is not in the years 1901 to 2198"),
        (replace(new_session(), start=datetime.max.replace(tzinfo=UTC)), "is not in the years"),
        (replace(new_session(), start=datetime.min.replace(tzinfo=EAST)), "is not in the years"),
        (new_session(name="\udcff"), "which is no Unicode text; rename it"),
        (new_session(stations=(Station("\udcff", 1, 2),)), "which is no Unicode text; rename it"),
        (with_source(source_type="a\x00b"), r"source_type is 'a\\x00b'"),
        (new_session(name="x" * 601), r"its name has 601 characters \('xxxx"),
        (new_session(stations=(Station("X", 1, 2),) * 2), "has 2 recordings of 'X'"),
    ],
)
def test_what_must_not_be_stored_is_named_with_its_value(session, told):
    """The operator finds the one row of a thousand that is wrong."""
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
