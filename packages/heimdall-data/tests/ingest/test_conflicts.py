"""Sessions that contradict what is stored: refused with their lines, and nothing is written."""

import threading
import unicodedata
import wave
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import SessionFilter, Station
from heimdall_data.errors import CatalogueError
from heimdall_data.ingest.conflicts import ConflictError
from heimdall_data.ingest.ingest import ingest, look_ahead
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.ingest.new_session import name_id
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_recording, new_session
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

HEAD = (
    "session,source,source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,approval,"
    "station,file\n"
)
ONE = "one,Beacon,45,8,145e6,2026-03-01T12:00Z,12500,approved,Torino,a.npy\n"
TWO = "two,Beacon,45,8,145e6,2026-03-01T13:00Z,12500,approved,Torino,b.npy\n"


@pytest.fixture
def manifest(tmp_path):
    """A function that writes and reads a manifest of two recordings."""
    for name, level in (("a", 0.1), ("b", 0.2)):
        np.save(tmp_path / f"{name}.npy", np.full(1250, level, np.complex64))

    def read(*rows):
        (tmp_path / "m.csv").write_text(HEAD + "".join(rows))
        return read_manifest(tmp_path / "m.csv", (TORINO, GENOVA), progress=False)

    return read


@pytest.fixture
def stored(catalogue, raw_iq_store, manifest):
    """Both servers, with the first session of the manifest."""
    ingest(catalogue, raw_iq_store, manifest(ONE), progress=False)
    return catalogue, raw_iq_store


def told(servers, sessions):
    """The only problem with the sessions; nothing of them may be stored."""
    catalogue, store = servers
    n_objects, n_sessions = len(store.list()), len(catalogue.sessions())
    with pytest.raises(ConflictError) as caught:
        ingest(catalogue, store, sessions, progress=False)
    assert (len(store.list()), len(catalogue.sessions())) == (n_objects, n_sessions)
    (problem,) = caught.value.problems
    return problem.rpartition("m.csv, ")[2]


def test_a_look_ahead_counts_known_sessions_and_writes_nothing(stored, manifest):
    """A dry run must find what the catalogue would refuse."""
    catalogue, store = stored
    assert look_ahead(catalogue, store, manifest(ONE, TWO)) == 1
    assert len(store.list()) == 1
    assert len(catalogue.sessions()) == 1


def test_a_look_ahead_creates_no_tables(database_url, raw_iq_store, manifest):
    """The database may be the wrong one."""
    with Catalogue(database_url) as catalogue:
        assert look_ahead(catalogue, raw_iq_store, manifest(ONE)) == 0
        with pytest.raises(CatalogueError):
            catalogue.sessions()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(-0.003, 0.003), st.floats(-0.003, 0.003))
def test_sources_and_stations_that_moved_are_all_refused(stored, north, east):
    """One name would stand for two places; 0.001 degrees are rounding."""
    source_at = 45.0 + north, 8.0 + east
    torino = Station("Torino", 45.044 + north, 7.672 + east)
    moved = new_session(stations=(torino, GENOVA))
    source = replace(moved.source, latitude_deg=source_at[0], longitude_deg=source_at[1])
    sessions = [replace(moved, source=source)]
    apart_deg = max(abs(north), abs(east))
    assume(abs(apart_deg - 0.001) > 1e-9)
    if apart_deg < 0.001:
        assert look_ahead(*stored, sessions) == 0
    else:
        with pytest.raises(ConflictError) as caught:
            look_ahead(*stored, sessions)
        first, second = caught.value.problems
        assert f"'Beacon' is in the catalogue at 45.0, 8.0, not at {source_at[0]}" in first
        assert f"'Torino' is in the catalogue at 45.044, 7.672, not at {source_at[0]:.0f}" in second


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        # Only the content shows that these are the same recording.
        ("one", "renamed", "'Torino' is stored already, in session 'one' of 'Beacon'"),
        ("one,Beacon", "one,Other", "'Torino' is stored already, in session 'one' of 'Beacon'"),
        ("T12", "T15", "'Torino' is stored already, in session 'one' of 'Beacon'"),
        # The object would be replaced, and its row would describe the old one.
        ("12500", "12000", "(Hz) 12500, not 12000"),
        ("145e6", "144e6", "(Hz) 145000000, not 144000000"),
        ("a.npy", "c.npy", "samples 1250, not 600"),
    ],
)
def test_stored_recordings_and_sessions_are_not_stored_otherwise(
    stored, manifest, tmp_path, old, new, value
):
    """A transmission stored twice may be on both sides of a split."""
    np.save(tmp_path / "c.npy", np.full(600, 0.3, np.complex64))
    problem = told(stored, manifest(ONE.replace(old, new)))
    assert problem.startswith("line 2: ")
    assert value in problem


