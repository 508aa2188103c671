"""What a file is, compared with files that others' libraries wrote."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import wave
import zipfile

import numpy as np
import pytest
from heimdall_data.errors import IngestError, RecordingError
from heimdall_data.ingest.recording_file import Details, read_recording, recording_paths
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.formats import FORMATS, SUFFIXES, kind_of


def written(write):
    """The bytes that a library writes into a file."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _wave(stream):
    with wave.open(stream, "wb") as file:
        file.setparams((2, 2, 12_000, 0, "NONE", None))
        file.writeframes(bytes(64))


def _tar(stream):
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"))


def _zip(stream):
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a", b"")


FILES = {
    "a NumPy file": written(lambda stream: np.save(stream, np.ones(8, np.complex64))),
    "an ordinary WAV": written(_wave),
    "a tar archive": written(_tar),
    "a zip archive": written(_zip),
    "compressed by gzip": gzip.compress(b"x"),
    "compressed by xz": lzma.compress(b"x"),
    "compressed by bzip2": bz2.compress(b"x"),
    "JSON": json.dumps({"global": {}}).encode(),
    "macOS's notes": b"\0\5\x16\7" + bytes(159),
    "a web page": b"<!DOCTYPE html><html></html>",
    "a FLAC file": b"fLaC" + bytes(40),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("what", FILES)
def test_an_object_of_another_kind_is_called_what_it_is(what, form):
    """The first check of the wrong format that fails says nothing about the cause."""
    data = FILES[what]
    if kind_of(data).format == form:
        return
    with pytest.raises(RecordingError, match=f"a/b: .*{what}.*, not '{form}'; "):
        decode(data, form, name="a/b", sample_rate_hz=12_000.0)


@pytest.mark.parametrize("suffix", ["", ".bin", *SUFFIXES])
def test_a_local_file_is_what_it_contains(tmp_path, suffix):
    """Programs and people give files any name."""
    path = tmp_path / f"Torino{suffix}"
    for what in ("a NumPy file", "an ordinary WAV"):
        path.write_bytes(FILES[what])
        if suffix in (".sigmf-data", ".sigmf-meta"):  # raw samples may begin with anything
            with pytest.raises(ValueError, match="Torino"):
                read_recording(path, Details(sample_rate_hz=12_000.0))
        else:
            recording = read_recording(path, Details(sample_rate_hz=12_000.0))
            assert (recording.station, recording.sample_rate_hz) == ("Torino", 12_000)
    if suffix in SUFFIXES:
        assert len(recording_paths([tmp_path])) == 1


@pytest.mark.parametrize("what", ["compressed by bzip2", "a web page", "a FLAC file", "macOS's"])
def test_a_local_file_that_is_no_recording_is_called_what_it_is(tmp_path, what):
    """Its name says WAV, and a failed download is a web page."""
    path = tmp_path / "Torino.wav"
    path.write_bytes(next(data for name, data in FILES.items() if name.startswith(what)))
    with pytest.raises(IngestError, match=rf"Torino\.wav: .*{what}"):
        read_recording(path)


def test_what_is_compressed_is_named_if_it_is_no_archive(tmp_path):
    """A NumPy file may have been compressed by hand."""
    path = tmp_path / "Torino.npy.gz"
    path.write_bytes(gzip.compress(FILES["a NumPy file"]))
    with pytest.raises(RecordingError, match=r"compressed by gzip .*it holds a NumPy file"):
        read_recording(path)
    path.write_bytes(FILES["a zip archive"])
    with pytest.raises(
        RecordingError, match=r"a zip archive.*; this one has 0 data and 0 metadata"
    ):
        read_recording(path)
