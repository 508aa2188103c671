"""Sessions that contradict what is stored: told ahead, with their lines, and nothing is written."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.conflicts import ConflictError
from heimdall_data.ingest.ingest import ingest, look_ahead
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.ingest.new_session import source_id, station_id
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session

HEAD = (
    "session,source,source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,approval,"
    "station,file\n"
)
ONE = "one,Beacon,45,8,145e6,2026-03-01T12:00Z,12500,approved,Torino,a.npy\n"
TWO = "two,Beacon,45,8,145e6,2026-03-01T13:00Z,12500,approved,Torino,b.npy\n"


@pytest.fixture
def manifest(tmp_path):
    """What makes a manifest of rows, over two recordings."""
    for name, level in (("a", 0.1), ("b", 0.2)):
        np.save(tmp_path / f"{name}.npy", np.full(1250, level, np.complex64))

    def read(*rows, stations=(TORINO, GENOVA)):
        (tmp_path / "m.csv").write_text(HEAD + "".join(rows))
        return read_manifest(tmp_path / "m.csv", stations, progress=False)

    return read


@pytest.fixture
def stored(catalogue, raw_iq_store, manifest):
    """The first session of the manifest, stored; gives both servers."""
    ingest(catalogue, raw_iq_store, manifest(ONE), progress=False)
    return catalogue, raw_iq_store


def told(servers, sessions):
    """What is said against the sessions; nothing of them may be stored."""
    catalogue, store = servers
    n_objects, n_sessions = len(store.list()), len(catalogue.sessions())
    with pytest.raises(ConflictError) as caught:
        ingest(catalogue, store, sessions, progress=False)
    assert (len(store.list()), len(catalogue.sessions())) == (n_objects, n_sessions)
    return [problem.rpartition("m.csv, ")[2] for problem in caught.value.problems]


def test_a_look_ahead_counts_what_is_known_and_writes_nothing(stored, manifest):
    """A dry run that does not ask the catalogue says that all is well when it is not."""
    catalogue, store = stored
    assert look_ahead(catalogue, store, manifest(ONE, TWO)) == 1
    assert len(store.list()) == 1
    assert len(catalogue.sessions()) == 1


def test_a_look_ahead_makes_no_tables(database_url, raw_iq_store, manifest):
    """It may be somebody else's database, and the wrong one."""
    with Catalogue(database_url) as catalogue:
        assert look_ahead(catalogue, raw_iq_store, manifest(ONE)) == 0
        with pytest.raises(CatalogueError, match="has no catalogue"):
            catalogue.sessions()


def test_all_that_moved_is_told_with_its_line(stored, manifest):
    """Twenty runs for twenty mistakes would be a day's work."""
    stations = (replace(TORINO, latitude_deg=45.5), GENOVA)
    moved = manifest(TWO.replace(",45,8", ",46,8"), stations=stations)
    source, station = told(stored, moved)
    assert source.startswith(
        "line 2: source 'Beacon' is in the catalogue at 45.0, 8.0 and comes now at 46.0, 8.0; "
        "correct the position, or give it another name (if the catalogue's is wrong: docs/data.md"
    )
    assert station.startswith("line 2: station 'Torino' is in the catalogue at 45.044, 7.672 and")


def test_the_same_recording_in_another_session_is_refused(stored, manifest):
    """One transmission as two samples is on both sides of a split by session or time."""
    (problem,) = told(stored, manifest(ONE.replace("one", "renamed")))
    assert problem.startswith("line 2: a.npy is stored already, in session 'one' of 'Beacon' (s3:/")


def test_so_it_is_under_another_start_and_source(stored, manifest):
    """Nothing but the content tells."""
    other = ONE.replace("T12", "T15").replace("Beacon", "Other")
    (problem,) = told(stored, manifest(other))
    assert "a.npy is stored already, in session 'one' of 'Beacon'" in problem


def test_a_rejected_session_gives_its_recordings_free(stored, manifest):
    """It is how a wrong name or start is corrected."""
    catalogue, store = stored
    with catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.recording_sessions SET approval_status = 'rejected'")
    report = ingest(catalogue, store, manifest(ONE.replace("one", "right")), progress=False)
    assert report.sessions_added == 1


def test_another_recording_of_the_same_level_is_another(stored, manifest, tmp_path):
    """The level only finds what to look at: a carrier of constant level has many recordings."""
    np.save(tmp_path / "b.npy", np.full(1250, 0.1j, np.complex64))
    catalogue, store = stored
    assert ingest(catalogue, store, manifest(TWO), progress=False).sessions_added == 1


def test_a_twin_whose_object_is_gone_is_none(stored, manifest):
    """Nobody can learn from it."""
    catalogue, store = stored
    for found in store.list():
        store.delete(found.key)
    renamed = manifest(ONE.replace("one", "renamed"))
    assert ingest(catalogue, store, renamed, progress=False).sessions_added == 1


def test_one_recording_under_two_names_in_one_manifest_is_refused(manifest, tmp_path):
    """A copy of a file is a file of its own to the disk."""
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    with pytest.raises(ManifestError, match=r"line 3: b.npy holds the same bytes as a.npy in .* 2"):
        manifest(ONE, TWO)


