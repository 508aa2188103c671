"""SigMF recordings, against the format's own library."""

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime

import numpy as np
import pytest
import sigmf
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import decode
from hypothesis import given
from hypothesis import strategies as st

TYPES = [
    f"c{kind}{order}"
    for kind in ("f32", "f64", "i32", "i16", "u32", "u16")
    for order in ("_le", "_be")
]


def meta(datatype="ci16_le", captures=({"core:sample_start": 0},), **more):
    """The bytes of a `.sigmf-meta`."""
    about = {"core:datatype": datatype, "core:sample_rate": 12_500, "core:version": "1.2.0"}
    document = {"global": about | more, "captures": list(captures), "annotations": []}
    return json.dumps(document).encode()


def archive(**files):
    """An archive with these contents under `name.sigmf-{key}`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for key, content in files.items():
            member = tarfile.TarInfo(f"name/name.sigmf-{key}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def point(longitude_deg, latitude_deg):
    """A place as GeoJSON has it."""
    return {"type": "Point", "coordinates": [longitude_deg, latitude_deg, 250.0]}


def decoded(data, metadata=None):
    """As the dataset reads it."""
    return decode(data, "sigmf", name="sessions/7/a.sigmf", metadata=metadata)


@given(st.binary(min_size=16, max_size=160), st.sampled_from([*TYPES, "ci8", "cu8"]))
def test_every_type_is_read_as_the_formats_own_library_reads_it(tmp_path_factory, data, datatype):
    """Scale and byte order are conventions; theirs is the one that others rely on."""
    data = data[: len(data) // 16 * 16]
    path = tmp_path_factory.mktemp("sigmf") / "a.sigmf-data"
    path.write_bytes(data)
    path.with_suffix(".sigmf-meta").write_bytes(meta(datatype))
    with np.errstate(over="ignore"):
        expected = np.asarray(sigmf.fromfile(path)[:], np.complex64)
    if np.isfinite(expected).all():
        np.testing.assert_allclose(decoded(data, meta(datatype)).iq, expected, 1e-6, 1e-7)
    else:
        with pytest.raises(RecordingError, match="NaN or infinite"):
            decoded(data, meta(datatype))


def test_an_archive_of_the_formats_own_library_is_read(tmp_path):
    """What users have was written by that library."""
    path = tmp_path / "a.sigmf-data"
    np.arange(16, dtype="<i2").tofile(path)
    about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500.0, "core:version": "1.2.0"}
    written = sigmf.SigMFFile(data_file=path, global_info=about)
    written.add_capture(
        0, {"core:frequency": 145.5e6, "core:datetime": "2025-12-07T18:35:06.250000Z"}
    )
    written.tofile(tmp_path / "b.sigmf", toarchive=True)
    recording = decoded((tmp_path / "b.sigmf").read_bytes())
    assert (len(recording.iq), recording.sample_rate_hz) == (8, 12_500)
    assert recording.center_frequency_hz == 145.5e6
    assert recording.start_utc == datetime(2025, 12, 7, 18, 35, 6, 250_000, tzinfo=UTC)
    assert not recording.clock_locked


def test_of_several_captures_the_longest_is_read():
    """Between captures the receiver was retuned or stopped; they are not one signal."""
    captures = [
        {"core:sample_start": 0, "core:frequency": 1.0},
        {"core:sample_start": 2, "core:frequency": 2.0},
        {"core:sample_start": 7, "core:frequency": 3.0},
    ]
    recording = decoded(np.arange(20, dtype="<i2").tobytes(), meta(captures=captures))
    np.testing.assert_array_equal(recording.iq.real * 32768, [4, 6, 8, 10, 12])
    assert (recording.center_frequency_hz, recording.n_dropped_samples) == (2, 5)


@given(st.data())
def test_foreign_bytes_are_cut_out_as_the_formats_own_library_does(tmp_path_factory, data):
    """A header taken for samples is a click at full scale, and shifts all that follows."""
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    # The library maps whole samples only, so that the foreign bytes are such here.
    foreign = st.sampled_from([0, 4, 8, 44])
    headers = data.draw(st.lists(foreign, min_size=len(lengths), max_size=len(lengths)))
    trailing = data.draw(foreign)
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    captures = [
        {"core:sample_start": start, "core:header_bytes": header}
        for start, header in zip(starts, headers, strict=True)
    ]
    described = meta(captures=captures, **{"core:trailing_bytes": trailing})
    size = 4 * sum(lengths) + sum(headers) + trailing
    content = bytes(n * 37 % 251 for n in range(size))
    path = tmp_path_factory.mktemp("sigmf") / "a.sigmf-data"
    path.write_bytes(content)
    path.with_suffix(".sigmf-meta").write_bytes(described)
    longest = int(np.argmax(lengths))
    theirs = sigmf.fromfile(path).read_samples_in_capture(longest)
    np.testing.assert_array_equal(decoded(content, described).iq, np.asarray(theirs))


def test_a_recording_split_over_files_counts_from_its_own_first_sample():
    """The second file of a recording says where it goes on: all indices are absolute."""
    captures = [{"core:sample_start": 1000, "core:frequency": 5.0}]
    described = meta(captures=captures, **{"core:offset": 1000})
    recording = decoded(np.arange(8, dtype="<i2").tobytes(), described)
    assert (len(recording.iq), recording.center_frequency_hz) == (4, 5)


def test_the_receivers_place_is_the_captures_or_else_that_of_all():
    """A van moves between captures; a mast does not, and says it once."""
    data = np.arange(20, dtype="<i2").tobytes()
    captures = [{"core:sample_start": 0}, {"core:sample_start": 2}]
    fixed = meta(captures=captures, **{"core:geolocation": point(7.672, 45.044)})
    assert decoded(data, fixed).receiver_deg == (45.044, 7.672)
    captures[1]["core:geolocation"] = point(8.956, 44.395)
    moved = meta(captures=captures, **{"core:geolocation": point(7.672, 45.044)})
    assert decoded(data, moved).receiver_deg == (44.395, 8.956)
    assert decoded(data, meta()).receiver_deg is None


def test_a_true_checksum_is_accepted_and_a_false_one_is_not():
    """The checksum is how a truncated SigMF recording is noticed at all."""
    data = np.arange(20, dtype="<i2").tobytes()
    good = meta(**{"core:sha512": hashlib.sha512(data).hexdigest()})
    assert len(decoded(data, good).iq) == 10
    with pytest.raises(RecordingError, match=r"SHA-512"):
        decoded(data[:-4], good)


@pytest.mark.parametrize(
    ("data", "metadata", "message"),
    [
        (bytes(8), meta("rf32_le"), "'rf32_le' is real"),
        (bytes(8), meta("ci12_le"), "'ci12_le'"),
        (bytes(8), meta(**{"core:num_channels": 2}), "2 channels"),
        (bytes(7), meta(), "7 bytes .* 4 bytes"),
        (bytes(8), b"{", "JSONDecodeError"),
        (bytes(8), b"[]", "TypeError"),
        (bytes(8), meta(**{"core:sample_rate": "fast"}), "'fast'"),
        (bytes(8), meta(captures=[{"core:sample_start": 9}]), "samples 9 to 2"),
        (bytes(8), meta(captures=[{"core:header_bytes": 9}]), "9, the dataset has 8 bytes"),
        (bytes(8), meta(captures=[{"core:header_bytes": -4}]), "core:header_bytes is -4"),
        (bytes(8), meta(**{"core:trailing_bytes": 9}), "9, the dataset has 8 bytes"),
        (bytes(8), meta(**{"core:trailing_bytes": 2}), "6 bytes"),
        (
            bytes(8),
            meta(captures=[{"core:sample_start": 1}, {"core:sample_start": 0}]),
            r"captures start at \[1, 0\]",
        ),
        (bytes(8), meta(**{"core:geolocation": point(45, 97)}), "latitude 97.0"),
        (
            bytes(8),
            meta(**{"core:geolocation": {"type": "Polygon", "coordinates": []}}),
            "'Polygon'",
        ),
        (bytes(8), meta(**{"core:geolocation": {"type": "Point"}}), "KeyError: 'coordinates'"),
        (b"no tar", None, "not a SigMF archive"),
        (archive(data=bytes(8)), None, "1 data and 0 metadata"),
    ],
)
def test_what_is_no_usable_recording_says_why(data, metadata, message):
    """Whoever stored it must learn from one line what is wrong."""
    with pytest.raises(RecordingError, match=message):
        decoded(data, metadata)


def test_a_sparse_archive_takes_no_memory():
    """A tar can claim a terabyte of zeros in a hundred bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.sigmf-data")
        member.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.map": "0,0",
            "GNU.sparse.size": str(10**12),
        }
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(RecordingError, match="0 data and 0 metadata"):
        decoded(stream.getvalue())


@pytest.mark.parametrize(
    "said",
    [
        {"core:datetime": "0001-01-01T00:00:00+14:00"},
        {"core:datetime": "9999-12-31T23:59:59-12:00"},
        {"core:frequency": float("nan")},
        {"core:frequency": float("-inf")},
    ],
)
def test_a_time_or_frequency_that_is_none_is_told(said):
    """Beyond the calendar, the time would be an error of Python's when it is asked for."""
    described = meta(captures=[{"core:sample_start": 0} | said])
    with pytest.raises(RecordingError, match="lack a usable core:sample_rate or capture"):
        decoded(np.arange(8, dtype="<i2").tobytes(), described)
