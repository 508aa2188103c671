"""Positions, frequencies and times that cannot all be true."""

import json
import math
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import new_session_from_files
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyproj import Geod

TORINO = Station("Torino", 45.044, 7.672)
GENOVA = Station("Genova", 44.395, 8.956)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
quickly = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def beacon(latitude_deg=45.0, longitude_deg=8.0, frequency_hz=145e6):
    """A transmitter between the two stations, unless given otherwise."""
    return NewSource(
        name="Beacon",
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        frequency_hz=frequency_hz,
    )


@pytest.fixture
def npy(tmp_path):
    """A recording without a frequency or time of its own."""
    np.save(tmp_path / "Torino.npy", np.full(100, 0.5, np.complex64))
    return tmp_path / "Torino.npy"


@pytest.fixture
def sigmf(tmp_path):
    """A function that writes a SigMF recording of 1 s at 12.5 kHz, with this capture."""

    def write(name, annotations=(), **capture):
        values = np.arange(25_000, dtype="<i2") + ord(name[0])
        (tmp_path / f"{name}.sigmf-data").write_bytes(values.tobytes())
        about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500}
        said = {f"core:{key}": value for key, value in capture.items()}
        path = tmp_path / f"{name}.sigmf-meta"
        path.write_text(
            json.dumps({"global": about, "captures": [said], "annotations": [*annotations]})
        )
        return path

    return write


def warnings(paths, source, stations=(TORINO, GENOVA), start=START, **options):
    """The warnings about a session of these files."""
    told = []
    new_session_from_files(
        paths, source, stations, start=start, sample_rate_hz=12_500, warn=told.append, **options
    )
    return told


@given(places, places)
def test_distance_is_the_ellipsoids_to_half_a_percent(one, other):
    """Another radius or a mistake in the formula would refuse good sources."""
    apart_m = great_circle_m(one, other)
    assert apart_m == pytest.approx(great_circle_m(other, one), abs=1e-3)
    expected_m = Geod(ellps="WGS84").inv(*one[::-1], *other[::-1])[2]
    assert apart_m == pytest.approx(expected_m, rel=0.006, abs=1.0)


@quickly
@given(places, places)
def test_a_source_over_3000_km_from_every_station_is_refused(npy, source_at, station_at):
    """Its position is the label, and nothing later would show that it is wrong."""
    assume(max(map(abs, station_at)) > 0.01)  # where no position was ever set
    station = Station("Torino", *station_at)
    source = beacon(*source_at)
    assert warnings([npy], source, [station], allow_far=True) is not None
    if great_circle_m(source_at, station_at) <= 3e6:
        assert warnings([npy], source, [station]) == []
    else:
        with pytest.raises(IngestError, match=r"'Beacon'.*'Torino'.*--allow-far") as caught:
            warnings([npy], source, [station])
        assert f"{source_at[0]}, {source_at[1]}" in str(caught.value)


MISTAKES = [
    ("latitude and longitude", lambda north, east: (east, north)),
    ("longitude's sign", lambda north, east: (north, -east)),
    ("latitude's sign", lambda north, east: (-north, east)),
]


@quickly
@given(st.floats(20, 60), st.floats(20, 60), st.sampled_from(MISTAKES))
def test_the_mistake_that_explains_a_far_source_or_station_is_named(npy, north, east, mistake):
    """Exchanged coordinates and lost signs are what people do."""
    told, wrong = mistake
    # Of the places that the mistakes lead to, the station must be near only one.
    source_at = wrong(north, east)
    assume(great_circle_m(source_at, (north, east)) > 3e6)
    meant = [great_circle_m(other(*source_at), (north, east)) <= 3e6 for _, other in MISTAKES]
    assume(sum(meant) == 1)
    station, source = Station("Torino", north, east), beacon(*source_at)
    with pytest.raises(IngestError, match=told):
        warnings([npy], source, [station])
    (warning,) = warnings([npy], source, [station], allow_far=True)
    assert told in warning