def test_silent_recordings_may_be_the_same(manifest, tmp_path):
    """A receiver that is down records zeros, every day the same."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros(1250, np.complex64))
    assert len(manifest(ONE, TWO)) == 2


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("12500", "12000", "sample rate (Hz) 12500 and comes now with 12000"),
        ("145e6", "144e6", "frequency (Hz) 145000000 and comes now with 144000000"),
        ("a.npy", "c.npy", "number of samples 1250 and comes now with 600"),
    ],
)
def test_a_stored_session_with_other_recordings_is_refused(
    stored, manifest, tmp_path, old, new, differs
):
    """The object would be replaced, and its row go on telling the former rate."""
    np.save(tmp_path / "c.npy", np.full(600, 0.3, np.complex64))
    (problem,) = told(stored, manifest(ONE.replace(old, new)))
    assert problem.startswith("line 2: station 'Torino' of session 'one' of 'Beacon' is in the")
    assert f"in the catalogue with {differs}; give the session another name" in problem


def test_so_it_is_in_a_stream_and_without_the_session_column(catalogue, raw_iq_store):
    """Simulated sessions of one name and other settings, into a backend's older database."""
    with catalogue.transaction() as connection:
        connection.execute("ALTER TABLE heimdall.measurements DROP COLUMN recording_session_id")
    ingest(catalogue, raw_iq_store, [new_session()], progress=False)
    longer = replace(new_session(), measurements=(new_recording(n_samples=512),))
    with pytest.raises(ConflictError, match="number of samples 256 and comes now with 512"):
        ingest(catalogue, raw_iq_store, iter([longer]), progress=False)
    assert {found.size for found in raw_iq_store.list()} == {2176}


@pytest.mark.parametrize(
    ("table", "identity", "told"),
    [
        ("known_sources", source_id(new_session().source), "source 'Beacon' is called 'New' in"),
        ("websdr_stations", station_id("Torino"), "station 'Torino' is called 'New' in the cat"),
    ],
)
def test_a_name_that_was_changed_in_the_catalogue_is_told(
    catalogue, raw_iq_store, table, identity, told
):
    """What comes under the old name must not become what is called otherwise now."""
    ingest(catalogue, raw_iq_store, [new_session()], progress=False)
    with catalogue.transaction() as connection:
        connection.execute(f"UPDATE heimdall.{table} SET name = 'New' WHERE id = %s", (identity,))
    for sessions in ([new_session("later")], iter([new_session("later")])):
        with pytest.raises(ConflictError, match=told):
            ingest(catalogue, raw_iq_store, sessions, progress=False)
    assert len(catalogue.sessions()) == 1


def test_two_ingestions_at_once_do_not_agree_on_two_places_of_a_source(
    catalogue, database_url, raw_iq_store
):
    """The second's sessions would get the first's label."""
    elsewhere = new_session("later", stations=(TORINO,))
    elsewhere = replace(elsewhere, source=replace(elsewhere.source, latitude_deg=45.5))
    outcome = []

    def second():
        with Catalogue(database_url) as own:
            try:
                ingest(own, raw_iq_store, iter([elsewhere]), progress=False)
            except ConflictError as error:
                outcome.append(str(error))

    thread = threading.Thread(target=second)
    with catalogue.transaction() as connection:
        connection.execute(
            "INSERT INTO heimdall.known_sources (id, name, latitude, longitude) "
            "VALUES (%s, 'Beacon', 45.0, 8.0)",
            (source_id(elsewhere.source),),
        )
        thread.start()
        _wait_for_a_lock(database_url)
    thread.join(30)
    assert "'Beacon' is in the catalogue at 45.0, 8.0 and comes now at 45.5, 8.0" in outcome[0]


def test_two_ingestions_at_once_never_wait_for_each_other(catalogue, database_url, raw_iq_store):
    """Postgres would end one of them, though nothing is wrong with either."""
    stations = sorted((Station(f"S{n}", 45.0, 8.0) for n in range(2)), key=_id_of)
    session = new_session(stations=tuple(reversed(stations)))
    thread = threading.Thread(
        target=ingest, args=(Catalogue(database_url), raw_iq_store, iter([session])),
        kwargs={"progress": False},
    )  # fmt: skip
    insert = (
        "INSERT INTO heimdall.websdr_stations (id, name, latitude, longitude) "
        "VALUES (%s, %s, 45.0, 8.0)"
    )
    with catalogue.transaction() as connection:
        for number, station in enumerate(stations):
            connection.execute(insert, (station_id(station.name), station.name))
            if number == 0:
                thread.start()
                _wait_for_a_lock(database_url)
    thread.join(30)
    assert len(catalogue.sessions()) == 1


def _id_of(station):
    return station_id(station.name)


def _wait_for_a_lock(database_url):
    """Until somebody waits for what our transaction has written."""
    with Catalogue(database_url) as watching:
        while True:
            with watching.transaction() as connection:
                waiting = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                if waiting.fetchone() != (0,):
                    return
