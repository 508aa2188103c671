"""Places, frequencies and times that cannot be true together."""

import json
import logging
from datetime import UTC, datetime

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.manifest import ManifestError, read_manifest
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.session_files import new_session_from_files, session_from_paths
from hypothesis import given
from hypothesis import strategies as st

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
def test_distance_is_the_same_both_ways_and_at_most_half_the_earth(one, other):
    """What is near must not depend on who asks."""
    apart_m = great_circle_m(one, other)
    assert apart_m == pytest.approx(great_circle_m(other, one), abs=1e-3)
    assert 0 <= apart_m < 20_016_000


def test_a_quarter_of_a_meridian_is_ten_thousand_kilometres():
    """The metre was made of it."""
    assert great_circle_m((0, 7), (90, 7)) == pytest.approx(10e6, rel=0.001)


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


def test_one_station_that_looks_exchanged_is_a_doubt(npy, tmp_path):
    """The others are near, so that it may be a far one; or one line of a list is wrong."""
    np.save(tmp_path / "Genova.npy", np.full(100, 0.4, np.complex64))
    made = session_from_paths(
        [npy, tmp_path / "Genova.npy"],
        beacon(),
        [TORINO, Station("Genova", 8.956, 44.395)],
        start=START,
        sample_rate_hz=12_500,
    )
    (doubt,) = made.warnings
    assert doubt.startswith("station 'Genova' at 8.956, 44.395 is 5")
    assert doubt.endswith("km from the source: latitude and longitude look exchanged")


@pytest.mark.parametrize(("said", "unit"), [(145_000, "kHz"), (145.0, "MHz")])
def test_kilohertz_for_hertz_is_refused_where_the_recording_tells(sigmf, said, unit):
    """A factor of a thousand or a million is no detuning."""
    told = rf"is {said:.12g} Hz, and .* at 145000000 Hz \(Torino.sigmf-meta\): one of them is in"
    path = sigmf("Torino", frequency=145e6, datetime="2026-03-01T12:00:00Z")
    with pytest.raises(IngestError, match=f"{told} {unit}; give Hz"):
        session_from_paths([path], beacon(frequency_hz=said), [TORINO])


def test_kilohertz_in_the_recording_is_refused_too(sigmf):
    """Whoever wrote the metadata makes the same mistake."""
    path = sigmf("Torino", frequency=145_000, datetime="2026-03-01T12:00:00Z")
    with pytest.raises(IngestError, match="one of them is in kHz; give Hz"):
        session_from_paths([path], beacon(), [TORINO])


def test_a_carrier_beside_the_recorded_band_is_a_doubt(sigmf):
    """Behind a converter the recording tells an intermediate frequency."""
    path = sigmf("Torino", frequency=145.1e6, datetime="2026-03-01T12:00:00Z")
    (doubt,) = session_from_paths([path], beacon(), [TORINO]).warnings
    assert "is 145000000 Hz, and the recording of 'Torino' is of 145100000 Hz and 6250" in doubt


def test_a_dial_frequency_is_no_doubt(sigmf):
    """Of single sideband it is beside what is heard, and inside of what is recorded."""
    path = sigmf("Torino", frequency=145e6 - 1500, datetime="2026-03-01T12:00:00Z")
    assert session_from_paths([path], beacon(), [TORINO]).warnings == ()


def test_a_frequency_below_radio_is_a_doubt(npy):
    """No recording contradicts it, and 145 is MHz."""
    (doubt,) = of_npy(npy, beacon(frequency_hz=145)).warnings
    assert doubt == "a frequency of 145 Hz is below 3000 Hz; is it in kHz or MHz?"


def test_a_start_that_is_yet_to_come_is_a_doubt(npy):
    """A year mistyped; or this computer's clock, which is why it is no error."""
    source, later = beacon(), START.replace(year=2190)
    made = session_from_paths([npy], source, [TORINO], start=later, sample_rate_hz=12_500)
    assert made.warnings == ("the session starts at 2190-03-01 12:00:00 UTC, which is yet to come",)


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


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sample_rate_that_is_none_is_the_givers_mistake(npy, rate_hz):
    """And not the catalogue's, which has not heard of it yet."""
    with pytest.raises(IngestError, match=r"Torino.npy: its sample rate is given as .* Hz; corr"):
        session_from_paths([npy], beacon(), [TORINO], start=START, sample_rate_hz=rate_hz)


def test_a_start_that_the_recording_contradicts_is_a_doubt(sigmf):
    """A local time taken for UTC."""
    path = sigmf("Torino", frequency=145e6, datetime="2026-03-01T13:00:00Z")
    (doubt,) = session_from_paths([path], beacon(), [TORINO], start=START).warnings
    assert doubt == (
        "the session starts at 2026-03-01 12:00:00 UTC, and the recording of 'Torino' says "
        "2026-03-01 13:00:00 UTC"
    )


def test_recordings_of_different_times_are_a_doubt(sigmf):
    """Two transmissions in one session are a sample of neither."""
    first = sigmf("Torino", frequency=145e6, datetime="2026-03-01T12:00:00Z")
    second = sigmf("Genova", frequency=145e6, datetime="2026-03-01T12:00:05Z")
    (doubt,) = session_from_paths([first, second], beacon(), [TORINO, GENOVA]).warnings
    assert doubt.startswith("the recordings of 'Torino' and 'Genova' have no time in common")


def test_doubts_are_logged_where_nobody_asks_for_them(npy, caplog):
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
    (doubt,) = read_manifest(tmp_path / "m.csv", [TORINO], progress=False).warnings
    assert doubt.startswith(f"{tmp_path}/m.csv, line 2: session 'one' of 'Beacon': a frequency")
    (tmp_path / "m.csv").write_text(HEAD + rows.replace("45,8", "8,45"))
    with pytest.raises(ManifestError, match=r"line 2: source 'Beacon' at 8.0, 45.0 is 5\d\d\d km"):
        read_manifest(tmp_path / "m.csv", [TORINO], progress=False)
    assert read_manifest(tmp_path / "m.csv", [TORINO], progress=False, allow_far=True)
