"""Folders, SigMF pairs and collections as lists of recordings."""

import contextlib
import io
import json
import math
import struct
import tarfile
import wave
from datetime import UTC, datetime

import numpy as np
import pytest
import sigmf
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import DataError, IngestError, RecordingError
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.recording_file import (
    Details,
    RecordingFile,
    read_recording,
    recording_paths,
    station_in_name,
)
from heimdall_data.ingest.session_files import new_session_from_files
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.formats import SUFFIXES
from heimdall_data.recordings.recording import gps_ns_from_text
from heimdall_data.recordings.sigmf_recording import CLOCK_KEY
from hypothesis import assume, given
from hypothesis import strategies as st

SOURCE = NewSource(name="beacon", latitude_deg=45.0, longitude_deg=7.0, frequency_hz=145e6)
TORINO = {"type": "Point", "coordinates": [7.672, 45.044]}


def write_sigmf(folder, name, place=TORINO):
    """A SigMF pair of 8 samples, written by the format's own library."""
    path = folder / f"{name}.sigmf-data"
    (np.arange(16, dtype="<i2") + len(name)).tofile(path)
    about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500.0, "core:version": "1.2.0"}
    written = sigmf.SigMFFile(data_file=path, global_info=about)
    capture = {"core:frequency": 145.5e6, "core:datetime": "2026-01-02T03:04:05Z"}
    written.add_capture(0, capture | {"core:geolocation": place})
    written.tofile(path.with_suffix(".sigmf-meta"))
    return path


def write_collection(folder, *names):
    """A collection, written by the format's own library."""
    metas = [f"{name}.sigmf-meta" for name in names]
    sigmf.SigMFCollection(metas, base_path=folder).tofile(folder / "all.sigmf-collection")
    return folder / "all.sigmf-collection"


def test_a_folder_is_the_recordings_directly_in_it(tmp_path):
    """Notes, tables and other folders are beside recordings, and a pair is one recording."""
    data = write_sigmf(tmp_path, "Torino")
    for name in ("b.npy", "a.WAV", "stations.csv", "README.md", ".hidden.npy"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.npy").touch()
    found = ["Torino.sigmf-meta", "a.WAV", "b.npy"]
    # A shell's `*` names both files of a pair.
    given = [data, data.with_suffix(".sigmf-meta"), tmp_path]
    assert [path.name for path in recording_paths(given)] == found
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngestError, match="empty"):
        recording_paths([tmp_path / "empty"])


stations = st.from_regex(r"[A-Za-z0-9_-]*[A-Za-z0-9-]", fullmatch=True)
forms = [
    "20260102T030405Z_77500_{}_iq.wav",
    "{}_77500_2026-01-02T03:04:05.5Z.wav",
    "websdr_{}.npy",
    "{}.sigmf",
    "{}.sigmf-meta",
]


@given(stations, st.sampled_from(forms))
def test_a_station_is_read_from_every_form_of_file_name(tmp_path_factory, station, form):
    """The name is all that connects a file with a station's position."""
    assume(not station.startswith("websdr_") and not station.lower().endswith("_iq"))
    assert station_in_name(tmp_path_factory.getbasetemp() / form.format(station)) == station


@given(st.integers(0, 127), st.integers(0, 255), st.booleans())
def test_a_file_that_changed_after_the_check_is_refused(tmp_path_factory, place, value, cut):
    """A recorder may still be writing: only checked bytes are stored."""
    path = tmp_path_factory.mktemp("changing") / "Torino.npy"
    np.save(path, np.ones(64, np.complex64))
    intact = path.read_bytes()
    file = RecordingFile.inspected(path, Details(sample_rate_hz=1.0))
    assert file.content() == (intact, None)
    assume(cut or intact[-1 - place] != value)
    end = len(intact) - 1 - place
    path.write_bytes(intact[:end] + (b"" if cut else bytes([value]) + intact[end + 1 :]))
    with pytest.raises(IngestError, match=r"Torino\.npy"):
        file.content()


