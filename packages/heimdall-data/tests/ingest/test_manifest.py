"""Manifests: what they make, what they refuse, and that all of it is told at once."""

import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from hypothesis import given
from hypothesis import strategies as st

HEAD = (
    "session,source,source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,approval,"
    "station,file,station_latitude,station_longitude\n"
)
STATIONS = (Station("Torino", 45.044, 7.672), Station("Genova", 44.395, 8.956))
GOOD = (
    "one,Beacon,45,8,145e6,2026-03-01T12:00Z,12500,approved,,a/Torino.npy,,\n"
    "one,Beacon,,,,,12500,,,a/Genova.npy,,\n"
    "two,Beacon,45.0,8.0,145e6,2026-03-01 13:00,12500,,Genova,b.npy,,\n"
)
YAML = """
sessions:
  - session: one
    source: Beacon
    source_latitude: 45
    source_longitude: 8
    frequency_hz: 145e6
    start: 2026-03-01T12:00Z
    sample_rate_hz: 12500
    approval: approved
    recordings: [a/Torino.npy, a/Genova.npy]
  - session: two
    source: Beacon
    source_latitude: 45
    source_longitude: 8
    frequency_hz: 145e6
    start: 2026-03-01 13:00
    sample_rate_hz: 12500
    recordings:
      - {file: b.npy, station: Genova}
"""


@pytest.fixture
def campaign(tmp_path):
    """A folder of three recordings; what makes a manifest of these rows in it."""
    (tmp_path / "a").mkdir()
    for name, level in (("a/Torino", 0.1), ("a/Genova", 0.2), ("b", 0.3)):
        np.save(tmp_path / f"{name}.npy", np.full(1250, level, np.complex64))

    def write(rows, head=HEAD, name="m.csv"):
        (tmp_path / name).write_text(head + rows)
        return tmp_path / name

    return write