def test_a_rejected_sessions_recordings_may_be_stored_again(stored, manifest):
    """This is how a wrong name or start is corrected."""
    catalogue, store = stored
    with catalogue.transaction() as connection:
        connection.execute("UPDATE heimdall.recording_sessions SET approval_status = 'rejected'")
    report = ingest(catalogue, store, manifest(ONE.replace("one", "right")), progress=False)
    assert report.sessions_added == 1


def test_another_recording_of_the_same_level_is_stored(stored, manifest, tmp_path):
    """All recordings of a constant carrier have the same level."""
    np.save(tmp_path / "b.npy", np.full(1250, 0.1j, np.complex64))
    catalogue, store = stored
    assert ingest(catalogue, store, manifest(TWO), progress=False).sessions_added == 1


def test_a_recording_whose_stored_object_is_gone_may_be_stored(stored, manifest):
    """Nothing can be learnt from the lost object."""
    catalogue, store = stored
    for found in store.list():
        store.delete(found.key)
    renamed = manifest(ONE.replace("one", "renamed"))
    assert ingest(catalogue, store, renamed, progress=False).sessions_added == 1


def test_the_same_bytes_twice_in_a_manifest_are_refused_unless_silent(manifest, tmp_path):
    """A receiver that is down records the same zeros every day."""
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    with pytest.raises(ManifestError, match=r"line 3: b\.npy .* a\.npy .* 2"):
        manifest(ONE, TWO)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros(1250, np.complex64))
    assert len(manifest(ONE, TWO)) == 2


def test_the_same_samples_in_another_container_are_the_same_recording(stored, manifest, tmp_path):
    """A program's WAV, and the raw samples that were cut out of it, are one transmission."""
    values = np.arange(2500, dtype="<i2")
    (tmp_path / "a.cs16").write_bytes(values.tobytes())
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setparams((2, 2, 12_500, 0, "NONE", None))
        file.writeframes(values.tobytes())
    raw, copy = ONE.replace("one", "raw").replace("a.npy", "a.cs16"), TWO.replace(".npy", ".wav")
    with pytest.raises(ManifestError, match=r"b\.wav has the same samples as a\.cs16"):
        manifest(raw, copy)
    ingest(*stored, manifest(raw), progress=False)
    problem = told(stored, manifest(copy))
    assert "'Torino' is stored already, in session 'raw' of 'Beacon'" in problem


def test_a_stream_is_compared_too_without_the_session_column(catalogue, raw_iq_store):
    """Simulated sessions with other settings, in a backend's older database."""
    with catalogue.transaction() as connection:
        connection.execute("ALTER TABLE heimdall.measurements DROP COLUMN recording_session_id")
    ingest(catalogue, raw_iq_store, [new_session()], progress=False)
    assert len(catalogue.sessions()[0].measurements) == 2
    longer = replace(new_session(), measurements=(new_recording(n_samples=512),))
    with pytest.raises(ConflictError, match="samples 256, not 512"):
        ingest(catalogue, raw_iq_store, iter([longer]), progress=False)
    assert {found.size for found in raw_iq_store.list()} == {2176}


@pytest.mark.parametrize(
    ("table", "kind", "name"),
    [("known_sources", "source", "Beacon"), ("websdr_stations", "station", "Torino")],
)
def test_a_name_that_was_changed_in_the_catalogue_is_refused(
    catalogue, raw_iq_store, table, kind, name
):
    """Its recordings must not be stored under the new name."""
    ingest(catalogue, raw_iq_store, [new_session()], progress=False)
    with catalogue.transaction() as connection:
        connection.execute(
            f"UPDATE heimdall.{table} SET name = 'New' WHERE id = %s", (name_id(kind, name),)
        )
    for sessions in ([new_session("later")], iter([new_session("later")])):
        with pytest.raises(ConflictError, match=f"{kind} '{name}' .*'New'"):
            ingest(catalogue, raw_iq_store, sessions, progress=False)
    assert len(catalogue.sessions()) == 1