def test_a_collection_of_the_formats_own_library_is_a_session(tmp_path):
    """Each of its recordings gives the position of its station."""
    write_sigmf(tmp_path, "Torino")
    write_sigmf(tmp_path, "Genua", {"type": "Point", "coordinates": [8.956, 44.395]})
    write_sigmf(tmp_path, "elsewhere")
    collection = write_collection(tmp_path, "Torino", "Genua")
    session = new_session_from_files([collection], SOURCE, [])
    assert [m.station for m in session.measurements] == [
        Station("Torino", 45.044, 7.672),
        Station("Genua", 44.395, 8.956),
    ]
    assert session.start == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert {m.frequency_hz for m in session.measurements} == {145.5e6}
    meta = tmp_path / "Torino.sigmf-meta"
    meta.write_text(meta.read_text() + " ")
    with pytest.raises(IngestError, match=r"Torino\.sigmf-meta"):
        recording_paths([collection])


@pytest.mark.parametrize(
    ("streams", "value"),
    [
        ([], "core:streams"),
        ([["a"]], "not a SigMF collection"),
        ([{"name": "../a", "hash": "0"}], "'../a'"),
        ([["b", "0"]], r"b\.sigmf-meta"),
    ],
)
def test_an_unusable_collection_names_the_recording(tmp_path, streams, value):
    """The names in it are data, and must not lead out of its folder."""
    path = tmp_path / "x.sigmf-collection"
    path.write_text(json.dumps({"collection": {"core:streams": streams}}))
    with pytest.raises(IngestError, match=value):
        recording_paths([path])


texts = st.text(max_size=3)
streams = st.lists(texts | st.none() | st.lists(texts) | st.dictionaries(texts, texts))
streams |= st.lists(st.fixed_dictionaries({"name": texts | st.integers(), "hash": texts}))


@given(
    st.binary(max_size=50)
    | streams.map(lambda each: json.dumps({"collection": {"core:streams": each}}).encode())
)
def test_any_collection_is_read_or_an_error_of_ours(tmp_path_factory, content):
    """Nobody should see a traceback after naming the wrong file."""
    path = tmp_path_factory.mktemp("any") / "x.sigmf-collection"
    path.write_bytes(content)
    with contextlib.suppress(IngestError):
        assert recording_paths([path]) == ()


def test_a_station_far_from_its_recordings_position_is_refused(tmp_path):
    """One of the two is wrong, and the model would learn it."""
    data = write_sigmf(tmp_path, "Torino")
    near, far = (Station("Torino", 45.044, longitude) for longitude in (7.7, 8.0))
    assert new_session_from_files([data], SOURCE, [near]).measurements[0].station == near
    with pytest.raises(IngestError, match=r"45.044, 7.672.* 26 km .*45.044, 8.0"):
        new_session_from_files([data], SOURCE, [far])


def test_samples_are_read_from_beside_their_metadata(tmp_path):
    """A non-conforming dataset is a recorder's own file, under its own name."""
    data = write_sigmf(tmp_path, "Torino")
    meta = data.with_suffix(".sigmf-meta")
    for either in (data, meta):
        content = RecordingFile.inspected(either).content()
        assert content == (data.read_bytes(), meta.read_bytes())
    described = json.loads(meta.read_text())
    data.rename(tmp_path / "raw.dat")
    described["global"]["core:dataset"] = "raw.dat"
    described["captures"][0]["core:header_bytes"] = 4
    described["global"].pop("core:sha512")
    meta.write_text(json.dumps(described))
    assert RecordingFile.inspected(meta).n_samples == 7
    for name in ("../raw.dat", "", "..", "a\0b", 7):
        described["global"]["core:dataset"] = name
        meta.write_text(json.dumps(described))
        with pytest.raises(IngestError, match="core:dataset"):
            RecordingFile.inspected(meta)


def test_a_file_too_large_to_be_a_recording_is_not_read(tmp_path):
    """It may be a disk image, given by mistake."""
    path = tmp_path / "Torino.npy"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(IngestError, match="3221225472 bytes"):
        RecordingFile.inspected(path, Details(sample_rate_hz=1.0))


