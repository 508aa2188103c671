"""Recordings on disk with the positions of their receivers."""

import json
import tarfile
import tempfile
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.recording_file import Details
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.recording import Recording
from heimdall_data.transmission import (
    Transmission,
    clock_problem,
    find_station,
    read_transmission,
    recorded_together,
)
from hypothesis import assume, given
from hypothesis import strategies as st

RECORDING = Recording(
    iq=np.ones(8, np.complex64), sample_rate_hz=12_000.0, start_gps_ns=10**18, clock_sigma_s=1e-7
)
names = st.text("aAbBß", min_size=1, max_size=3)


def sigmf(folder, name, *, position=None, uncertainty_s=1e-7):
    """Write a recording as SigMF; positions are latitude and longitude."""
    about = {"core:datatype": "cf32_le", "core:sample_rate": 12_000.0, "core:version": "1.2.0"}
    if uncertainty_s is not None:
        about["heimdall:clock_uncertainty_s"] = uncertainty_s
    if position is not None:
        about["core:geolocation"] = {"type": "Point", "coordinates": [*position[::-1]]}
    captures = [{"core:sample_start": 0, "core:datetime": "2026-03-01T12:00:00.5Z"}]
    meta = {"global": about, "captures": captures, "annotations": []}
    path = folder / f"{name}.sigmf-meta"
    path.write_text(json.dumps(meta))
    path.with_suffix(".sigmf-data").write_bytes(np.ones(8, "<c8").tobytes())
    return path


def kiwirecorder(path, latitude_deg, longitude_deg):
    """Write a receiver's position as kiwirecorder does."""
    path.parent.mkdir(exist_ok=True)
    place = f"[{latitude_deg:f},{longitude_deg:f}]"
    path.write_text(f"d.x = struct('coord', {place}, 'host', 'h', 'port', 8073);\n")


@given(st.lists(names, unique=True), names)
def test_a_name_is_matched_exactly_or_by_the_only_one_of_another_case(known, wanted):
    """A position of the wrong one of two receivers is worse than none."""
    stations = [Station(name, 1.0, 2.0) for name in known]
    found = find_station(wanted, stations)
    alike = [name for name in known if name.casefold() == wanted.casefold()]
    assert (found is not None) == (wanted in known or len(alike) == 1)
    assert found is None or found.name == (wanted if wanted in known else alike[0])


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_swapped_coordinates_are_told(tmp_path_factory, latitude_deg, longitude_deg):
    """The commonest mistake of a list, where the recording itself knows better."""
    assume(abs(longitude_deg) <= 90 and abs(latitude_deg - longitude_deg) > 1)
    assume(max(abs(latitude_deg), abs(longitude_deg)) < 85)
    folder = tmp_path_factory.mktemp("swapped")
    path = sigmf(folder, "A", position=(latitude_deg, longitude_deg))
    with pytest.raises(IngestError, match=r"'A' is listed at .* swapped"):
        read_transmission([path], [Station("A", longitude_deg, latitude_deg)])


def test_positions_come_from_the_best_place_that_has_one(tmp_path):
    """In this order: the list, the recording, kiwirecorder's file, the catalogue."""
    paths = [
        sigmf(tmp_path, "listed", position=(1.0, 1.0)),
        sigmf(tmp_path, "own", position=(2.0, 2.0)),
    ]
    paths += [
        sigmf(tmp_path, name) for name in ("with_d", "beside", "catalogued", "nowhere", "unset")
    ]
    for name in ("listed", "own"):
        kiwirecorder(tmp_path / f"{name}.txt", 9.0, 9.0)
    kiwirecorder(tmp_path / "with_d.txt", 3.0, 3.0)
    kiwirecorder(tmp_path / "gnss_pos/BESIDE.txt", 4.0, 4.0)
    kiwirecorder(tmp_path / "gnss_pos/unset.txt", 0.0, 0.0)
    (tmp_path / "notes.txt").write_text("of another kind")
    warnings = []
    found = read_transmission(
        paths,
        [Station("Listed", 0.5, 0.5)],
        catalogued=lambda: [Station("catalogued", 5.0, 5.0)],
        warn=warnings.append,
    )
    places = {station.name: station.position_deg for station in found.stations}
    assert places == {
        "listed": (0.5, 0.5),
        "own": (2.0, 2.0),
        "with_d": (3.0, 3.0),
        "beside": (4.0, 4.0),
        "catalogued": (5.0, 5.0),
    }
    assert set(found.unusable) == {"nowhere", "unset"}
    assert set(found.recordings) == set(places) | set(found.unusable)
    assert warnings[0].endswith("where nothing else has one: 'catalogued'")
    assert "'listed' is listed at 0.5" in warnings[1]


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, ""),
        ({"start_gps_ns": None}, "no GNSS lock"),
        ({"clock_sigma_s": np.inf}, "no stated uncertainty"),
        ({"clock_sigma_s": np.inf, "start_from_name": True}, "record again with --kiwi-wav"),
        ({"clock_sigma_s": 0.5}, "uncertain by 0.5 s"),
    ],
)
def test_a_useless_clock_says_why(changes, value):
    """The remedy differs: another receiver, or a flag."""
    assert value in clock_problem(replace(RECORDING, **changes))
    assert bool(value) == bool(clock_problem(replace(RECORDING, **changes)))