@pytest.mark.parametrize(("stored", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_station_is_the_one_of_the_catalogue_in_either_spelling(
    catalogue, raw_iq_store, stored, typed
):
    """Of two stations that look the same, one would have half of the recordings."""
    first, second = (unicodedata.normalize(form, "Zürich") for form in (stored, typed))
    here, elsewhere = Station(second, 47.37, 8.54), Station(second, 47.40, 8.60)
    ingest(catalogue, raw_iq_store, [new_session("one", "Säntis", (here,))], progress=False)
    with catalogue.transaction() as connection:
        # As earlier versions and other systems may have written it.
        connection.execute("UPDATE heimdall.websdr_stations SET name = %s", (first,))
        connection.execute(
            "UPDATE heimdall.known_sources SET name = %s",
            (unicodedata.normalize(stored, "Säntis"),),
        )
    with pytest.raises(ConflictError, match=r"'Zürich' is in the catalogue at 47\.37, 8\.54"):
        ingest(catalogue, raw_iq_store, [new_session("two", stations=(elsewhere,))], progress=False)
    source = unicodedata.normalize(typed, "Säntis")
    ingest(catalogue, raw_iq_store, [new_session("two", source, (here,))], progress=False)
    assert [station.name for station in catalogue.stations()] == ["Zürich"]
    for only in (
        SessionFilter(),
        SessionFilter(stations=(second,), sources=(source,)),
        SessionFilter(stations=(first,)),
    ):
        sessions = catalogue.sessions(only)
        assert [s.measurements[0].station for s in sessions] == ["Zürich", "Zürich"]
        assert len({s.source_id for s in sessions}) == 1


def test_two_stations_of_one_look_count_as_one_and_are_told(catalogue, raw_iq_store, caplog):
    """Earlier versions stored the second; whoever runs the catalogue can merge them."""
    for name, station in (("one", "Zürich"), ("two", "Other")):
        there = (Station(station, 47.37, 8.54),)
        ingest(catalogue, raw_iq_store, [new_session(name, stations=there)], progress=False)
    with catalogue.transaction() as connection:
        connection.execute(
            "UPDATE heimdall.websdr_stations SET name = %s WHERE name = 'Other'",
            (unicodedata.normalize("NFD", "Zürich"),),
        )
    assert catalogue.sessions().n_sessions_of_stations() == {"Zürich": 2}
    assert "two spellings (Unicode NFC and NFD) count as one: 'Zürich'" in caplog.text
    assert len(catalogue.stations()) == 1


INSERT = "INSERT INTO heimdall.{} (id, name, latitude, longitude) VALUES (%s, %s, 45.0, 8.0)"


def ingesting(database_url, store, session, outcome):
    """A thread that ingests a session and appends its report or error to `outcome`."""

    def run():
        with Catalogue(database_url) as own:
            try:
                outcome.append(ingest(own, store, iter([session]), progress=False))
            except ConflictError as error:
                outcome.append(str(error))

    return threading.Thread(target=run)


def wait_for_a_lock(database_url):
    """Return when somebody waits for what our transaction has written."""
    with Catalogue(database_url) as watching:
        n_waiting = 0
        while not n_waiting:
            with watching.transaction() as connection:
                waiting = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
                (n_waiting,) = waiting.fetchone()


def test_180_and_minus_180_degrees_are_one_place(catalogue, raw_iq_store):
    """A position that was read from another map must not be refused as that of another place."""
    for name, east in (("one", 180.0), ("two", -180.0), ("three", 179.9999)):
        taveuni = Station("Taveuni", -16.8, east)
        session = new_session(name, stations=(taveuni,))
        source = replace(session.source, longitude_deg=east)
        ingest(catalogue, raw_iq_store, [replace(session, source=source)], progress=False)
    assert len(catalogue.sessions()) == 3


def test_two_ingestions_at_once_cannot_give_a_source_two_places(
    catalogue, database_url, raw_iq_store
):
    """The second's sessions would get the first's label."""
    elsewhere = new_session("later", stations=(TORINO,))
    elsewhere = replace(elsewhere, source=replace(elsewhere.source, latitude_deg=45.5))
    outcome = []
    thread = ingesting(database_url, raw_iq_store, elsewhere, outcome)
    with catalogue.transaction() as connection:
        identity = name_id("source", "Beacon")
        connection.execute(INSERT.format("known_sources"), (identity, "Beacon"))
        thread.start()
        wait_for_a_lock(database_url)
    thread.join(30)
    assert "'Beacon' is in the catalogue at 45.0, 8.0, not at 45.5, 8.0" in outcome[0]


def test_two_ingestions_at_once_never_deadlock(catalogue, database_url, raw_iq_store):
    """Postgres would end one of them, though neither is wrong."""
    ids = {name_id("station", name): name for name in ("S0", "S1")}
    ordered = [ids[identity] for identity in sorted(ids)]
    session = new_session(stations=tuple(Station(name, 45.0, 8.0) for name in ordered[::-1]))
    outcome = []
    thread = ingesting(database_url, raw_iq_store, session, outcome)
    with catalogue.transaction() as connection:
        for name in ordered:
            connection.execute(INSERT.format("websdr_stations"), (name_id("station", name), name))
            if name == ordered[0]:
                thread.start()
                wait_for_a_lock(database_url)
    thread.join(30)
    assert outcome[0].sessions_added == 1