def test_all_paths_that_cannot_be_reached_are_named(tmp_path):
    """One run shows all misspelt paths."""
    with pytest.raises(IngestError, match=r"a\.npy.*\n.*xx .File name too long"):
        recording_paths([tmp_path / "a.npy", tmp_path / ("x" * 300)])


def test_a_path_that_no_system_can_have_is_an_error_of_ours(tmp_path):
    """Callers catch `DataError`."""
    with pytest.raises(IngestError, match=r"a\\x00b.npy' contains a NUL"):
        read_recording(tmp_path / "a\0b.npy")


NOON_NS = gps_ns_from_text("2026-03-01T12:00:00Z")


@given(st.integers(0, 10**9), st.none() | st.floats(0, 1e-3))
def test_a_numpy_file_with_a_start_is_stored_with_it(tmp_path_factory, late_ns, sigma_s):
    """The catalogue has no column for the clock, so that training would not see it."""
    path = tmp_path_factory.mktemp("npy") / "Torino.npy"
    np.save(path, np.arange(8, dtype=np.complex64))
    details = Details(
        sample_rate_hz=12_500.0, start_gps_ns=NOON_NS + late_ns, clock_sigma_s=sigma_s
    )
    file = RecordingFile.inspected(path, details)
    content, metadata = file.content()
    assert (file.format, metadata, file.is_pair) == ("sigmf", None, False)
    stored = decode(content, "sigmf", name="sessions/7/websdr_Torino.sigmf")
    read = read_recording(path, details)
    for recording in (stored, read):
        assert recording.iq.tolist() == list(range(8))
        assert recording.start_gps_ns == NOON_NS + late_ns
        assert recording.clock_sigma_s == (math.inf if sigma_s is None else sigma_s)
    assert read.station == "Torino"
    assert file.content()[0] == content  # an ingestion may be repeated


def test_an_uncertainty_is_given_for_files_that_state_none(tmp_path):
    """SigMF has no field for it; a file that states one is right about itself."""
    data = write_sigmf(tmp_path, "Torino")
    given = Details(clock_sigma_s=2e-7)
    assert read_recording(data).clock_sigma_s == math.inf
    assert read_recording(data, given).clock_sigma_s == 2e-7
    file = RecordingFile.inspected(data, given)
    assert decode(file.content()[0], "sigmf", name="a.sigmf").clock_sigma_s == 2e-7
    meta = data.with_suffix(".sigmf-meta")
    described = json.loads(meta.read_text())
    described["captures"][0][CLOCK_KEY] = 5e-6
    meta.write_text(json.dumps(described))
    assert read_recording(data, given).clock_sigma_s == 5e-6
    assert RecordingFile.inspected(data, given).is_pair


@pytest.mark.parametrize("name", ["Torino.npy", "Torino.wav", "Torino.sigmf-data"])
def test_counts_are_stored_relative_to_the_full_scale_that_is_given(tmp_path, name):
    """A NumPy file cannot say that its floats are counts, and training would read it so."""
    path, counts = tmp_path / name, np.array([16_384, -8_192] * 8, "<f4")
    if path.suffix == ".npy":
        np.save(path, counts.view("<c8"))
    elif path.suffix == ".wav":
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 2, 12_500, 100_000, 8, 32)
        body = b"WAVE" + form + struct.pack("<4sI", b"data", counts.nbytes) + counts.tobytes()
        path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)
    else:
        described = json.loads(
            write_sigmf(tmp_path, "Torino").with_suffix(".sigmf-meta").read_text()
        )
        described["global"]["core:datatype"] = "cf32_le"
        del described["global"]["core:sha512"]
        path.with_suffix(".sigmf-meta").write_text(json.dumps(described))
        counts.tofile(path)
    with pytest.raises(DataError, match=f"{path.stem}.*samples reach 16384"):
        RecordingFile.inspected(path, Details(sample_rate_hz=12_500.0))
    file = RecordingFile.inspected(path, Details(sample_rate_hz=12_500.0, full_scale=32_768))
    assert file.level_db == pytest.approx(10 * math.log10(0.3125))
    stored = decode(file.content()[0], file.format, name="a", sample_rate_hz=12_500.0)
    assert stored.iq.tolist() == [0.5 - 0.25j] * 8


