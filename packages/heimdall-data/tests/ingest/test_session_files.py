"""Files on disk as a session to ingest."""

from datetime import UTC, datetime

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError, RecordingError
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import new_session_from_files, stations_from_csv

SOURCE = NewSource(name="beacon", latitude_deg=45.0, longitude_deg=7.0, frequency_hz=145e6)
STATIONS = (Station("Torino", 45.044, 7.672), Station("Genova", 44.395, 8.956))
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def torino(tmp_path):
    """A NumPy file whose name tells its station."""
    path = tmp_path / "websdr_Torino.npy"
    np.save(path, np.full(12_500, 0.5, np.complex64))
    return path


def test_numpy_files_become_a_session(torino):
    """The commonest case: arrays of one's own, and a source whose place is known."""
    session = new_session_from_files([torino], SOURCE, STATIONS, start=START, sample_rate_hz=12_500)
    assert (session.name, session.start) == ("beacon 2026-01-02 03:04:05", START)
    assert session.duration_s == 1
    (recording,) = session.measurements
    assert recording.payload == torino.read_bytes()
    assert (recording.station, recording.format) == (STATIONS[0], "npy")
    assert (recording.n_samples, recording.frequency_hz) == (12_500, 145e6)
    assert recording.signal_strength_db == pytest.approx(-6.02, abs=0.01)


def test_a_mapping_says_which_station_recorded_what(torino):
    """File names often tell nothing."""
    session = new_session_from_files(
        {"Genova": torino}, SOURCE, STATIONS, start=START, sample_rate_hz=12_500
    )
    assert session.measurements[0].station.name == "Genova"


def test_a_sigmf_pair_is_stored_with_its_metadata(tmp_path):
    """Either of the two files stands for both."""
    (tmp_path / "Torino.sigmf-data").write_bytes(np.arange(8, dtype="<i2").tobytes())
    meta = (
        '{"global": {"core:datatype": "ci16_le", "core:sample_rate": 12500},'
        ' "captures": [{"core:datetime": "2026-01-02T03:04:05Z", "core:frequency": 7e6}]}'
    )
    (tmp_path / "Torino.sigmf-meta").write_text(meta)
    for name in ("Torino.sigmf-data", "Torino.sigmf-meta"):
        session = new_session_from_files([tmp_path / name], SOURCE, STATIONS)
        (recording,) = session.measurements
        assert (recording.metadata, len(recording.payload)) == (meta.encode(), 16)
        assert (session.start, recording.frequency_hz) == (START, 7e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": []}, "no file for the session of 'beacon'"),
        ({"stations": STATIONS[1:]}, "the position of station 'Torino' is not given; known are G"),
        ({"stations": [Station("Turino", 45.0, 7.0)]}, r"did you mean 'Turino'\?"),
        ({"start": None}, "none of the 1 files of 'beacon' tells when it was recorded; give"),
        ({"sample_rate_hz": None}, "a NumPy file does not hold its sample rate; give it"),
        (
            {"source": NewSource(name="x", latitude_deg=1.0, longitude_deg=1.0)},
            "tells the frequency; give the source's",
        ),
    ],
)
def test_what_is_missing_is_asked_for(torino, change, message):
    """The person at the keyboard knows it; the file does not."""
    given = {"paths": [torino], "source": SOURCE, "stations": STATIONS}
    options = {"start": START, "sample_rate_hz": 12_500}
    given |= {name: value for name, value in change.items() if name in given}
    options |= {name: value for name, value in change.items() if name in options}
    with pytest.raises(IngestError, match=message):
        new_session_from_files(*given.values(), **options)


def test_a_start_at_the_end_of_the_calendar_is_refused(torino):
    """Spreadsheets fill 9999-12-31 in, and the GPS week after it is in no calendar."""
    never = datetime.max.replace(tzinfo=UTC)
    with pytest.raises(
        IngestError, match=r"Torino\.npy: its session starts at 9999-12-31 .* years"
    ):
        new_session_from_files([torino], SOURCE, STATIONS, start=never, sample_rate_hz=12_500)


def test_nothing_unusable_is_ingested(torino):
    """Whoever has the file can still fix it; a month later nobody can."""
    torino.write_bytes(torino.read_bytes()[:-8])
    with pytest.raises(RecordingError, match=r"websdr_Torino\.npy: truncated"):
        new_session_from_files([torino], SOURCE, STATIONS, start=START, sample_rate_hz=1.0)


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (
            "there is no .*none/Torino.npy, .*none/Genova.npy; correct the path",
            ("none/Torino.npy", "none/Genova.npy"),
        ),
        ("'.mp3' is none of .npy, .wav", ("Torino.mp3",)),
        ("folder: no recording is in this folder itself; looked for .*npy", ("folder",)),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, names, message):
    """A misspelt path is the commonest mistake of all, and no station's fault."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "Torino.mp3").touch()
    with pytest.raises(IngestError, match=message):
        new_session_from_files([tmp_path / n for n in names], SOURCE, [], sample_rate_hz=1.0)


def test_stations_come_from_a_spreadsheet(tmp_path):
    """Spreadsheets put a mark before the first name and leave cells empty."""
    path = tmp_path / "stations.csv"
    path.write_text("\ufeffname,latitude,longitude,altitude_m\nTorino,45.044,7.672,250\nA,1,2,\n")
    assert stations_from_csv(path) == (Station("Torino", 45.044, 7.672, 250), Station("A", 1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,latitude\nA,1\n", "line 2 has no longitude; found"),
        ("name,latitude,longitude\nA,1,east\n", "line 2: could not convert .* give degrees"),
    ],
)
def test_a_bad_line_of_stations_is_named(tmp_path, text, message):
    """A station at a wrong place spoils every session it is in."""
    path = tmp_path / "stations.csv"
    path.write_text(text)
    with pytest.raises(IngestError, match=message):
        stations_from_csv(path)
    with pytest.raises(IngestError, match=r"cannot read .*none\.csv: No such file"):
        stations_from_csv(tmp_path / "none.csv")