@quickly
@given(st.floats(1e7, 1e9), st.sampled_from([(1e3, "kHz"), (1e6, "MHz")]), st.booleans())
def test_kilohertz_for_hertz_is_refused_if_the_recording_shows_it(sigmf, true_hz, unit, swapped):
    """A factor of a thousand or a million is no detuning."""
    stated, own = sorted((true_hz, true_hz / unit[0]), reverse=swapped)
    path = sigmf("Torino", frequency=own)
    with pytest.raises(IngestError, match=unit[1]) as caught:
        warnings([path], beacon(frequency_hz=stated))
    assert f"{stated:.12g} Hz" in str(caught.value)
    assert f"{own:.12g} Hz (Torino.sigmf-meta)" in str(caught.value)


@quickly
@given(st.integers(-20_000, 20_000))
def test_a_carrier_outside_the_recorded_band_is_a_warning(sigmf, beside_hz):
    """Behind a converter, the recording has an intermediate frequency."""
    told = warnings([sigmf("Torino", frequency=145e6 + beside_hz)], beacon())
    assert len(told) == (abs(beside_hz) > 6250)
    assert all(f"{145_000_000 + beside_hz} Hz and 6250 Hz" in each for each in told)


@quickly
@given(st.floats(0.001, 10_000))
def test_a_frequency_below_3_khz_is_a_warning(npy, frequency_hz):
    """No recording contradicts it, and 145 is probably MHz."""
    told = warnings([npy], beacon(frequency_hz=frequency_hz))
    assert len(told) == (frequency_hz < 3_000)
    assert all(f"{frequency_hz:.12g} Hz" in each for each in told)


@quickly
@given(st.integers(-2_000, 2_000))
def test_a_start_over_15_minutes_from_the_recordings_is_a_warning(sigmf, late_s):
    """A local time taken for UTC is off by half an hour or more."""
    moment = START + timedelta(seconds=late_s)
    path = sigmf("Torino", frequency=145e6, datetime=moment.isoformat())
    told = warnings([path], beacon())
    assert len(told) == (abs(late_s) > 900)
    assert all("12:00:00 UTC" in each and f"{moment:%H:%M:%S} UTC" in each for each in told)


@quickly
@given(st.integers(1, 10))
def test_recordings_without_a_common_time_are_a_warning(sigmf, late_s):
    """Two transmissions in one session are a sample of neither."""
    first, second = (
        sigmf(name, frequency=145e6, datetime=(START + timedelta(seconds=s)).isoformat())
        for name, s in (("Torino", 0), ("Genova", late_s))
    )
    # Times in names are good to a second, and the first recording takes one.
    told = warnings([first, second], beacon())
    assert len(told) == (late_s > 2)
    assert all("'Torino'" in each and "'Genova'" in each for each in told)


ELSEWHERE = Station("Fiji", -17.7, 178.0)
UNSET = Station("Fiji", 0.0, 0.0)
SWAPPED = Station("Fiji", 8.956, 44.395)


@pytest.mark.parametrize(
    ("station", "value"),
    [
        (ELSEWHERE, "km from the nearest of the others: check its position"),
        (SWAPPED, "latitude and longitude look exchanged"),
        (UNSET, "as one whose position was never set"),
    ],
)
def test_a_station_far_from_all_others_is_a_warning(npy, tmp_path, station, value):
    """Its level is another place's, whatever the other stations' are."""
    np.save(tmp_path / "Fiji.npy", np.full(100, 0.4, np.complex64))
    np.save(tmp_path / "Genova.npy", np.full(100, 0.3, np.complex64))
    paths = [npy, tmp_path / "Fiji.npy", tmp_path / "Genova.npy"]
    (told,) = warnings(paths, beacon(), [TORINO, GENOVA, station])
    assert "station 'Fiji' is at" in told
    assert value in told


def test_an_annotation_that_contradicts_the_given_position_is_a_warning(sigmf):
    """The given position is the label; who gave it may have meant another transmitter."""
    place = {"type": "Point", "coordinates": [8.1, 45.0]}
    path = sigmf(
        "Torino",
        [{"core:sample_start": 0, "spatial:emitter_location": place}],
        frequency=145e6,
        datetime=START.isoformat(),
    )
    (told,) = warnings([path], beacon())
    assert "given at 45.0, 8.0, and Torino.sigmf-meta, annotation 1, spatial:emitter" in told
    assert "places it at 45.0, 8.1" in told
    assert warnings([path], beacon(45.0, 8.1)) == []