@pytest.mark.parametrize("full_scale", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_full_scale_is_refused(full_scale):
    """It would silence a recording, or turn it upside down."""
    with pytest.raises(IngestError, match=f"full_scale is {full_scale}"):
        Details(full_scale=full_scale)


def test_integers_need_no_full_scale_and_are_stored_as_they_are(tmp_path):
    """A folder has files of several receivers, and one flag is for all."""
    path = tmp_path / "Torino.npy"
    np.save(path, np.full((2, 8), 16_384, np.int16))
    for details in (Details(sample_rate_hz=1e4), Details(sample_rate_hz=1e4, full_scale=100.0)):
        assert read_recording(path, details).iq.tolist() == [0.5 + 0.5j] * 8


def test_one_start_for_captures_with_gaps_is_refused(tmp_path):
    """It can only be that of one of them."""
    data = write_sigmf(tmp_path, "Torino")
    meta = data.with_suffix(".sigmf-meta")
    described = json.loads(meta.read_text())
    later = {"core:sample_start": 4, "core:datetime": "2026-01-02T03:05:00Z"}
    described["captures"].append(later)
    meta.write_text(json.dumps(described))
    with pytest.raises(IngestError, match=r"Torino\.sigmf-meta.* 2 captures"):
        read_recording(meta, Details(start_gps_ns=NOON_NS))


def test_a_wav_of_ubersdr_is_read_with_its_json(tmp_path):
    """Its recorder writes both, with the same name; they are stored as one SigMF archive."""
    path = tmp_path / "m9psy_14074000_2026-01-21T15:10:19.937Z.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", None))
        file.writeframes(np.arange(32, dtype="<i2").tobytes())
    sidecar = path.with_suffix(".json")
    sidecar.write_text('{"receiver": {"gps": {"lat": 56.04, "lon": -3.36}, "asl": 30}}')
    recording = read_recording(path)
    assert (recording.station, recording.center_frequency_hz) == ("m9psy", 14_074_000)
    assert recording.position == (56.04, -3.36, 30)
    assert not recording.clock_locked
    assert read_recording(path, Details(clock_sigma_s=1e-6)).clock_locked
    file = RecordingFile.inspected(path)
    stored = decode(file.content()[0], file.format, name="a.sigmf")
    assert stored.position == recording.position
    assert stored.start_gps_ns == recording.start_gps_ns
    sidecar.write_text("{}")
    with pytest.raises(IngestError, match="m9psy"):
        file.content()


def test_a_compressed_archive_is_stored_as_a_plain_one(tmp_path):
    """Other readers of the store expect what the contract calls an archive."""
    data = write_sigmf(tmp_path, "Torino")
    path = sigmf.fromfile(data).archive(tmp_path / "Genova.sigmf.xz")
    assert station_in_name(path) == "Genova"
    file = RecordingFile.inspected(path)
    content, metadata = file.content()
    assert (file.format, metadata, file.station) == ("sigmf", None, "Genova")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        assert len(archive.getnames()) == 2
    stored = decode(content, "sigmf", name="a.sigmf")
    assert stored.iq.tolist() == read_recording(data).iq.tolist()
    assert stored.position == read_recording(data).position
    assert path in recording_paths([tmp_path])


