"""Manifests: the sessions they give, and the mistakes they report, all at once."""

import json
import math
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.recording import gps_ns_from_text
from hypothesis import HealthCheck, assume, given, settings
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
GOOD_ROWS = GOOD.splitlines(keepends=True)
quickly = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def campaign(tmp_path):
    """A folder of three recordings, and a function that writes a manifest there."""
    (tmp_path / "a").mkdir()
    for name, level in (("a/Torino", 0.1), ("a/Genova", 0.2), ("b", 0.3)):
        np.save(tmp_path / f"{name}.npy", np.full(1250, level, np.complex64))

    def write(rows, head=HEAD, name="m.csv"):
        (tmp_path / name).write_text(head + rows)
        return tmp_path / name

    return write


def told(path, stations=STATIONS):
    """The mistakes in the manifest, without its folder."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, stations, progress=False)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_rows_with_one_source_and_session_are_one_session(campaign):
    """A session's value in one row holds for all; paths are relative to the manifest."""
    one, two = read_manifest(campaign(GOOD), STATIONS, progress=False)
    assert (one.name, one.approval_status, len(one.measurements)) == ("one", "approved", 2)
    assert (two.name, two.approval_status) == ("two", "pending")
    assert two.start == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert two.measurements[0].station == STATIONS[1]
    assert one.source.frequency_hz == 145e6
    assert one.source.error_margin_m == 50


@quickly
@given(st.permutations(GOOD_ROWS), st.sampled_from(",;\t"))
def test_order_and_separator_do_not_matter(campaign, rows, separator):
    """Spreadsheets are sorted by any column, and write what their country uses."""
    sessions = read_manifest(campaign(GOOD), STATIONS, progress=False)
    other = campaign("".join(rows).replace(",", separator), HEAD.replace(",", separator))
    found = read_manifest(other, STATIONS, progress=False)
    for one, two in zip(sorted(found, key=lambda s: s.name), sessions, strict=True):
        assert (one.name, one.source, one.start) == (two.name, two.source, two.start)
        assert set(one.measurements) == set(two.measurements)


@quickly
@given(st.data())
def test_yaml_gives_the_same_as_csv(campaign, data):
    """Values of a session are in the session or in its recordings, in any mixture."""
    names = HEAD.strip().split(",")
    rows = [dict(zip(names, row.strip().split(","), strict=True)) for row in GOOD_ROWS]
    sessions = []
    for members in (rows[:2], rows[2:]):
        shared = data.draw(st.sets(st.sampled_from(["session", "source", "sample_rate_hz"])))
        recordings = [{k: v for k, v in row.items() if k not in shared} for row in members]
        sessions.append({k: members[0][k] for k in shared} | {"recordings": recordings})
    written = campaign(yaml.safe_dump({"sessions": sessions}), "", "m.yaml")
    expected = read_manifest(campaign(GOOD), STATIONS, progress=False)
    assert read_manifest(written, STATIONS, progress=False) == expected


def test_stations_may_be_in_the_manifest(campaign):
    """Somebody with two receivers needs no second file."""
    rows = "one,B,45,8,1e6,2026-03-01,12500,,,a/Torino.npy,45.1,7.7\n"
    (session,) = read_manifest(campaign(rows), progress=False)
    assert session.measurements[0].station == Station("Torino", 45.1, 7.7)


def test_stations_may_be_on_either_side_of_the_antimeridian(campaign):
    """180 and -180 degrees are one meridian; nobody has to look which one another row has."""
    rows = "".join(
        f"{n},B,-17,180,1e6,2026-03-01,12500,,Taveuni,{file},-16.8,{east}\n"
        for n, file, east in ((1, "a/Torino.npy", 180), (2, "b.npy", -180))
    )
    one, two = read_manifest(campaign(rows), progress=False)
    assert one.measurements[0].station == two.measurements[0].station


