"""Places, frequencies and times that cannot be true together."""

import json
import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import new_session_from_files, session_from_paths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Geod

TORINO = Station("Torino", 45.044, 7.672)
GENOVA = Station("Genova", 44.395, 8.956)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


def beacon(latitude_deg=45.0, longitude_deg=8.0, frequency_hz=145e6):
    """A transmitter between the two stations, unless told otherwise."""
    return NewSource(
        name="Beacon",
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        frequency_hz=frequency_hz,
    )


@pytest.fixture
def npy(tmp_path):
    """A recording that knows neither its frequency nor its time."""
    np.save(tmp_path / "Torino.npy", np.full(100, 0.5, np.complex64))
    return tmp_path / "Torino.npy"


@pytest.fixture
def sigmf(tmp_path):
    """What makes a SigMF recording of 1 s at 12.5 kHz of a capture."""

    def write(name, **capture):
        values = np.arange(25_000, dtype="<i2")
        (tmp_path / f"{name}.sigmf-data").write_bytes(values.tobytes())
        about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500}
        said = {f"core:{key}": value for key, value in capture.items()}
        path = tmp_path / f"{name}.sigmf-meta"
        path.write_text(json.dumps({"global": about, "captures": [said]}))
        return path

    return write


def of_npy(path, source, stations=(TORINO, GENOVA), **options):
    """The session of the NumPy file."""
    return session_from_paths(
        [path], source, stations, start=START, sample_rate_hz=12_500, **options
    )


@given(places, places)
def test_distance_is_the_ellipsoids_to_half_a_percent(one, other):
    """What is near must not depend on who asks, nor be another's earth."""
    apart_m = great_circle_m(one, other)
    assert apart_m == pytest.approx(great_circle_m(other, one), abs=1e-3)
    expected_m = Geod(ellps="WGS84").inv(*one[::-1], *other[::-1])[2]
    assert apart_m == pytest.approx(expected_m, rel=0.006, abs=1.0)


@pytest.mark.parametrize(
    ("place", "mistake"),
    [
        ((8.0, 45.0), "latitude and longitude look exchanged"),
        ((45.0, -80.0), "correct the wrong position"),
        ((-45.0, 8.0), "the latitude's sign looks wrong"),
    ],
)
def test_a_source_far_from_every_station_is_refused_with_the_likely_mistake(npy, place, mistake):
    """It is the label: nothing later would find it wrong."""
    told = rf"source 'Beacon' at {place[0]}, {place[1]} is \d+ km from the nearest station, '.*: "
    with pytest.raises(IngestError, match=told + mistake):
        of_npy(npy, beacon(*place))


def test_a_longitude_west_of_greenwich_wants_its_sign(npy):
    """Lists of American stations often leave it out."""
    boston = Station("Torino", 42.36, -71.06)
    with pytest.raises(IngestError, match=r"the longitude's sign looks wrong; .* give --allow-far"):
        of_npy(npy, beacon(42.0, 71.0), [boston])


def test_a_far_source_may_be_allowed(npy):
    """Short waves go around the earth, and whoever studies them says so."""
    assert of_npy(npy, beacon(8.0, 45.0), allow_far=True).outline.source.latitude_deg == 8.0


def test_one_station_that_looks_exchanged_is_a_warning(npy, tmp_path):
    """The others are near, so that it may be a far one; or one line of a list is wrong."""
    np.save(tmp_path / "Genova.npy", np.full(100, 0.4, np.complex64))
    made = session_from_paths(
        [npy, tmp_path / "Genova.npy"],
        beacon(),
        [TORINO, Station("Genova", 8.956, 44.395)],
        start=START,
        sample_rate_hz=12_500,
    )
    (warning,) = made.warnings
    assert warning.startswith("station 'Genova' at 8.956, 44.395 is 5")
    assert warning.endswith("km from the source: latitude and longitude look exchanged")


quickly = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NOON = "2026-03-01T12:00:00Z"


@quickly
@given(st.floats(1e7, 1e9), st.sampled_from([(1e3, "kHz"), (1e6, "MHz")]), st.booleans())
def test_kilohertz_for_hertz_is_refused_where_the_recording_tells(sigmf, true_hz, unit, swapped):
    """A factor of a thousand or a million is no detuning, whoever made the mistake."""
    stated, own = sorted((true_hz, true_hz / unit[0]), reverse=swapped)
    path = sigmf("Torino", frequency=own, datetime=NOON)
    with pytest.raises(IngestError, match=f"{unit[1]}; give Hz") as caught:
        session_from_paths([path], beacon(frequency_hz=stated), [TORINO])
    assert f"{stated:.12g} Hz" in str(caught.value)
    assert f"{own:.12g} Hz (Torino.sigmf-meta)" in str(caught.value)


