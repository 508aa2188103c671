"""`heimdall ingest` at the command line, on real servers: files, folders and manifests."""

import numpy as np
import pytest
from heimdall_data import Catalogue

pytestmark = pytest.mark.slow

STATIONS = "name,latitude,longitude\nTorino,45.044,7.672\nGenova,44.395,8.956\n"
COLUMNS = "source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,approval,file"
MANIFEST = f"""session,source,{COLUMNS}
one,Beacon,45,8,145e6,2026-03-01T12:00Z,12500,approved,a/Torino.npy
one,Beacon,,,,,12500,,a/Genova.npy
two,Other,45.5,8.5,145e6,2026-03-01T13:00Z,12500,approved,b/Genova.npy
"""
SOURCE = ("--source", "Beacon", "--latitude", "45", "--longitude", "8", "--frequency-hz", "145e6")
ONE = (*SOURCE, "--stations", "stations.csv", "--start", "2026-03-01", "--sample-rate-hz", "12500")


@pytest.fixture
def folder(tmp_path):
    """Two transmissions, their stations and a manifest."""
    for name, level in (("a/Torino", 0.1), ("a/Genova", 0.2), ("b/Genova", 0.3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.full(1250, level, np.complex64))
    (tmp_path / "stations.csv").write_text(STATIONS)
    (tmp_path / "m.csv").write_text(MANIFEST)
    return tmp_path


@pytest.fixture
def heimdall(run_heimdall, empty, folder):
    """Run `heimdall ingest` on an empty database; its status, output and error."""

    def run(*words, **variables):
        finished = run_heimdall("ingest", *words, connections=empty, **variables)
        return finished.returncode, finished.stdout.strip(), finished.stderr.strip()

    return run


@pytest.fixture
def stored(database_url):
    """The names of the usable sessions, and how many recordings each has."""

    def names():
        with Catalogue(database_url) as catalogue:
            catalogue.create_schema()
            return {each.session_name: len(each.measurements) for each in catalogue.sessions()}

    return names


def test_a_manifest_is_stored_once_however_often_it_is_given(heimdall, stored):
    """And a look at it first stores nothing."""
    told = ("manifest", "m.csv", "--stations", "stations.csv")
    status, out, _ = heimdall(*told, "--dry-run")
    assert (status, out) == (
        0,
        "in order: 2 sessions of 3 recordings, 0 known before; nothing was stored",
    )
    assert stored() == {}
    status, out, _ = heimdall(*told)
    assert status == 0
    assert out.startswith("2 sessions added, 0 known before; 3 objects stored")
    assert stored() == {"one": 2, "two": 1}
    assert heimdall(*told)[1].startswith("0 sessions added, 2 known before; 0 objects stored")
    assert "2 known before; nothing was stored" in heimdall(*told, "--dry-run")[1]


def test_a_dry_run_finds_what_the_catalogue_has_against_it(heimdall, stored, folder):
    """Else it is seen when the real run is begun, at night."""
    assert heimdall("manifest", "m.csv", "--stations", "stations.csv")[0] == 0
    (folder / "m.csv").write_text(MANIFEST.replace("two,Other", "three,Other"))
    status, out, err = heimdall("manifest", "m.csv", "--stations", "stations.csv", "--dry-run")
    assert (status, out) == (1, "")
    assert err.startswith("heimdall: m.csv, line 4: ")
    assert "stored already, in session 'two' of 'Other' (" in err
    (folder / "m.csv").write_text(
        MANIFEST.replace("45", "45.6").replace("Other,45.6.5", "Other,45")
    )
    status, _, err = heimdall("manifest", "m.csv", "--stations", "stations.csv", "--dry-run")
    assert (status, len(err.splitlines())) == (1, 3)
    assert err.endswith("heimdall: 2 conflicts with the catalogue; correct them")


def test_a_dry_run_without_a_catalogue_says_that_none_was_asked(heimdall):
    """Tables are made where there is no server."""
    told = ("manifest", "m.csv", "--stations", "stations.csv", "--dry-run")
    status, out, _ = heimdall(*told, HEIMDALL_DATABASE_URL="")
    assert status == 0
    assert out == (
        "in order: 2 sessions of 3 recordings; nothing was stored; "
        "HEIMDALL_DATABASE_URL is unset: no catalogue asked"
    )


def test_files_have_a_dry_run_and_warnings_too(heimdall, stored):
    """One session can be as wrong as many."""
    one = [word.replace("145e6", "145") for word in ONE]
    status, out, err = heimdall("b", *one, "--dry-run")
    assert (status, stored()) == (0, {})
    assert out == "in order: 1 session of 1 recording, 0 known before; nothing was stored"
    assert err.startswith("warning: session 'Beacon 2026-03-01 00:00:00' of 'Beacon': a frequency")
    far = ["-45" if word == "45" else word for word in ONE]
    status, _, err = heimdall("b", *far, "--dry-run")
    assert status == 1
    assert err.endswith("the latitude's sign looks wrong; if it is right, give --allow-far")
    assert heimdall("b", *far, "--dry-run", "--allow-far")[0] == 0
    leap = [word.replace("2026-03-01", "2016-12-31T23:59:60Z") for word in ONE]
    assert heimdall("b", *leap, "--dry-run")[0] == 0


def test_each_mistake_of_a_manifest_is_a_line_of_its_own(heimdall, stored, folder):
    """Twenty on one line could not be read; and nothing of the good sessions is stored."""
    lost = "m.csv, line 4: there is no b/Genua.npy; correct the path"
    text = MANIFEST.replace("b/Genova", "b/Genua")
    (folder / "m.csv").write_text(text)
    told = ("manifest", "m.csv", "--stations", "stations.csv")
    assert heimdall(*told) == (1, "", f"heimdall: {lost}")
    (folder / "m.csv").write_text(text.replace("approved,a", "yes,a"))
    status, out, err = heimdall(*told)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "m.csv, line 2: approval is 'yes'; it must be one of pending, approved, rejected",
        lost,
        "heimdall: m.csv: 2 mistakes, nothing was written; correct them",
    ]
    assert stored() == {}


def test_a_folder_is_one_session_of_all_recordings_in_it(heimdall, stored):
    """The shortest way from a campaign's folder to a sample."""
    status, out, _ = heimdall("a", *ONE, "--approval", "approved", "--name", "morning")
    assert status == 0, out
    assert stored() == {"morning": 2}


@pytest.mark.parametrize("name", ["none.wav", "none/Torino.npy"])
def test_a_file_that_is_not_there_is_named_and_no_station_blamed(heimdall, name):
    """A misspelt path is the commonest mistake of all."""
    status, _, err = heimdall(name, *ONE)
    assert (status, err) == (1, f"heimdall: there is no {name}; correct the path")
