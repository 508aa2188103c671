"""Ingestion into real servers, and what a failure leaves there."""

import io
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import CatalogueError, IngestError, ObjectMissing, StoreError
from heimdall_data.ingest.ingest import IngestReport, ingest
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

INTERRUPTED = """
import sys, itertools
from heimdall_data import Catalogue, ObjectStore, S3Settings
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import new_session
url, endpoint, access, secret, bucket = sys.stdin.read().split()
s3 = S3Settings(endpoint_url=endpoint, access_key=access, secret_key=secret)
def endless():
    for n in itertools.count():
        if n == 65:
            print("the first batch of 32 is stored", flush=True)
        yield new_session(name=f"session {n}")
ingest(Catalogue(url), ObjectStore(s3, bucket), endless(), progress=False)
"""


def rows(catalogue):
    """Every row of every table, to compare before and after."""
    tables = ("known_sources", "websdr_stations", "recording_sessions", "measurements")
    with catalogue.transaction() as connection:
        return {
            table: sorted(
                str(row) for row in connection.execute(f"SELECT xmin, t.* FROM heimdall.{table} t")
            )
            for table in tables
        }


def quietly(catalogue, store, sessions):
    """Ingest without a progress bar."""
    return ingest(catalogue, store, sessions, progress=False)


def test_a_session_is_stored_once_and_read_back(catalogue, raw_iq_store):
    """Ingesting it again writes no row and sends no object."""
    report = quietly(catalogue, raw_iq_store, [new_session()])
    (session,) = catalogue.sessions()
    stored = [raw_iq_store.get(item.key) for item in session.measurements]
    assert stored == [new_recording(seed=1).payload, new_recording(seed=0).payload]
    n_bytes = sum(map(len, stored))
    assert report == IngestReport(sessions_added=1, objects_stored=2, bytes_stored=n_bytes)
    before = rows(catalogue)
    report = quietly(catalogue, raw_iq_store, [new_session()])
    assert rows(catalogue) == before
    assert report == IngestReport(sessions_known=1, objects_unchanged=2)


def test_ingesting_again_repairs_objects(catalogue, raw_iq_store):
    """One is incomplete and one is missing."""
    quietly(catalogue, raw_iq_store, [new_session()])
    first, second = catalogue.sessions()[0].measurements
    whole = raw_iq_store.get(first.key)
    raw_iq_store.put(first.key, whole[:100])
    raw_iq_store.delete(second.key)
    assert quietly(catalogue, raw_iq_store, [new_session()]).objects_stored == 2
    assert raw_iq_store.get(first.key) == whole
    assert raw_iq_store.exists(second.key)


def test_a_persons_decision_is_kept(catalogue, raw_iq_store):
    """Ingesting again must not approve a session that was rejected in between."""
    quietly(catalogue, raw_iq_store, [new_session()])
    with catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.recording_sessions SET approval_status = 'rejected'")
    quietly(catalogue, raw_iq_store, [new_session()])
    assert catalogue.rejected_counts() == {"rejected": 1}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 5), st.integers(0, 5))
def test_a_sequence_with_one_wrong_session_writes_none(catalogue, raw_iq_store, n_before, n_after):
    """The operator corrects that session and starts again."""
    good = [new_session(name=f"{n}", stations=(TORINO,)) for n in range(n_before + n_after)]
    wrong = new_session(name="wrong", status="done")
    with pytest.raises(IngestError, match=r"'wrong'.*'done'"):
        quietly(catalogue, raw_iq_store, [*good[:n_before], wrong, *good[n_before:]])
    assert not any(rows(catalogue).values())
    assert raw_iq_store.list() == []


def test_a_stream_is_stored_while_it_is_read(catalogue, raw_iq_store):
    """Hundreds of sessions do not fit in memory."""
    n_stored = []

    def stream():
        for n in range(200):
            n_stored.append(len(catalogue.sessions()) if n % 64 == 0 else 0)
            yield new_session(name=f"{n}", stations=(TORINO,))
        yield new_session(name="0", stations=(TORINO,))

    report = quietly(catalogue, raw_iq_store, stream())
    # At most two batches of 32 are in memory.
    assert n_stored[64::64] == [32, 96, 160]
    # Two manifests may overlap.
    assert (report.sessions_added, report.sessions_known) == (200, 1)
    assert len(catalogue.sessions()) == 200


