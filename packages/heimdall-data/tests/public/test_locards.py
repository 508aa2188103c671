"""Times of arrival in the format of LocaRDS."""

import math

import pytest
from heimdall_data import DataError, read_locards

SENSORS = """serial,latitude,longitude,height,type,good
1,46.5,179.9,680.5,SBS-3,FALSE
2,46.6,-179.9,500,Radarcape,TRUE
3,0,0,0,SBS-3,FALSE
4,46.7,179.8,,SBS-3,FALSE
"""
HEAD = "id,aircraft,latitude,longitude,baroAltitude,geoAltitude,measurements"
FIRST = '7,766,46.55,-180,8397.2,8336.28,"[[1,8605679765,49],[2,8605694015,76],[4,8605621531,3]]"'


def written(folder, *rows, name="set_1.csv", sensors=SENSORS):
    """The folder with these sets."""
    (folder / "sensors.csv").write_text(sensors)
    (folder / name).write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def test_messages_are_read_as_they_are_written(tmp_path):
    """Nanoseconds of hours after the start are exact once the first is zero."""
    (message,) = read_locards(written(tmp_path, FIRST))
    assert (message.latitude_deg, message.longitude_deg) == (46.55, -180)
    assert (message.altitude_m, message.aircraft) == (8336.28, "766")
    assert [sensor.serial for sensor in message.sensors] == ["1", "2", "4"]
    assert [sensor.height_m for sensor in message.sensors] == [680.5, 500, 0]
    assert message.arrivals_s == pytest.approx((58234e-9, 72484e-9, 0), abs=1e-15)


def test_empty_cells_and_sensors_without_a_place_are_no_errors(tmp_path):
    """The data set has aircraft that report no position, and sensors at 0, 0: places unknown."""
    written(tmp_path, ',,,,,,"[[3,5,1],[1,7,1]]"', name="set_2.csv")
    unknown, known = read_locards(written(tmp_path, FIRST, name="set_9.csv"))
    assert all(map(math.isnan, (unknown.latitude_deg, unknown.longitude_deg, unknown.altitude_m)))
    assert ([sensor.serial for sensor in unknown.sensors], unknown.aircraft) == (["1"], "")
    assert unknown.where.endswith("set_2.csv, line 2")
    assert known.aircraft == "766"


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[[1,", "[[9,", "line 2, column 'measurements': sensor 9"),
        ("[[1,", "[[2,", "line 2, column 'measurements': sensor 2 is there twice"),
        ("[[1,", "[[1", "line 2, column 'measurements'"),
        ("[[1,8605679765", "[[1,1e300", "line 2, column 'measurements'"),
        ("[[1,8605679765", "[[1,null", "line 2, column 'measurements'"),
        ("8336.28", "high", "line 2, column 'geoaltitude': 'high'"),
        ("-180", "-190", "line 2, column 'longitude': '-190'"),
        ("46.55,-180", ",-180", "line 2: .*the other way"),
    ],
)
def test_a_mistake_is_named_with_line_and_column(tmp_path, old, new, match):
    """Files of others have mistakes, and thousands of lines."""
    assert old in FIRST
    with pytest.raises(DataError, match=match):
        read_locards(written(tmp_path, FIRST.replace(old, new)))


@pytest.mark.parametrize(
    ("sensors", "match"),
    [
        (SENSORS.replace("\n2,", "\n1,"), "line 3, column 'serial': '1'"),
        (SENSORS.replace("46.6", "96.6"), "line 3, column 'latitude': '96.6'"),
        (SENSORS.replace("serial", "number"), "sensors.csv, line 1: no column serial"),
    ],
)
def test_wrong_sensors_are_named(tmp_path, sensors, match):
    """A wrong receiver moves every position."""
    with pytest.raises(DataError, match=match):
        read_locards(written(tmp_path, FIRST, sensors=sensors))


def test_a_folder_without_sets_says_so(tmp_path):
    """The most common mistake is another folder."""
    (tmp_path / "sensors.csv").write_text(SENSORS)
    with pytest.raises(DataError, match="no file set_"):
        read_locards(tmp_path)


def test_the_published_folder_is_read(real_recordings):
    """Counts of its README."""
    messages = read_locards(real_recordings / "locards")
    assert len(messages) == 763
    assert {len(message.sensors) for message in messages} == {5}
    assert len({frozenset(message.sensors) for message in messages}) == 186
