"""Files on disk as a session to ingest."""

import csv
import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError, RecordingError
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import (
    new_session_from_files,
    require_position,
    stations_from_csv,
)
from heimdall_data.recordings.sigmf_emitter import ESTIMATE_KEY
from heimdall_features.names import is_printable
from heimdall_features.testing import hostile_names
from hypothesis import assume, given
from hypothesis import strategies as st

SOURCE = NewSource(name="beacon", latitude_deg=45.0, longitude_deg=7.0, frequency_hz=145e6)
STATIONS = (Station("Torino", 45.044, 7.672), Station("Genova", 44.395, 8.956))
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def torino(tmp_path):
    """A NumPy file with its station in its name."""
    path = tmp_path / "websdr_Torino.npy"
    np.save(path, np.full(12_500, 0.5, np.complex64))
    return path


def test_numpy_files_become_a_session(torino):
    """The commonest case: one's own arrays, and a source at a known position."""
    session = new_session_from_files([torino], SOURCE, STATIONS, start=START, sample_rate_hz=12_500)
    assert (session.name, session.start) == ("beacon 2026-01-02 03:04:05", START)
    assert session.duration_s == 1
    (recording,) = session.measurements
    assert recording.content() == (torino.read_bytes(), None)
    assert (recording.station, recording.format) == (STATIONS[0], "npy")
    assert (recording.n_samples, recording.frequency_hz) == (12_500, 145e6)
    assert recording.signal_strength_db == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"paths": []}, "'beacon'"),
        ({"stations": STATIONS[1:]}, "'Torino' is not given; add it to the table of --stations"),
        ({"stations": [Station("Turino", 45.0, 7.0)]}, "'Turino'"),
        ({"start": None}, "'beacon'.* give --start"),
        ({"start": datetime.max.replace(tzinfo=UTC)}, "9999"),
        ({"sample_rate_hz": None}, "websdr_Torino.npy: .* no sample rate; give --sample-rate-hz"),
        ({"source": NewSource(name="x", latitude_deg=1.0, longitude_deg=1.0)}, "'x'"),
        ({"paths": ["none/Torino.npy"]}, "none/Torino.npy"),
        ({"paths": [__file__]}, "'.py'"),
    ],
)
def test_missing_and_wrong_values_are_named(torino, change, value):
    """The person at the keyboard knows what the file does not contain."""
    given = {"paths": [torino], "source": SOURCE, "stations": STATIONS}
    with pytest.raises(IngestError, match=value):
        new_session_from_files(**given | {"start": START, "sample_rate_hz": 12_500} | change)


UNPLACED = replace(SOURCE, latitude_deg=None, longitude_deg=None)


@pytest.fixture
def annotated(tmp_path):
    """A function that writes a SigMF recording of a station, its transmitter at a place."""

    def write(station, latitude_deg, longitude_deg, **more):
        about = {"core:datatype": "cf32_le", "core:sample_rate": 12_500.0, "core:version": "1.2.0"}
        place = {"type": "Point", "coordinates": [longitude_deg, latitude_deg]}
        annotation = {"core:sample_start": 0, "spatial:emitter_location": place, **more}
        captures = [{"core:sample_start": 0, "core:datetime": "2026-01-02T03:04:05Z"}]
        meta = {"global": about, "captures": captures, "annotations": [annotation]}
        path = tmp_path / f"{station}.sigmf-meta"
        path.write_text(json.dumps(meta))
        samples = np.full(100, ord(station[0]) / 128, np.complex64)
        path.with_suffix(".sigmf-data").write_bytes(samples.tobytes())
        return path

    return write


def test_a_source_without_a_position_is_where_annotations_place_it(annotated):
    """A campaign that wrote it into every recording needs no table."""
    paths = [annotated("Torino", 45.1, 7.1), annotated("Genova", 45.1004, 7.1)]
    source = new_session_from_files(paths, UNPLACED, STATIONS).source
    assert (source.latitude_deg, source.longitude_deg) == (45.1, 7.1)
    # What the person at the keyboard says counts more.
    given_source = new_session_from_files(paths, SOURCE, STATIONS, warn=len).source
    assert (given_source.latitude_deg, given_source.longitude_deg) == (45.0, 7.0)
    annotated("Genova", 45.2, 7.1)
    with pytest.raises(IngestError, match=r"'beacon' is at 45.1, 7.1 by Torino.*45.2, 7.1 by Gen"):
        new_session_from_files(paths, UNPLACED, STATIONS)