def test_an_uncertainty_may_be_given_for_those_that_state_none(tmp_path):
    """SigMF has no field for it, so most recordings lack it."""
    path = sigmf(tmp_path, "A", position=(1.0, 1.0), uncertainty_s=None)
    assert "A" in read_transmission([path]).unusable
    found = read_transmission([path], details=Details(clock_sigma_s=1e-6))
    assert found.recordings["A"].clock_sigma_s == 1e-6


def test_a_full_scale_may_be_given_for_counts_in_floats(tmp_path):
    """Beside three good recordings, one that is not scaled is left out with its reason."""
    paths = [sigmf(tmp_path, name, position=(1.0, 1.0)) for name in "AB"]
    counts = paths[0].with_suffix(".sigmf-data")
    counts.write_bytes(np.full(8, 16_384, "<c8").tobytes())
    assert "samples reach 16384" in read_transmission(paths).unusable["A"]
    found = read_transmission(paths, details=Details(full_scale=32_768))
    assert found.unusable == {}
    assert found.recordings["A"].iq.tolist() == [0.5] * 8
    warnings = []
    assert recorded_together(paths, warn=warnings.append) == [[paths[1]]]
    assert len(warnings) == 1
    assert sorted(map(len, recorded_together(paths, Details(full_scale=32_768)))) == [2]


def test_the_seconds_of_a_name_are_no_clock(tmp_path):
    """Believed to a microsecond, they would give a wrong place with a small ellipse."""
    path = tmp_path / "20260301T120000Z_77500_A_iq.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 12_000, 0, "NONE", None))
        file.writeframes(bytes(400))
    assert (
        "--kiwi-wav" in read_transmission([path], details=Details(clock_sigma_s=1e-6)).unusable["A"]
    )
    path.with_suffix(".json").write_text('{"start_time": "2026-03-01T12:00:00.25Z"}')
    found = read_transmission([path], [Station("A", 1.0, 1.0)], details=Details(clock_sigma_s=1e-6))
    assert found.unusable == {}


def test_an_unreadable_file_costs_its_receiver_alone(tmp_path):
    """One text file renamed must not cost the answer of three good recordings."""
    (tmp_path / "20260301T120000Z_77500_B_iq.wav").write_text("this is no recording")
    sigmf(tmp_path, "A", position=(1.0, 1.0))
    found = read_transmission([tmp_path])
    assert set(found.recordings) == {"A"}
    assert found.unusable == {
        "B": "20260301T120000Z_77500_B_iq.wav: not a WAV file; copy or record it again"
    }
    (tmp_path / "A.wav").write_text("another of A")
    warnings = []
    assert "A" not in read_transmission([tmp_path], warn=warnings.append).unusable
    assert "A.wav: not a WAV file" in warnings[0]