def test_the_bar_is_on_standard_error(catalogue, raw_iq_store, capsys):
    """Standard output is for other programs."""
    ingest(catalogue, raw_iq_store, iter([new_session()]), total=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1/1" in err


def test_sessions_that_another_ingestion_added_are_not_counted(catalogue, raw_iq_store):
    """The reports of two ingestions must add up."""
    sessions = [new_session(name=f"{n}", stations=(TORINO,)) for n in range(33)]

    def stream():
        yield from sessions[:32]  # a batch, which is sent while the next is read
        quietly(catalogue, raw_iq_store, sessions[:20])
        yield sessions[32]

    report = quietly(catalogue, raw_iq_store, stream())
    assert (report.sessions_added, report.sessions_known) == (13, 20)


def test_nothing_is_written_without_both_servers(catalogue, stack, raw_iq_store):
    """A configuration error must leave no rows without objects, and send no gigabytes."""
    with pytest.raises(StoreError, match="'not-there'"):
        quietly(catalogue, ObjectStore(stack.s3, "not-there"), [new_session()])
    assert not any(rows(catalogue).values())
    url = stack.database_url.replace("/heimdall?", "/not_there?")
    with pytest.raises(CatalogueError, match="not_there"):
        quietly(Catalogue(url), raw_iq_store, [new_session()])
    assert raw_iq_store.list() == []


def test_objects_that_cannot_be_stored_leave_no_row(catalogue, stack):
    """The bucket is removed during the ingestion."""
    store = ObjectStore(stack.s3, "heimdall-lost")
    store.ensure_bucket()

    def stream():
        stack.s3.client().remove_bucket("heimdall-lost")
        yield new_session()

    with pytest.raises(StoreError, match="heimdall-lost"):
        quietly(catalogue, store, stream())
    assert not any(rows(catalogue).values())


@pytest.mark.parametrize("form", [list, iter])
def test_a_moved_station_leaves_no_half_session(catalogue, raw_iq_store, form):
    """Neither its source nor its session nor its measurements are written."""
    quietly(catalogue, raw_iq_store, [new_session()])
    before = rows(catalogue)
    moved = new_session(name="later", source="New", stations=(Station("Torino", 46.0, 7.672),))
    with pytest.raises(IngestError, match=r"'Torino' .* 45.044, 7.672, not at 46.0, 7.672"):
        quietly(catalogue, raw_iq_store, form([moved]))
    assert rows(catalogue) == before


def test_a_source_of_the_backend_is_used(catalogue, raw_iq_store):
    """It has another id, and the same name."""
    with catalogue.transaction() as connection:
        connection.execute(
            "INSERT INTO heimdall.known_sources (id, name, latitude, longitude) "
            "VALUES ('00000000-0000-0000-0000-000000000001', 'Beacon', 45.0, 8.0)"
        )
    quietly(catalogue, raw_iq_store, [new_session()])
    (session,) = catalogue.sessions()
    assert session.source_id == "00000000-0000-0000-0000-000000000001"


def test_a_recording_without_a_payload_is_a_row_without_an_object(catalogue, raw_iq_store):
    """The simulation makes such faults, like those of a failed upload."""
    lost = replace(new_recording(), payload=None)
    quietly(catalogue, raw_iq_store, [replace(new_session(), measurements=(lost,))])
    (measurement,) = catalogue.sessions()[0].measurements
    with pytest.raises(ObjectMissing):
        raw_iq_store.get(measurement.key)


def test_a_sigmf_pair_is_stored_side_by_side(catalogue, raw_iq_store):
    """The reader finds the metadata by the name of the data."""
    pair = replace(new_recording(), format="sigmf", payload=b"samples", metadata=b"{}")
    quietly(catalogue, raw_iq_store, [replace(new_session(), measurements=(pair,))])
    (measurement,) = catalogue.sessions()[0].measurements
    assert measurement.key.endswith(".sigmf-data")
    assert raw_iq_store.get(measurement.key.replace(".sigmf-data", ".sigmf-meta")) == b"{}"


def test_names_from_outside_stay_names(catalogue, raw_iq_store):
    """Quotes, slashes and dots must not change a statement or a key."""
    name = "../../Robert'); DROP TABLE measurements; -- ünïcode/"
    session = new_session(name=name, source=name, stations=(Station(name, 45.0, 8.0), GENOVA))
    quietly(catalogue, raw_iq_store, [session])
    (found,) = catalogue.sessions()
    assert (found.session_name, found.source_name) == (name, name)
    assert {item.station for item in found.measurements} == {name, "Genova"}
    assert all(key.key.startswith("sessions/") for key in raw_iq_store.list())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_ingestion_shows_whole_sessions_only(
    catalogue, database_url, raw_iq_store, number
):
    """Every recording in the catalogue can be read to the last byte."""
    s3 = raw_iq_store.settings
    words = (database_url, s3.endpoint_url, s3.access_key, s3.secret_key, raw_iq_store.bucket)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        process.stdin.write(" ".join(words).encode())
        process.stdin.close()
        assert process.stdout.readline()
        process.send_signal(number)
    sessions = catalogue.sessions()
    assert len(sessions) % 32 == 0
    assert sessions
    for session in sessions:
        assert len(session.measurements) == 2
        assert all(
            np.load(io.BytesIO(raw_iq_store.get(item.key))).size == 256
            for item in session.measurements
        )
