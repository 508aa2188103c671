"""Positions that KiwiSDR's recorder writes for Octave."""

import unicodedata

import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.gnss_pos import positions_from_gnss_pos
from hypothesis import given
from hypothesis import strategies as st


def line(station, latitude_deg, longitude_deg):
    """A line as the recorder formats it."""
    return (
        f"d.{station.replace('-', '_')} = struct('coord', [{latitude_deg:f},{longitude_deg:f}], "
        f"'host', 'kiwi.example.org', 'port', 8073);\n"
    )


stations = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True)
places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(st.dictionaries(stations, places, max_size=4))
def test_every_station_of_a_folder_has_its_position(tmp_path_factory, written):
    """An operator need not type them; file systems may not tell upper from lower case."""
    folder = tmp_path_factory.mktemp("gnss_pos")
    (folder / "notes.txt").write_text("antenna moved in May")
    for station, place in written.items():
        (folder / f"{station}.txt").write_text(line(station, *place))
    found = positions_from_gnss_pos(folder)
    assert found.keys() == written.keys() - {"notes"} | ({"notes"} & written.keys())
    for station, place in found.items():
        assert place[:2] == pytest.approx(written[station], abs=1e-6)


@given(st.binary(max_size=60), st.integers(0, 90))
def test_a_damaged_file_is_named(tmp_path_factory, damage, place):
    """A wrong position is worse than none."""
    folder = tmp_path_factory.mktemp("gnss_pos")
    intact = line("DF0KL", 53.665337, 7.282766).encode()
    (folder / "DF0KL.txt").write_bytes(b"d." + intact[2:place] + damage)
    try:
        found = positions_from_gnss_pos(folder)
        outcome = "DF0KL.txt" if -90 <= found["DF0KL"].latitude_deg <= 90 else "off the globe"
    except RecordingError as error:
        outcome = str(error)
    assert "DF0KL.txt" in outcome


def test_a_file_is_found_by_either_spelling(tmp_path):
    """A Mac writes names of files decomposed."""
    stored, typed = (unicodedata.normalize(form, "Zürich") for form in ("NFD", "NFC"))
    (tmp_path / f"{stored}.txt").write_text(line("Zurich", 47.0, 8.0))
    assert list(positions_from_gnss_pos(tmp_path, typed)) == [typed]
    assert list(positions_from_gnss_pos(tmp_path, stored)) == [typed]


def test_a_missing_folder_and_a_swapped_position_are_refused(tmp_path):
    """The message must say what is wrong."""
    with pytest.raises(RecordingError, match="gnss_pos"):
        positions_from_gnss_pos(tmp_path / "gnss_pos")
    (tmp_path / "A.txt").write_text(line("A", 107.6, 34.1))
    with pytest.raises(RecordingError, match=r"A\.txt.*107\.6"):
        positions_from_gnss_pos(tmp_path)