def test_paths_may_lead_out_of_the_manifests_folder(campaign, tmp_path):
    """The table may be in one place and the recordings on another disk."""
    (tmp_path / "tables").mkdir()
    rows = GOOD.replace("a/", "../a/").replace("b.npy", str(tmp_path / "b.npy"))
    assert len(read_manifest(campaign(rows, name="tables/m.csv"), STATIONS)) == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "value"),
    [
        ("145e6,2026-03-01T", "145 MHz,2026-03-01T", 2, "frequency_hz is '145 MHz'"),
        ("Beacon,45,", "Beacon,nan,", 2, "source_latitude is 'nan'"),
        ("Beacon,45,", 'Beacon,"45,1",', 2, "source_latitude is '45,1'"),
        ("Beacon,45,", "Beacon,46,", 4, "'Beacon' has source_latitude 45.0 here and 46.0"),
        ("Beacon,,", "Beacon,45.5,", 3, "source_latitude 45.5 here and 45.0"),
        ("Beacon,45,8", "Beacon,,8", 2, "source_latitude"),
        ("T12:00Z", "T25:00Z", 2, "start is '2026-03-01T25:00Z'"),
        ("T12:00Z", "T12:00:60Z", 2, "no leap second at '2026-03-01T12:00:60Z'"),
        ("2026-03-01T", "9999-12-31T", 2, "start is '9999-12-31T12:00Z'"),
        ("approved", "Approved", 2, "approval is 'Approved'"),
        ("two,", ",", 4, "session"),
        ("b.npy", "", 4, "file"),
        ("b.npy", "c.npy", 4, "c.npy"),
        ("b.npy", f"{'x' * 300}.npy", 4, "(File name too long)"),
        ("b.npy", "a", 4, "a: not a file"),
        ("b.npy", "a/Torino.npy", 4, "Torino.npy is in m.csv, line 2"),
        ("b.npy", "m.csv", 4, "m.csv: '.csv'"),
        ("Genova,b", "Genua,b", 4, "'Genua'"),
        ("b.npy,,", "b.npy,44.5,8.956", 4, "'Genova' has station_latitude 44.5"),
        ("b.npy,,", "b.npy,44.5,", 4, "station_latitude"),
        ("13:00,12500", "13:00,", 4, "b.npy: "),
        ("2026-03-01 13:00", "", 4, "'Beacon'"),
        (",8.0,145e6", ",8.0,1e40", 4, "frequency_hz is 1e+40"),
        ("two,Beacon,45.0,8.0,145e6,2026-03-01 13:00", "one,,,,,", 4, "source"),
        ("two,Beacon,45.0,8.0,145e6,2026-03-01 13:00", "one,Beacon,,,,", 2, "2 recordings"),
        ("two,Beacon,45.0", "two,Other,145", 4, "latitude_deg is 145.0"),
    ],
)
def test_a_mistake_is_reported_once_with_line_and_value(campaign, old, new, line, value):
    """No other row is blamed for it."""
    assert GOOD.count(old) == 1
    (only,) = told(campaign(GOOD.replace(old, new)))
    assert only.startswith(f"m.csv, line {line}: ")
    assert value in only


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=',"\t;'))


@quickly
@given(st.sampled_from(GOOD_ROWS), st.integers(0, 11), cells)
def test_any_text_in_a_cell_is_a_value_or_a_mistake_with_its_line(campaign, row, column, text):
    """Nobody should see a traceback because of a mistyped cell."""
    values = row.rstrip("\n").split(",")
    assume(text.strip() != values[column] and len(text.splitlines()) < 2)
    values[column] = text
    path = campaign("".join(",".join(values) + "\n" if each is row else each for each in GOOD_ROWS))
    try:
        lines = []
        read_manifest(path, STATIONS, progress=False, warn=lines.append)
    except ManifestError as error:
        lines = error.problems
    assert all(line.startswith(f"{path}, line ") for line in lines)


def test_unknown_and_missing_columns_are_named(campaign):
    """The values of a misspelt column would be lost silently."""
    head = HEAD.replace("source_latitude", "source_lat").replace("approval", "approvel")
    problems = told(campaign(GOOD, head))
    expected = [("source_lat", "source_latitude"), ("approvel", "approval"), ("source_latitude",)]
    for problem, names in zip(problems, expected, strict=True):
        assert all(repr(name) in problem for name in names)


def test_a_source_may_be_placed_by_annotations(campaign, tmp_path):
    """Without columns for it; where nothing says where it is, the session is refused."""
    for name, east in (("one", 8.0), ("two", 9.0)):
        (tmp_path / f"{name}.sigmf-data").write_bytes(np.full(9, east / 10, "<c8").tobytes())
        place = {"type": "Point", "coordinates": [east, 45.0]}
        meta = {
            "global": {"core:datatype": "cf32_le", "core:sample_rate": 12_500},
            "captures": [{"core:frequency": 145e6, "core:datetime": "2026-03-01T12:00:00Z"}],
            "annotations": [{"signal:emitter": {"geolocation": place}}],
        }
        (tmp_path / f"{name}.sigmf-meta").write_text(json.dumps(meta))
    head = "session,source,station,sample_rate_hz,frequency_hz,start,file\n"
    rows = "one,Beacon,Torino,,,,one.sigmf-meta\n"
    (session,) = read_manifest(campaign(rows, head), STATIONS, progress=False)
    assert (session.source.latitude_deg, session.source.longitude_deg) == (45.0, 8.0)
    (problem,) = told(campaign(rows + rows.replace("one", "two"), head))
    assert "line 3: source 'Beacon' is at 45.0, 9.0 here and at 45.0, 8.0 in m.csv, l" in problem
    bare = "two,Other,Genova,12500,145e6,2026-03-01,b.npy\n"
    (problem,) = told(campaign(rows + bare, head))
    assert problem.startswith("m.csv, line 3: the position of source 'Other' is not given; give")
    (problem,) = told(campaign(rows, head.replace("start,", "source_latitude,")))
    assert problem == "m.csv: no column 'source_longitude'; add it"