def test_a_file_that_breaks_its_parser_costs_its_receiver_alone(tmp_path):
    """An archive with a size of a hundred digits ended `heimdall locate` with a traceback."""
    sigmf(tmp_path, "A", position=(1.0, 1.0))
    with tarfile.open(tmp_path / "B.sigmf", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("B.sigmf-data")
        member.pax_headers = {"size": "9" * 100}
        archive.addfile(member)
    found = read_transmission([tmp_path])
    assert set(found.recordings) == {"A"}
    assert "B.sigmf: " in found.unusable["B"]


def test_a_file_that_memory_does_not_suffice_for_costs_its_receiver_alone(tmp_path, monkeypatch):
    """The others may still give a position."""

    def decoded(*arguments, name, **options):
        if name.startswith("B"):
            raise MemoryError
        return decode(*arguments, name=name, **options)

    monkeypatch.setattr("heimdall_data.ingest.recording_file.decode", decoded)
    for name in "AB":
        sigmf(tmp_path, name, position=(1.0, 1.0))
    found = read_transmission([tmp_path])
    assert set(found.recordings) == {"A"}
    assert "B.sigmf-meta: this machine lacks the memory" in found.unusable["B"]


def test_a_damaged_position_matters_only_where_the_list_has_none(tmp_path):
    """Kiwirecorder's file of one receiver says nothing of the others."""
    paths = [sigmf(tmp_path, name) for name in "AB"]
    (tmp_path / "A.txt").write_text("d.A = struct('coord', [")
    kiwirecorder(tmp_path / "B.txt", 1.0, 1.0)
    warnings = []
    found = read_transmission(paths, [Station("A", 2.0, 2.0)], warn=warnings.append)
    assert found.unusable == {}
    assert "A.txt" in warnings[0]
    assert list(read_transmission(paths).unusable) == ["A"]


def test_swapped_names_are_told(tmp_path):
    """Each position is right, and every time is another receiver's."""
    paths = [sigmf(tmp_path, name) for name in "ABC"]
    for name, latitude_deg in zip("ABC", (45.0, 46.0, 47.0), strict=True):
        kiwirecorder(tmp_path / f"{name}.txt", latitude_deg, 8.0)
    listed = [Station("A", 46.0, 8.0), Station("B", 45.0, 8.0), Station("C", 47.0, 8.0)]
    with pytest.raises(IngestError, match="'A' and 'B' are swapped in stations"):
        read_transmission(paths, listed)


@given(st.integers(0, 3), st.booleans(), st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_a_swapped_line_is_doubted_and_others_are_not(swapped, is_swapped, away_deg):
    """Without positions of the recorders, the other receivers are all that can contradict."""
    places = [(45 + away_deg[n], 8 + away_deg[n + 4]) for n in range(4)]
    if is_swapped:
        places[swapped] = places[swapped][::-1]
    with tempfile.TemporaryDirectory() as folder:
        paths = [sigmf(Path(folder), name) for name in "ABCD"]
        listed = [Station(name, *at) for name, at in zip("ABCD", places, strict=True)]
        warnings = []
        doubts = read_transmission(paths, listed, warn=warnings.append).doubts
    assert list(doubts) == warnings
    assert [f"'{'ABCD'[swapped]}'" in doubt for doubt in doubts] == [True] * is_swapped


def test_the_middle_of_receivers_may_be_on_the_antimeridian(tmp_path):
    """The mean of 179 and -179 is 180, not 0, so a receiver in Africa is not swapped, only far."""
    listed = [Station("A", 60.0, 179.0), Station("B", 60.0, -179.0), Station("C", 5.0, 60.0)]
    paths = [sigmf(tmp_path, station.name) for station in listed]
    (doubt,) = read_transmission(paths, listed).doubts
    assert doubt.startswith("station 'C' is at 5.0, 60.0, 11070 km from the nearest")
    assert doubt.endswith("check its position")


@given(st.sampled_from("ABCD"), st.floats(-60, 60), st.floats(-170, 170))
def test_a_station_at_0_0_or_far_from_all_others_is_doubted(name, north, east):
    """A form that was left empty gives 0, 0; nobody else would notice."""
    listed = [Station(each, 45 + n / 10, 8 + n / 5) for n, each in enumerate("ABCD")]
    apart_m = great_circle_m((north, east), (45.15, 8.3))
    assume(not 2_900_000 < apart_m < 3_100_000)
    is_far = apart_m > 3_000_000
    with tempfile.TemporaryDirectory() as folder:
        paths = [sigmf(Path(folder), each.name) for each in listed]
        for place, is_doubted in (((0.0, 0.0), True), ((north, east), is_far)):
            moved = [each if each.name != name else Station(name, *place) for each in listed]
            doubts = read_transmission(paths, moved).doubts
            assert all(doubt.startswith(f"station '{name}' is ") for doubt in doubts)
            assert len(doubts) == 1 or not is_doubted


def test_a_list_that_contradicts_the_catalogue_is_told_where_that_is_asked(tmp_path):
    """One of the two positions is of another receiver."""
    paths = [sigmf(tmp_path, name) for name in "AB"]
    catalogue = [Station("A", 45.0, 9.0), Station("B", 45.1, 8.0)]
    warnings = []
    read_transmission(
        paths, [Station("A", 45.0, 8.0)], catalogued=lambda: catalogue, warn=warnings.append
    )
    assert "station 'A' is at 45.0000, 8.0000 here and at 45.0000, 9.0000 in the" in warnings[1]


def test_frequencies_far_apart_are_not_one_transmission():
    """Recordings of other transmitters fit no place, or a wrong one."""
    tuned = [replace(RECORDING, center_frequency_hz=hz) for hz in (77_500.0, 77_900.0, 60_000.0)]
    near = Transmission(recordings=dict(zip("AB", tuned, strict=False)), stations=(), unusable={})
    assert near.frequency_hz == 77_700.0
    with pytest.raises(IngestError, match="C to 60,000 Hz"):
        Transmission(recordings=dict(zip("ABC", tuned, strict=True)), stations=(), unusable={})