def told(path, stations=STATIONS):
    """The mistakes that reading the manifest tells, without its folder."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, stations, progress=False)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_rows_with_one_source_and_session_are_one_session(campaign):
    """What is said of the session in one row holds for all; files are found from the manifest."""
    one, two = read_manifest(campaign(GOOD), STATIONS, progress=False)
    assert (one.name, one.approval_status, len(one.measurements)) == ("one", "approved", 2)
    assert (two.name, two.approval_status) == ("two", "pending")
    assert two.start == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert two.measurements[0].station == STATIONS[1]
    assert one.source.frequency_hz == 145e6
    assert one.source.error_margin_m == 50


def test_yaml_says_the_same_as_csv(campaign):
    """Two ways to write it, and one meaning."""
    csv, yaml = campaign(GOOD), campaign(YAML, "", "m.yaml")
    assert list(read_manifest(csv, STATIONS)) == list(read_manifest(yaml, STATIONS))


def test_a_manifest_is_ingested_and_again_changes_nothing(campaign, catalogue, raw_iq_store):
    """The operator adds rows to the same file for years."""
    manifest = read_manifest(campaign(GOOD), STATIONS, progress=False)
    report = ingest(catalogue, raw_iq_store, manifest, progress=False)
    assert (report.sessions_added, report.objects_stored) == (2, 3)
    again = ingest(catalogue, raw_iq_store, manifest, progress=False)
    assert (again.sessions_known, again.objects_unchanged, again.sessions_added) == (2, 3, 0)
    assert [session.session_name for session in catalogue.sessions()] == ["one"]
    assert catalogue.rejected_counts() == {"not approved yet": 1}


def test_a_source_elsewhere_in_the_catalogue_stops_before_anything_is_stored(
    campaign, catalogue, raw_iq_store
):
    """It may be known only to the catalogue, and be of the last of a thousand sessions."""
    ingest(catalogue, raw_iq_store, read_manifest(campaign(GOOD), STATIONS), progress=False)
    n_objects = len(raw_iq_store.list())
    rows = GOOD.replace("Beacon", "New").replace("two,New,45.0", "two,Beacon,46.0")
    moved = read_manifest(campaign(rows), STATIONS, progress=False)
    with pytest.raises(IngestError, match=r"'Beacon' is in the catalogue at 45.0, 8.0 .* 46.0"):
        ingest(catalogue, raw_iq_store, moved, progress=False)
    assert len(raw_iq_store.list()) == n_objects
    assert len(catalogue.sessions()) == 1


def test_stations_may_be_in_the_manifest(campaign):
    """Somebody with two receivers needs no second file."""
    rows = "one,B,45,8,1e6,2026-03-01,12500,,,a/Torino.npy,45.1,7.7\n"
    (session,) = read_manifest(campaign(rows), progress=False)
    assert session.measurements[0].station == Station("Torino", 45.1, 7.7)


def test_paths_may_lead_out_of_the_manifests_folder(campaign, tmp_path):
    """A table in one place, the recordings on another disk."""
    (tmp_path / "tables").mkdir()
    rows = GOOD.replace("a/", "../a/").replace("b.npy", str(tmp_path / "b.npy"))
    assert len(read_manifest(campaign(rows, name="tables/m.csv"), STATIONS)) == 2


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("145e6,2026-03-01T", "145 MHz,2026-03-01T", "line 2: frequency_hz is '145 MHz'; give a"),
        ("Beacon,45,", "Beacon,nan,", "line 2: source_latitude is 'nan'; give a finite number"),
        ("Beacon,45,", 'Beacon,"45,1",', "finite number with a decimal point"),
        ("Beacon,45,", "Beacon,46,", "line 4: source 'Beacon' is at 45.0, 8.0 here and at 46.0"),
        ("Beacon,,", "Beacon,45.5,", "line 3: session 'one' of 'Beacon' has source_latitude 45.5"),
        ("T12:00Z", "T25:00Z", "line 2: start is '2026-03-01T25:00Z'; write it as 2026-"),
        ("approved", "Approved", "line 2: approval is 'Approved'; it must be one of pending"),
        ("two,", ",", "line 4: no session; every row has one"),
        ("b.npy", "", "line 4: no file; every row has one"),
        ("b.npy", "c.npy", "line 4: there is no c.npy; correct the path"),
        ("a/Genova", "a\\Genova", "line 3: there is no a\\Genova.npy; write / between folders"),
        ("b.npy", "a", "line 4: a is a folder; give each recording a row"),
        ("b.npy", "a/Torino.npy", "line 4: Torino.npy is in m.csv, line 2 already; remove one"),
        ("b.npy", "m.csv", "line 4: m.csv: '.csv' is none of .npy"),
        ("Genova,b", "Genua,b", "the position of station 'Genua' is not given; did you mean"),
        ("b.npy,,", "b.npy,44.5,8.956", "line 4: station 'Genova' is at 44.5, 8.956 here and at"),
        ("b.npy,,", "b.npy,44.5,", "line 4: one of station_latitude and station_longitude; give"),
        ("13:00,12500", "13:00,", "line 4: b.npy: a NumPy file does not hold its sample rate"),
        ("2026-03-01 13:00", "", "line 4: none of the 1 files of 'Beacon' tells when"),
        (",8.0,145e6", ",8.0,1e40", "frequency 1e+40 Hz"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_remedy(campaign, old, new, problem):
    """One mistake, one message: no other row is blamed for it."""
    assert GOOD.count(old) == 1
    (only,) = told(campaign(GOOD.replace(old, new)))
    assert only.startswith("m.csv, line ")
    assert problem in only


def test_a_station_is_in_a_session_once(campaign):
    """Two rows of one receiver are two transmissions, or one of them is misspelt."""
    rows = GOOD.replace("two,", "one,").replace("2026-03-01 13:00", "")
    (only,) = told(campaign(rows))
    assert only.startswith("m.csv, line 4: station 'Genova' is in this session already (m.csv, l")


def test_a_latitude_off_the_globe_is_told_with_its_line(campaign):
    """Swapped coordinates are the mistake that no other check would find."""
    (only,) = told(campaign("one,B,145,8,1e6,2026-03-01,12500,,Genova,b.npy,,\n"))
    assert only.startswith("m.csv, line 2: session 'one' of source 'B': position 145.0, 8.0 is not")


def test_columns_are_known_by_name(campaign):
    """A misspelt column that is left out silently would lose what it says."""
    head = HEAD.replace("source_latitude", "source_lat").replace("approval", "approvel")
    assert told(campaign(GOOD, head)) == [
        "m.csv, line 1: unknown column 'source_lat'; did you mean 'source_latitude'?",
        "m.csv, line 1: unknown column 'approvel'; did you mean 'approval'?",
        "m.csv: no column 'source_latitude'; is it 'source_lat'?",
    ]


def test_all_mistakes_come_at_once(campaign, tmp_path):
    """Of the table, of the files that are missing, and of those that do not decode."""
    (tmp_path / "b.npy").write_bytes(b"not NumPy")
    rows = GOOD.replace("a/Torino.npy", "a/Turin.npy")
    rows += "three,Beacon,45,8,x,2026-03-01,1,,,none.npy,,\n"
    problems = told(campaign(rows))
    lines = [problem.split(":")[0] for problem in problems]
    assert lines == ["m.csv, line 5", "m.csv, line 2", "m.csv, line 5", "m.csv, line 4"]


def test_a_path_that_no_disk_can_hold_is_told_with_its_line(campaign):
    """A cell that slipped into the wrong column; the other mistakes are told with it."""
    long = "x" * 300
    problems = told(campaign(GOOD.replace("b.npy", f"{long}.npy").replace("approved", "yes")))
    assert problems[0].startswith("m.csv, line 2: approval is 'yes'")
    assert problems[1] == (
        f"m.csv, line 4: cannot reach {long}.npy (File name too long); correct the path, or its "
        f"permissions"
    )


def test_twenty_mistakes_are_told_and_the_rest_counted(campaign):
    """More would scroll the first ones away."""
    rows = "".join(f"s{n},B,45,8,1e6,2026-03-01,1,,x,{n}.npy,1,2\n" for n in range(50))
    with pytest.raises(ManifestError, match=r"\.\.\. and 30 more") as caught:
        read_manifest(campaign(rows), progress=False)
    assert len(caught.value.problems) == 20
    assert "50 mistakes, nothing was written" in caught.value.summary


def test_a_file_that_changes_after_the_check_is_refused(
    campaign, tmp_path, catalogue, raw_iq_store
):
    """A recorder that still writes, or a sync that runs: what is stored is what was checked."""
    manifest = read_manifest(campaign(GOOD), STATIONS, progress=False)
    np.save(tmp_path / "b.npy", np.full(1250, 0.4, np.complex64))
    with pytest.raises(IngestError, match=r"b\.npy: changed since it was checked"):
        ingest(catalogue, raw_iq_store, manifest, progress=False)
    assert len(catalogue.sessions()) + sum(catalogue.rejected_counts().values()) == 0


def test_recordings_are_not_kept_in_memory(campaign, tmp_path):
    """A year of recordings is larger than any machine."""
    n_files, n_samples = 12, 2**18
    for n in range(n_files):
        np.save(tmp_path / f"{n}.npy", np.full(n_samples, n + 1, np.complex64))
    rows = "".join(f"s{n},B,45,8,1e6,2026-03-01,12500,,x,{n}.npy,45,8\n" for n in range(n_files))
    tracemalloc.start()
    try:
        for session in read_manifest(campaign(rows), progress=False):
            assert len(session.measurements[0].payload) > 8 * n_samples
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 0.75 * n_files * 8 * n_samples


@given(st.permutations(GOOD.splitlines(keepends=True)))
def test_the_order_of_rows_does_not_matter(tmp_path_factory, rows):
    """Spreadsheets are sorted by whatever column was clicked last."""
    folder = tmp_path_factory.mktemp("order")
    (folder / "a").mkdir()
    for level, name in enumerate(("a/Torino", "a/Genova", "b"), 1):
        np.save(folder / f"{name}.npy", np.full(8, level, np.complex64))
    (folder / "m.csv").write_text(HEAD + "".join(rows))
    sessions = read_manifest(folder / "m.csv", STATIONS, progress=False)
    found = {(s.name, s.start.hour, m.station.name) for s in sessions for m in s.measurements}
    assert found == {("one", 12, "Torino"), ("one", 12, "Genova"), ("two", 13, "Genova")}
