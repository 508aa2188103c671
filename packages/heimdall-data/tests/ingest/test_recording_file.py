"""Folders, SigMF pairs and collections as lists of recordings."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import sigmf
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import IngestError
from heimdall_data.ingest.new_session import NewSource
from heimdall_data.ingest.recording_file import RecordingFile, recording_paths
from heimdall_data.ingest.session_files import new_session_from_files

SOURCE = NewSource(name="beacon", latitude_deg=45.0, longitude_deg=7.0, frequency_hz=145e6)
TORINO = {"type": "Point", "coordinates": [7.672, 45.044]}


def write_sigmf(folder, name, place=TORINO, **more):
    """A SigMF pair of 8 samples, as the format's own library writes it."""
    path = folder / f"{name}.sigmf-data"
    np.arange(16, dtype="<i2").tofile(path)
    about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500.0, "core:version": "1.2.0"}
    written = sigmf.SigMFFile(data_file=path, global_info=about | more)
    capture = {"core:frequency": 145.5e6, "core:datetime": "2026-01-02T03:04:05Z"}
    written.add_capture(0, capture | ({"core:geolocation": place} if place else {}))
    written.tofile(path.with_suffix(".sigmf-meta"))
    return path


def write_collection(folder, *names):
    """A collection, as the format's own library writes it."""
    metas = [f"{name}.sigmf-meta" for name in names]
    sigmf.SigMFCollection(metas, base_path=folder).tofile(folder / "all.sigmf-collection")
    return folder / "all.sigmf-collection"


def test_a_folder_is_the_recordings_directly_in_it(tmp_path):
    """Notes, tables and other folders lie beside recordings, and a pair is one recording."""
    write_sigmf(tmp_path, "Torino")
    for name in ("b.npy", "a.WAV", "stations.csv", "README.md", ".hidden.npy"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.npy").touch()
    found = [path.name for path in recording_paths([tmp_path])]
    assert found == ["Torino.sigmf-meta", "a.WAV", "b.npy"]


def test_what_is_given_twice_is_one_recording(tmp_path):
    """A shell's `*` names both files of a pair."""
    data = write_sigmf(tmp_path, "Torino")
    given = [data, data.with_suffix(".sigmf-meta"), tmp_path]
    assert recording_paths(given) == (data.with_suffix(".sigmf-meta"),)


def test_a_collection_of_the_formats_own_library_is_a_session(tmp_path):
    """Its recordings, each at the place that it tells itself."""
    write_sigmf(tmp_path, "Torino")
    write_sigmf(tmp_path, "Genova", {"type": "Point", "coordinates": [8.956, 44.395]})
    write_sigmf(tmp_path, "elsewhere")
    collection = write_collection(tmp_path, "Torino", "Genova")
    session = new_session_from_files([collection], SOURCE, [])
    assert [m.station for m in session.measurements] == [
        Station("Torino", 45.044, 7.672),
        Station("Genova", 44.395, 8.956),
    ]
    assert session.start == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert {m.frequency_hz for m in session.measurements} == {145.5e6}


def test_a_collection_whose_recording_was_changed_says_so(tmp_path):
    """Its hashes are how a mix-up of two campaigns is noticed."""
    data = write_sigmf(tmp_path, "Torino")
    collection = write_collection(tmp_path, "Torino")
    meta = data.with_suffix(".sigmf-meta")
    meta.write_text(meta.read_text() + " ")
    with pytest.raises(IngestError, match=r"Torino\.sigmf-meta: its SHA-512 is not the one in all"):
        recording_paths([collection])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a SigMF collection"),
        ('{"collection": {"core:streams": []}}', "core:streams lists no recording"),
        ('{"collection": {"core:streams": [["a"]]}}', "not a SigMF collection"),
        ('{"collection": {"core:streams": [{"name": "../a"}]}}', "lists a recording '../a'; its"),
        ('{"collection": {"core:streams": ["a"]}}', "lists a recording None; its name must be"),
        (
            '{"collection": {"core:streams": [{"name": "a"}, ["b", "0"]]}}',
            r"not beside it: .*/a\.sigmf-meta, .*/b\.sigmf-meta",
        ),
    ],
)
def test_what_is_no_collection_says_why(tmp_path, content, message):
    """And none leads out of its folder: the names in it are data."""
    path = tmp_path / "x.sigmf-collection"
    path.write_text(content)
    with pytest.raises(IngestError, match=message):
        recording_paths([path])


def test_a_station_far_from_where_its_recording_says_is_refused(tmp_path):
    """One of the two is wrong, and the label would be learnt with it."""
    data = write_sigmf(tmp_path, "Torino")
    near, far = (Station("Torino", 45.044, longitude) for longitude in (7.7, 8.0))
    assert new_session_from_files([data], SOURCE, [near]).measurements[0].station == near
    with pytest.raises(IngestError, match=r"45.044, 7.672, which is 26 km from .* \(45.044, 8.0\)"):
        new_session_from_files([data], SOURCE, [far])


def test_samples_under_a_foreign_name_are_read(tmp_path):
    """A non-conforming dataset is a recorder's own file, described from beside."""
    data = write_sigmf(tmp_path, "Torino")
    meta = data.with_suffix(".sigmf-meta")
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
        with pytest.raises(IngestError, match=r"core:dataset is .* in the same folder"):
            RecordingFile.inspected(meta)


def test_metadata_without_samples_say_so(tmp_path):
    """Such files are published on purpose; a missing file would be looked for in vain."""
    data = write_sigmf(tmp_path, "Torino", **{"core:metadata_only": True})
    data.unlink()
    with pytest.raises(IngestError, match="comes without samples; there is nothing to ingest"):
        RecordingFile.inspected(data)


def test_a_file_too_large_to_be_a_recording_is_not_read(tmp_path):
    """The wrong file may be a disk image."""
    path = tmp_path / "Torino.npy"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(IngestError, match=r"3221225472 bytes, more .* cut it into several"):
        RecordingFile.inspected(path, sample_rate_hz=1.0)


def test_a_path_that_cannot_be_reached_says_why(tmp_path):
    """That there is no such file would be wrong, and send somebody looking for it."""
    with pytest.raises(IngestError, match=r"cannot reach .*x \(File name too long\); correct the"):
        recording_paths([tmp_path / "a.npy", tmp_path / ("x" * 300)])