def test_an_estimate_is_no_position(annotated):
    """A model that learnt from answers would learn their errors."""
    path = annotated("Torino", 45.1, 7.1, **{ESTIMATE_KEY: {"probability": 1.0}})
    session = new_session_from_files([path], UNPLACED, STATIONS)
    assert (session.source.latitude_deg, session.source.longitude_deg) == (None, None)
    with pytest.raises(IngestError, match=r"'beacon' is not given; Torino.*is an estimate.*--lat"):
        require_position(session)
    with pytest.raises(IngestError, match=r"'beacon' is not given; give --latitude"):
        require_position(replace(session, measurements=()))


def test_a_recording_that_cannot_be_decoded_is_not_ingested(torino):
    """It can be repaired now, but hardly a month later."""
    torino.write_bytes(torino.read_bytes()[:-8])
    with pytest.raises(RecordingError, match=r"websdr_Torino\.npy: truncated"):
        new_session_from_files([torino], SOURCE, STATIONS, start=START, sample_rate_hz=1.0)


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8).filter(
    is_printable
)
altitudes = st.none() | st.floats(-1_000, 100_000)
listed = st.builds(Station, names, st.floats(-90, 90), st.floats(-180, 180), altitudes)


@given(st.lists(listed, min_size=1, max_size=5, unique_by=lambda station: station.name))
def test_stations_come_back_from_a_spreadsheet(tmp_path_factory, stations):
    """Spreadsheets put a mark before the first name and leave cells empty."""
    path = tmp_path_factory.mktemp("stations") / "stations.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        rows = [(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m) for s in stations]
        csv.writer(file).writerows([("name", "latitude", "longitude", "altitude_m"), *rows])
    assert stations_from_csv(path) == tuple(stations)


MAC, KEYBOARD = (unicodedata.normalize(form, "Zürich") for form in ("NFD", "NFC"))


@pytest.mark.parametrize("spelt", [MAC, KEYBOARD])
def test_a_file_from_a_mac_is_of_the_station_on_the_list(tmp_path, spelt):
    """They look the same, so "did you mean" could not help; nor would a second station."""
    (tmp_path / MAC).mkdir()
    np.save(tmp_path / MAC / f"{MAC}.npy", np.full(12_500, 0.5, np.complex64))
    csv_path = tmp_path / "stations.csv"
    csv_path.write_text(f"name,latitude,longitude\n{spelt},47.37,8.54\n", encoding="utf-8")
    session = new_session_from_files(
        [tmp_path / spelt / f"{spelt}.npy"],
        replace(SOURCE, name=f"{spelt} beacon"),
        stations_from_csv(csv_path),
        start=START,
        sample_rate_hz=12_500,
    )
    assert session.measurements[0].station == Station(KEYBOARD, 47.37, 8.54)
    assert session.name.startswith(f"{KEYBOARD} beacon")


@given(hostile_names())
def test_a_station_whose_name_cannot_be_shown_is_not_read(tmp_path_factory, name):
    """The list is for ingestion and for `heimdall locate`: one rule for the names of both."""
    path = tmp_path_factory.mktemp("stations") / "stations.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [("name", "latitude", "longitude"), (name.replace("\ud800", ""), 1.0, 2.0)]
        csv.writer(file).writerows(rows)
    assume(name.strip() == name.replace("\ud800", ""))  # a spreadsheet's blank ends are no name
    with pytest.raises(IngestError, match=r"stations\.csv"):
        stations_from_csv(path)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("A,1,", "line 2: .*longitude"),
        ("A,1,east", "line 2: .*'east'"),
        ("A,4_7.37,2", "line 2: .*'4_7.37'"),
        ("A,91,2", "line 2: .*latitude_deg is 91.0"),
        ("A,1,2\nA,3,4", "line 3: .*'A'"),
        ('A,"53,6",2', "line 2: '53,6' has a decimal comma, write 53.6"),
        ("A,53,6,7,2", "line 2: '7' is beyond .*decimal comma"),
    ],
)
def test_a_bad_line_of_stations_is_named(tmp_path, row, value):
    """A station at a wrong position spoils every session with it."""
    path = tmp_path / "stations.csv"
    path.write_text(f"name,latitude,longitude\n{row}\n")
    with pytest.raises(IngestError, match=value):
        stations_from_csv(path)
    (tmp_path / "bare.csv").write_text("A,53.6,7.2\nB,54,8\n")
    with pytest.raises(IngestError, match=r"line 1 must be name,latitude,longitude.*no latitude"):
        stations_from_csv(tmp_path / "bare.csv")
    (tmp_path / "more.csv").write_text("name,latitude,longitude,altitude,url\nA,53.6,7.2,3,x\n")
    with pytest.raises(IngestError, match=r"line 1: unknown column 'altitude'.*'altitude_m'"):
        stations_from_csv(tmp_path / "more.csv")
    with pytest.raises(IngestError, match=r"none\.csv: No such file"):
        stations_from_csv(tmp_path / "none.csv")