def test_an_annotation_of_another_transmitter_is_a_warning(sigmf):
    """Its position becomes the label, and a wide recording has several transmitters."""

    def told(*labels):
        place = {"type": "Point", "coordinates": [8.0, 45.0]}
        annotations = [
            {"core:sample_start": 0, "signal:emitter": {"label": label, "geolocation": place}}
            for label in labels
        ]
        path = sigmf("Torino", annotations, frequency=145e6, datetime=START.isoformat())
        return warnings([path], beacon(None, None))

    (warning,) = told("Other", "Third")
    assert "Torino.sigmf-meta, annotation 1, signal:emitter is of 'Other'; check" in warning
    assert told("Other", "BEACON") == told("Other", None) == []


def test_a_start_in_the_future_is_a_warning(npy):
    """It may be a mistyped year, or this computer's clock."""
    (warning,) = warnings([npy], beacon(), start=START.replace(year=2190))
    assert "2190-03-01 12:00:00 UTC" in warning


def test_a_copy_is_not_a_second_receiver(npy, tmp_path):
    """A station's file was saved under another's name."""
    (tmp_path / "Genova.npy").write_bytes(npy.read_bytes())
    with pytest.raises(IngestError, match=r"Genova\.npy.*Torino\.npy"):
        warnings([npy, tmp_path / "Genova.npy"], beacon())


@quickly
@given(st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")]))
def test_an_impossible_sample_rate_is_refused_with_the_file(npy, rate_hz):
    """The one who gave it can correct it; the catalogue does not have it yet."""
    with pytest.raises(IngestError, match=re.escape(f"{rate_hz} Hz")):
        new_session_from_files([npy], beacon(), [TORINO], start=START, sample_rate_hz=rate_hz)


HEAD = "session,source,source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,file\n"


def test_a_manifest_gives_warnings_and_refusals_with_their_lines(npy, tmp_path, caplog):
    """The operator has to find the one line of a thousand; a script must not lose warnings."""
    rows = "one,Beacon,45,8,145,2026-03-01T12:00Z,12500,Torino.npy\n"
    (tmp_path / "m.csv").write_text(HEAD + rows)
    read_manifest(tmp_path / "m.csv", [TORINO], progress=False)
    assert f"{tmp_path}/m.csv, line 2: session 'one' of 'Beacon': a frequency" in caplog.text
    (tmp_path / "m.csv").write_text(HEAD + rows.replace("45,8", "8,45"))
    with pytest.raises(ManifestError, match=r"line 2: source 'Beacon' at 8.0, 45.0 is 5\d\d\d km"):
        read_manifest(tmp_path / "m.csv", [TORINO], progress=False)
    assert read_manifest(tmp_path / "m.csv", [TORINO], progress=False, allow_far=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "is silent"), (3e-5, None), (1 + 1j, None), (5, "14 dB above full scale")],
)
def test_a_level_that_no_receiver_gives_is_a_warning(npy, value, expected):
    """Preparation leaves such recordings out, weeks later."""
    np.save(npy, np.full(100, value, np.complex64))
    found = warnings([npy], beacon())
    assert len(found) == (expected is not None)
    assert expected is None or (expected in found[0] and "'Torino'" in found[0])


def test_a_recording_that_was_scaled_before_is_a_warning(npy):
    """One flag is for all files of a folder, and not all programs write counts."""
    np.save(npy, np.full(100, 0.1, np.complex64))
    (found,) = warnings([npy], beacon(), full_scale=32_768)
    assert "110 dB below full scale after division by 32768" in found
    np.save(npy, np.full(100, 3_000, np.complex64))
    assert warnings([npy], beacon(), full_scale=32_768) == []


places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(places, places, st.floats(-180, 180))
def test_a_turned_earth_has_the_same_distances(one, other, turn_deg):
    """The antimeridian makes nothing far: Fiji is on both sides of it."""
    turned = [(north, math.remainder(east + turn_deg, 360)) for north, east in (one, other)]
    assert great_circle_m(*turned) == pytest.approx(great_circle_m(one, other), abs=10.0)