@pytest.mark.parametrize(
    ("suffix", "values", "true"),
    [
        (".cu8", np.array([0, 128, 192, 64], "u1"), [-1 + 0j, 0.5 - 0.5j]),
        (".cs8", np.array([-128, 0, 64, -64], "i1"), [-1 + 0j, 0.5 - 0.5j]),
        (".cs16", np.array([-32768, 0, 16384, -16384], "<i2"), [-1 + 0j, 0.5 - 0.5j]),
        (".CF32", np.array([-1, 0, 0.5, -0.5], "<f4"), [-1 + 0j, 0.5 - 0.5j]),
    ],
)
def test_raw_samples_are_stored_with_what_is_told_about_them(tmp_path, suffix, values, true):
    """rtl_sdr and others write nothing but samples; all levels compare."""
    path = tmp_path / f"Torino{suffix}"
    values.tofile(path)
    with pytest.raises(RecordingError, match=rf"Torino{suffix}: .* --sample-rate-hz"):
        read_recording(path)
    file = RecordingFile.inspected(path, Details(sample_rate_hz=250_000.0))
    stored = decode(file.content()[0], file.format, name="a.sigmf")
    assert (stored.iq.tolist(), stored.sample_rate_hz) == (true, 250_000)
    assert (file.station, recording_paths([tmp_path])) == ("Torino", (path,))
    said = {"start_time": "2026-03-01T12:00:00.25Z", "start_uncertainty_s": 1e-7}
    path.with_suffix(".json").write_text(json.dumps(said | {"sample_rate_hz": 1e6}))
    recording = read_recording(path)
    assert (recording.start_gps_ns, recording.sample_rate_hz) == (NOON_NS + 250_000_000, 1e6)
    assert recording.clock_locked
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordingError, match=r"Torino.* bytes are not 1 to"):
        read_recording(path)


def test_a_pair_with_names_in_capital_letters_is_read(tmp_path):
    """File systems of other computers write them so."""
    data = write_sigmf(tmp_path, "Torino")
    other = {path.suffix.upper(): path for path in (data, data.with_suffix(".sigmf-meta"))}
    for suffix, path in other.items():
        path.rename(tmp_path / f"Torino{suffix}")
    assert [p.name for p in recording_paths([tmp_path])] == ["Torino.SIGMF-META"]
    for suffix in other:
        assert RecordingFile.inspected(tmp_path / f"Torino{suffix}").n_samples == 8
    # A card reader that names only what it copied.
    (tmp_path / "Torino.SIGMF-META").rename(tmp_path / "Torino.sigmf-meta")
    assert [p.name for p in recording_paths([tmp_path])] == ["Torino.sigmf-meta"]
    for suffix in (".SIGMF-DATA", ".sigmf-meta"):
        assert RecordingFile.inspected(tmp_path / f"Torino{suffix}").n_samples == 8


HDSDR_NAME = "HDSDR_20260301_120000Z_7100kHz_RF.wav"


def test_a_name_without_a_station_says_how_to_give_it(tmp_path):
    """No list of stations has one of this name."""
    path = tmp_path / HDSDR_NAME
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", None))
        file.writeframes(np.arange(32, dtype="<i2").tobytes())
    near = Station("Torino", 45.044, 7.672)
    with pytest.raises(IngestError, match=r"HDSDR names no station: call the file STATION\.wav"):
        new_session_from_files([path], SOURCE, [near])
    path.with_suffix(".json").write_text('{"station": "Torino"}')
    session = new_session_from_files([path], SOURCE, [near])
    assert session.measurements[0].station == near
    assert session.start == datetime(2026, 3, 1, 12, tzinfo=UTC)


names = st.sampled_from(
    [*(f"a{suffix}" for suffix in SUFFIXES), "20260301T120000Z_77500_A_iq.wav", "a.txt"]
)
NPY = io.BytesIO()
np.save(NPY, np.ones(4, np.complex64))
heads = st.sampled_from(
    [
        b"",
        b"RIFF",
        b"\x1f\x8b",
        b"PK\3\4",
        b"RIFF\xff\0\0\0WAVEfmt ",
        NPY.getvalue(),
        b'{"global":{',
    ]
)


@given(names, heads, st.binary(max_size=200), st.none() | st.binary(max_size=40))
def test_any_bytes_give_a_recording_or_an_error_with_the_file(
    tmp_path_factory, name, head, tail, beside
):
    """`heimdall locate` takes whatever file it is given."""
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(head + tail)
    if beside is not None:
        path.with_suffix(".json").write_bytes(beside)
        path.with_suffix(".sigmf-data").write_bytes(beside)
    try:
        recording = read_recording(path, Details(sample_rate_hz=12_000.0))
        outcome = path.stem if recording.iq.size else "empty"
    except DataError as error:
        outcome = str(error)
    assert path.stem in outcome