def test_all_mistakes_come_at_once(campaign, tmp_path):
    """Those in the table, missing files, and files that cannot be decoded."""
    (tmp_path / "b.npy").write_bytes(b"not NumPy")
    rows = GOOD.replace("a/Torino.npy", "a/Turin.npy")
    rows += "three,Beacon,45,8,x,2026-03-01,1,,,none.npy,,\n"
    assert [problem.split(":")[0][-1] for problem in told(campaign(rows))] == ["2", "5", "5", "4"]


def test_twenty_mistakes_are_listed_and_the_rest_counted(campaign):
    """More would scroll the first ones away."""
    rows = "".join(f"s{n},B,45,8,1e6,2026-03-01,1,,x,{n}.npy,1,2\n" for n in range(50))
    with pytest.raises(ManifestError, match="30 more") as caught:
        read_manifest(campaign(rows), progress=False)
    assert len(caught.value.problems) == 20
    assert "50 mistakes" in caught.value.summary


def test_a_file_that_changes_after_the_check_leaves_no_row(
    campaign, tmp_path, catalogue, raw_iq_store
):
    """A recorder may still be writing: only what was checked is stored."""
    manifest = read_manifest(campaign(GOOD), STATIONS, progress=False)
    np.save(tmp_path / "b.npy", np.full(1250, 0.4, np.complex64))
    with pytest.raises(IngestError, match=r"b\.npy"):
        ingest(catalogue, raw_iq_store, manifest, progress=False)
    assert len(catalogue.sessions()) + sum(catalogue.rejected_counts().values()) == 0


def test_recordings_are_not_kept_in_memory(campaign, tmp_path, catalogue, raw_iq_store):
    """A year of recordings is larger than any machine's memory."""
    n_files, n_samples = 24, 2**17
    for n in range(n_files):
        np.save(tmp_path / f"{n}.npy", np.full(n_samples, (n + 1) / n_files, np.complex64))
    rows = "".join(f"s{n},B,45,8,1e6,2026-03-01,12500,,x,{n}.npy,45,8\n" for n in range(n_files))
    tracemalloc.start()
    try:
        sessions = read_manifest(campaign(rows), progress=False)
        assert ingest(catalogue, raw_iq_store, sessions, progress=False).objects_stored == n_files
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 0.75 * n_files * 8 * n_samples


def test_a_row_may_state_its_start_to_the_nanosecond_and_its_uncertainty(campaign):
    """NumPy files of receivers with a clock of their own can then be located and trained on."""
    head = HEAD.replace("\n", ",start_time,start_uncertainty_s\n")
    row = "one,Beacon,45,8,145e6,,12500,approved,{},{},,,{},{}\n"
    rows = [
        ("Torino", "a/Torino.npy", "2026-03-01T12:00:00.123456789Z", "2e-7"),
        ("Genova", "a/Genova.npy", "1456401618.000000001", ""),
    ]
    path = campaign("".join(row.format(*each) for each in rows), head)
    (session,) = read_manifest(path, STATIONS, progress=False)
    found = [decode(each.content()[0], each.format, name="a") for each in session.measurements]
    noon_ns = gps_ns_from_text("2026-03-01T12:00:00Z")
    assert [one.start_gps_ns - noon_ns for one in found] == [123_456_789, 1]
    assert [one.clock_sigma_s for one in found] == [2e-7, math.inf]
    assert session.start == datetime(2026, 3, 1, 12, tzinfo=UTC)
    leap = campaign(row.format("Torino", "a/Torino.npy", "2016-12-31T23:59:60.5Z", "1e-7"), head)
    (session,) = read_manifest(leap, STATIONS, progress=False)
    assert session.start == datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    wrong = row.format("Torino", "a/Torino.npy", "noon", "-1")
    (start, uncertainty) = told(campaign(wrong, head))
    assert "start_time is 'noon'" in start
    assert "start_uncertainty_s is '-1'" in uncertainty


def test_a_row_may_state_the_full_scale_of_its_floats(campaign):
    """Receivers of one campaign have converters of 8, 12 and 16 bits."""
    head = HEAD.replace("\n", ",full_scale\n")
    row = "one,Beacon,45,8,145e6,2026-03-01T12:00Z,12500,approved,,{},,,{}\n"
    path = campaign(row.format("a/Torino.npy", "0.4") + row.format("a/Genova.npy", ""), head)
    (session,) = read_manifest(path, STATIONS, progress=False)
    found = {one.station.name: one for one in session.measurements}
    assert {name: one.format for name, one in found.items()} == {"Torino": "sigmf", "Genova": "npy"}
    scaled = decode(found["Torino"].content()[0], "sigmf", name="a")
    np.testing.assert_allclose(scaled.iq, 0.25)
    (problem,) = told(campaign(row.format("a/Torino.npy", "0"), head))
    assert "full_scale is '0'" in problem
