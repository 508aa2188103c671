import io
import itertools
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

INTERRUPTED = """
import sys, itertools
from heimdall_data import Catalogue, ObjectStore, S3Settings
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import new_session
url, endpoint, access, secret, bucket = sys.stdin.read().split()
s3 = S3Settings(endpoint_url=endpoint, access_key=access, secret_key=secret)
endless = (new_session(name=f"session {n}") for n in itertools.count())
report = lambda n: print("batch", flush=True)
ingest(Catalogue(url), ObjectStore(s3, bucket), endless, progress=report)
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


def quietly(catalogue, store, sessions, **options):
    """Ingest without a progress bar."""
    return ingest(catalogue, store, sessions, progress=False, **options)


def test_what_goes_in_comes_out(catalogue, raw_iq_store):
    """From a session to be, through both servers, to a sample."""
    report = quietly(catalogue, raw_iq_store, [new_session()])
    (session,) = catalogue.sessions()
    stored = [raw_iq_store.get(item.key) for item in session.measurements]
    assert stored == [new_recording(seed=1).payload, new_recording(seed=0).payload]
    assert report == IngestReport(
        sessions_added=1, objects_stored=2, bytes_stored=sum(map(len, stored))
    )


def test_ingesting_twice_changes_nothing(catalogue, raw_iq_store):
    """Not one row is written again, and not one object sent."""
    quietly(catalogue, raw_iq_store, [new_session()])
    before = rows(catalogue)
    report = quietly(catalogue, raw_iq_store, [new_session()])
    assert rows(catalogue) == before
    assert report == IngestReport(sessions_known=1, objects_unchanged=2)


def test_ingesting_again_repairs_objects(catalogue, raw_iq_store):
    """One was cut short and one is gone."""
    quietly(catalogue, raw_iq_store, [new_session()])
    first, second = catalogue.sessions()[0].measurements
    whole = raw_iq_store.get(first.key)
    raw_iq_store.put(first.key, whole[:100])
    raw_iq_store.delete(second.key)
    assert quietly(catalogue, raw_iq_store, [new_session()]).objects_stored == 2
    assert raw_iq_store.get(first.key) == whole
    assert raw_iq_store.exists(second.key)


def test_what_a_person_decided_is_kept(catalogue, raw_iq_store):
    """Ingesting again must not approve what was rejected meanwhile."""
    quietly(catalogue, raw_iq_store, [new_session()])
    with catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.recording_sessions SET approval_status = 'rejected'")
    quietly(catalogue, raw_iq_store, [new_session()])
    assert catalogue.rejected_counts() == {"rejected": 1}


def test_a_sequence_with_one_wrong_session_writes_none(catalogue, raw_iq_store):
    """The operator corrects the one row of the list, and begins again."""
    wrong = new_session(name="wrong", status="done")
    with pytest.raises(IngestError, match=r"'wrong' .* status is 'done'"):
        quietly(catalogue, raw_iq_store, [new_session(), wrong])
    assert not any(rows(catalogue).values())
    assert raw_iq_store.list() == []


def test_a_stream_is_read_as_it_goes(catalogue, raw_iq_store):
    """Hundreds of sessions do not fit in memory: few are made before the first is stored."""
    ahead = []
    made = itertools.count(1)

    def stream():
        for n in range(200):
            next(made)
            yield new_session(name=f"{n}", stations=(TORINO,))

    ingest(catalogue, raw_iq_store, stream(), progress=lambda _: ahead.append(next(made)))
    assert ahead[0] <= 64 + 2
    assert len(catalogue.sessions()) == 200


def test_progress_is_told_in_sessions(catalogue, raw_iq_store):
    """A bar that ends at the number of sessions, whatever the batches are."""
    steps = []
    sessions = [new_session(name=f"{n}", stations=(TORINO,)) for n in range(40)]
    ingest(catalogue, raw_iq_store, sessions, progress=steps.append)
    assert sum(steps) == 40


def test_the_bar_is_on_standard_error(catalogue, raw_iq_store, capsys):
    """Standard output is for what other programs read."""
    ingest(catalogue, raw_iq_store, iter([new_session()]), total=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1/1" in err


def test_a_session_that_comes_twice_in_one_stream_is_one(catalogue, raw_iq_store):
    """Two manifests that overlap."""
    report = quietly(catalogue, raw_iq_store, iter([new_session(), new_session()]))
    assert (report.sessions_added, len(catalogue.sessions())) == (1, 1)


def test_what_another_ingestion_added_meanwhile_is_not_counted_as_ours(catalogue, raw_iq_store):
    """Two reports on one campaign must add up to it."""
    sessions = [new_session(name=f"{n}", stations=(TORINO,)) for n in range(33)]

    def stream():
        yield from sessions[:32]  # a batch, on its way while the next is read
        quietly(catalogue, raw_iq_store, sessions[:20])
        yield sessions[32]

    report = quietly(catalogue, raw_iq_store, stream())
    assert (report.sessions_added, report.sessions_known) == (13, 20)


def test_a_missing_bucket_stops_before_anything_is_written(catalogue, stack):
    """A configuration error must not leave rows that point nowhere."""
    with pytest.raises(StoreError, match="no bucket 'not-there'"):
        quietly(catalogue, ObjectStore(stack.s3, "not-there"), [new_session()])
    assert not any(rows(catalogue).values())


def test_objects_that_cannot_be_stored_leave_no_row(catalogue, stack):
    """The bucket goes away under the ingestion: the catalogue knows nothing of it."""
    store = ObjectStore(stack.s3, "heimdall-lost")
    store.ensure_bucket()

    def stream():
        stack.s3.client().remove_bucket("heimdall-lost")
        yield new_session()

    with pytest.raises(StoreError, match="heimdall-lost"):
        quietly(catalogue, store, stream())
    assert not any(rows(catalogue).values())


def test_rows_that_cannot_be_written_leave_no_half(catalogue, raw_iq_store):
    """The station is elsewhere in the catalogue: no source, no session, no measurement."""
    quietly(catalogue, raw_iq_store, [new_session()])
    before = rows(catalogue)
    moved = new_session(name="later", source="New", stations=(Station("Torino", 46.0, 7.672),))
    told = r"station 'Torino' is in the catalogue at 45.044, 7.672 and comes now at 46.0, 7.672"
    with pytest.raises(IngestError, match=told):
        quietly(catalogue, raw_iq_store, [moved])
    assert rows(catalogue) == before


def test_a_source_at_another_place_needs_another_name(catalogue, raw_iq_store):
    """Or one label would stand for two places."""
    quietly(catalogue, raw_iq_store, [new_session()])
    moved = new_session(name="later")
    moved = replace(moved, source=replace(moved.source, latitude_deg=45.5))
    with pytest.raises(IngestError, match=r"source 'Beacon' .* 45.5, 8.0; correct the position"):
        quietly(catalogue, raw_iq_store, [moved])


def test_a_source_that_the_backend_made_is_used(catalogue, raw_iq_store):
    """Its id is not ours, and its name says that it is the same."""
    with catalogue.transaction() as connection:
        connection.execute(
            "INSERT INTO heimdall.known_sources (id, name, latitude, longitude) "
            "VALUES ('00000000-0000-0000-0000-000000000001', 'Beacon', 45.0, 8.0)"
        )
    quietly(catalogue, raw_iq_store, [new_session()])
    (session,) = catalogue.sessions()
    assert session.source_id == "00000000-0000-0000-0000-000000000001"


def test_a_database_without_the_session_column_is_written_too(catalogue, raw_iq_store):
    """The object's key says which session a measurement belongs to."""
    with catalogue.transaction() as connection:
        connection.execute("ALTER TABLE heimdall.measurements DROP COLUMN recording_session_id")
    quietly(catalogue, raw_iq_store, [new_session()])
    (session,) = catalogue.sessions()
    assert len(session.measurements) == 2


def test_an_empty_database_gets_its_tables(database_url, raw_iq_store):
    """The first ingestion on a fresh server needs no other command."""
    with Catalogue(database_url) as catalogue:
        quietly(catalogue, raw_iq_store, [new_session()])
        assert len(catalogue.sessions()) == 1


def test_a_recording_without_a_payload_is_announced_and_not_stored(catalogue, raw_iq_store):
    """The simulation makes such faults, as a failed upload does."""
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
    """Quotes, slashes and dots arrive where they belong and nowhere else."""
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
    """Whatever the moment: what the catalogue shows can be read to the last byte."""
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
        assert process.stdout.readline() == b"batch\n"
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


def test_a_database_that_is_not_there_is_told_before_objects_are_stored(stack, raw_iq_store):
    """Gigabytes would be sent for nothing."""
    nowhere = Catalogue(stack.database_url + "_not_there")
    with pytest.raises(CatalogueError, match="does not exist"):
        quietly(nowhere, raw_iq_store, [new_session()])
    assert raw_iq_store.list() == []
