"""Levels in the format of POWDER FRS, and recordings made of them."""

import io

import numpy as np
import pytest
from heimdall_data import Catalogue, DataError, ObjectStore, read_powder_frs
from heimdall_data.ingest.ingest import ingest
from heimdall_data.public.powder_frs import SAMPLE_RATE_HZ
from heimdall_features import FeatureExtractor
from heimdall_features.config import FeatureConfig
from hypothesis import given
from hypothesis import strategies as st

RECEIVERS = "name,latitude,longitude\nEast-b210,-16.8,179.99\nwest,-16.8,-179.98\nnone,-16.9,180\n"
SESSIONS = """timestamp,latitude,longitude,part,east-b210,west,none
2022-07-05 14:12:32,-16.81,179.999,train,-70.5,-92.25,
2022-07-05 14:12:36,-16.82,-179.999,train,,,
2022-04-25T10:00:00-06:00,-16.83,180,april,-48,,-99
"""


def written(folder, sessions=SESSIONS, receivers=RECEIVERS):
    """A folder with these files."""
    (folder / "receivers.csv").write_text(receivers)
    (folder / "sessions.csv").write_text(sessions)
    return folder


@pytest.fixture
def powder(tmp_path):
    """Three transmissions on both sides of the antimeridian."""
    return read_powder_frs(written(tmp_path))


def test_a_folder_is_read_as_it_is_written(powder):
    """Columns go with receivers by name; an empty cell is no level, and not a level of zero."""
    assert [station.name for station in powder.receivers] == ["East-b210", "west", "none"]
    assert powder.part.tolist() == ["train", "train", "april"]
    assert powder.position_deg[:, 1].tolist() == [179.999, -179.999, 180]
    nan = np.nan
    expected = [[-70.5, -92.25, nan], [nan, nan, nan], [-48, nan, -99]]
    np.testing.assert_array_equal(powder.level_db, expected)
    assert [start.isoformat() for start in powder.start[1:]] == [
        "2022-07-05T14:12:36+00:00",
        "2022-04-25T10:00:00-06:00",
    ]
    april = powder.only("april")
    assert april.position_deg.tolist() == [[-16.83, 180]]
    assert april.start == powder.start[2:]


@given(st.lists(st.floats(-99, 0), min_size=2, max_size=6))
def test_the_power_of_made_iq_is_the_reading(tmp_path_factory, readings):
    """What the pipeline reads of the recordings must be what was measured."""
    readings = [*readings, -99, 0]
    names = [f"r{n}" for n in range(len(readings))]
    head = "timestamp,latitude,longitude,part," + ",".join(names)
    cells = ",".join(map(repr, readings))
    folder = written(
        tmp_path_factory.mktemp("powder"),
        f"{head}\n2022-07-05 14:12:32,40,-111,train,{cells}\n",
        "name,latitude,longitude\n" + "".join(f"{name},40,-111\n" for name in names),
    )
    made = read_powder_frs(folder).recordings(0)
    power_db = [10 * np.log10(np.mean(np.abs(made[name]) ** 2)) for name in names]
    np.testing.assert_allclose(power_db, readings, atol=0.1)
    extract = FeatureExtractor(FeatureConfig(receivers=names, sample_rate_hz=SAMPLE_RATE_HZ))
    mel_db = extract({name: (iq, SAMPLE_RATE_HZ) for name, iq in made.items()})
    assert mel_db.shape == (len(names), 128, 32)
    level_db = 10 * np.log10((10 ** (mel_db / 10)).sum(axis=1).mean(axis=1))
    np.testing.assert_allclose(level_db - level_db[-1], np.array(readings), atol=0.2)


def test_sessions_hold_only_the_receivers_that_heard(powder):
    """A receiver without a reading has no recording, as one that was down has none."""
    first, last = powder.sessions()
    assert [m.station.name for m in first.measurements] == ["East-b210", "west"]
    assert [m.signal_strength_db for m in last.measurements] == [-48, -99]
    iq = np.load(io.BytesIO(first.measurements[1].payload))
    np.testing.assert_array_equal(iq, powder.recordings(0)["west"])


def test_sessions_are_ingested(powder, database_url, raw_iq_store):
    """They go the way of every other recording."""
    with Catalogue(database_url) as catalogue:
        ingest(catalogue, raw_iq_store, powder.sessions(), progress=False)
        stored = catalogue.sessions()
        assert sorted(session.position_deg for session in stored) == [
            (-16.83, 180),
            (-16.81, 179.999),
        ]
        assert {len(session.measurements) for session in stored} == {2}
    assert isinstance(raw_iq_store, ObjectStore)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("-92.25", "loud", "line 2, column 'west': 'loud'"),
        ("-92.25", "nan", "line 2, column 'west': 'nan'"),
        ("-92.25", "-9e9", "line 2, column 'west': '-9e9'"),
        ("-16.82", "", "line 3, column 'latitude': None"),
        ("-179.999", "-181", "line 3, column 'longitude': '-181'"),
        (",april,", ",,", "line 4, column 'part'"),
        ("2022-04-25T10:00", "yesterday", "line 4, column 'timestamp'.*yesterday"),
        ("west", "wets", "sessions.csv, line 1: no column west"),
        (",none\n", ",none,more\n", "sessions.csv, line 1, column 'more': not a receiver"),
        ("-48,,-99", "-48,,-99,7", "line 4: '7' is beyond"),
        ("-70.5,-92.25", ",", None),
    ],
)
def test_a_mistake_is_named_with_line_and_column(tmp_path, old, new, match):
    """Files of others have mistakes, and thousands of lines."""
    assert old in SESSIONS
    folder = written(tmp_path, SESSIONS.replace(old, new))
    if match is None:
        assert np.isnan(read_powder_frs(folder).level_db[0]).all()
    else:
        with pytest.raises(DataError, match=match):
            read_powder_frs(folder)


def test_files_that_cannot_be_read_are_named(tmp_path):
    """The most common mistake is another folder."""
    with pytest.raises(DataError, match=r"receivers\.csv"):
        read_powder_frs(tmp_path)
    written(tmp_path, receivers=RECEIVERS + "WEST,1,1\n")
    with pytest.raises(DataError, match="case"):
        read_powder_frs(tmp_path)
    head = SESSIONS.splitlines()[0]
    written(tmp_path, f"{head}\n2022-07-05 14:12:32,1,1,train,,,\n")
    with pytest.raises(DataError, match="no receiver heard anything"):
        read_powder_frs(tmp_path)


def test_the_published_folder_is_read(real_recordings):
    """Counts of its README."""
    powder = read_powder_frs(real_recordings / "powder-frs")
    assert powder.level_db.shape == (3911, 29)
    names, counts = np.unique(powder.part, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "april": 811,
        "random_test": 504,
        "train": 2596,
    }