@quickly
@given(st.integers(-20_000, 20_000))
def test_a_carrier_beside_the_recorded_band_is_a_warning(sigmf, beside_hz):
    """Behind a converter the recording tells an intermediate frequency; a dial's is inside."""
    path = sigmf("Torino", frequency=145e6 + beside_hz, datetime=NOON)
    warnings = session_from_paths([path], beacon(), [TORINO]).warnings
    assert len(warnings) == (abs(beside_hz) > 6250)
    assert all(f"of {145_000_000 + beside_hz} Hz and 6250 Hz" in each for each in warnings)


def test_a_frequency_below_radio_is_a_warning(npy):
    """No recording contradicts it, and 145 is MHz."""
    (warning,) = of_npy(npy, beacon(frequency_hz=145)).warnings
    assert warning.startswith("a frequency of 145 Hz is below 3000 Hz")


def test_a_start_that_is_yet_to_come_is_a_warning(npy):
    """A year mistyped; or this computer's clock, which is why it is no error."""
    source, later = beacon(), START.replace(year=2190)
    made = session_from_paths([npy], source, [TORINO], start=later, sample_rate_hz=12_500)
    (warning,) = made.warnings
    assert "2190-03-01 12:00:00 UTC" in warning


def test_a_copy_is_no_second_receiver(npy, tmp_path):
    """A station's file saved under another's name agrees with it too well."""
    (tmp_path / "Genova.npy").write_bytes(npy.read_bytes())
    with pytest.raises(IngestError, match=r"Genova.npy holds the same bytes as .*Torino.npy; two"):
        session_from_paths(
            [npy, tmp_path / "Genova.npy"],
            beacon(),
            [TORINO, GENOVA],
            start=START,
            sample_rate_hz=12_500,
        )


@quickly
@given(st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")]))
def test_a_sample_rate_that_is_none_is_the_givers_mistake(npy, rate_hz):
    """And not the catalogue's, which has not heard of it yet."""
    with pytest.raises(IngestError, match=r"Torino\.npy") as caught:
        session_from_paths([npy], beacon(), [TORINO], start=START, sample_rate_hz=rate_hz)
    assert f"{rate_hz} Hz" in str(caught.value)


@quickly
@given(st.integers(-2_000, 2_000))
def test_a_start_that_the_recording_contradicts_is_a_warning(sigmf, late_s):
    """A local time taken for UTC is off by half an hour at least."""
    moment = START + timedelta(seconds=late_s)
    path = sigmf("Torino", frequency=145e6, datetime=moment.isoformat())
    warnings = session_from_paths([path], beacon(), [TORINO], start=START).warnings
    assert len(warnings) == (abs(late_s) > 900)
    assert all("12:00:00 UTC" in each and f"{moment:%H:%M:%S} UTC" in each for each in warnings)


def test_recordings_of_different_times_are_a_warning(sigmf):
    """Two transmissions in one session are a sample of neither."""
    first = sigmf("Torino", frequency=145e6, datetime="2026-03-01T12:00:00Z")
    second = sigmf("Genova", frequency=145e6, datetime="2026-03-01T12:00:05Z")
    (warning,) = session_from_paths([first, second], beacon(), [TORINO, GENOVA]).warnings
    assert warning.startswith("the recordings of 'Torino' and 'Genova' have no time in common")


def test_warnings_are_logged_where_nobody_asks_for_them(npy, caplog):
    """A script that ingests must not swallow them."""
    with caplog.at_level(logging.WARNING, "heimdall_data"):
        new_session_from_files(
            [npy], beacon(frequency_hz=145), [TORINO], start=START, sample_rate_hz=12_500
        )
    assert "of 'Beacon': a frequency of 145 Hz is below" in caplog.text


HEAD = "session,source,source_latitude,source_longitude,frequency_hz,start,sample_rate_hz,file\n"


def test_a_manifest_tells_both_with_their_lines(npy, tmp_path):
    """Of a thousand lines, somebody must find the one."""
    rows = "one,Beacon,45,8,145,2026-03-01T12:00Z,12500,Torino.npy\n"
    (tmp_path / "m.csv").write_text(HEAD + rows)
    (warning,) = read_manifest(tmp_path / "m.csv", [TORINO], progress=False).warnings
    assert warning.startswith(f"{tmp_path}/m.csv, line 2: session 'one' of 'Beacon': a frequency")
    (tmp_path / "m.csv").write_text(HEAD + rows.replace("45,8", "8,45"))
    with pytest.raises(ManifestError, match=r"line 2: source 'Beacon' at 8.0, 45.0 is 5\d\d\d km"):
        read_manifest(tmp_path / "m.csv", [TORINO], progress=False)
    assert read_manifest(tmp_path / "m.csv", [TORINO], progress=False, allow_far=True)
