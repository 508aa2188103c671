"""SigMF recordings, compared with the format's own library."""

import gzip
import hashlib
import io
import json
import lzma
import math
import re
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import sigmf
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.recording import (
    ReceiverPosition,
    Recording,
    gps_ns_from_text,
    utc_text,
)
from heimdall_data.recordings.sigmf_recording import CLOCK_KEY, MOST_CAPTURES, sigmf_archive
from heimdall_features.outside_json import LARGEST_BYTES
from heimdall_features.signal import LARGEST_SAMPLE
from hypothesis import assume, given
from hypothesis import strategies as st

TYPES = [
    f"c{kind}{order}"
    for kind in ("f32", "f64", "i32", "i16", "u32", "u16")
    for order in ("_le", "_be")
]
NAME = "sessions/7/a.sigmf"
SAMPLES = np.arange(20, dtype="<i2").tobytes()
"""Ten samples."""
NOON_NS = gps_ns_from_text("2026-03-01T12:00:00Z")


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


def point(latitude_deg, longitude_deg):
    """A position in GeoJSON, with an altitude."""
    return {"type": "Point", "coordinates": [longitude_deg, latitude_deg, 250.0]}


def decoded(data, metadata=None):
    """As the dataset reads it."""
    return decode(data, "sigmf", name=NAME, metadata=metadata)


@given(st.binary(min_size=16, max_size=160), st.sampled_from([*TYPES, "ci8", "cu8"]))
def test_every_type_is_read_as_the_formats_own_library_reads_it(tmp_path_factory, data, datatype):
    """Scale and byte order are conventions, and others rely on theirs."""
    data = data[: len(data) // 16 * 16]
    path = tmp_path_factory.mktemp("sigmf") / "a.sigmf-data"
    path.write_bytes(data)
    path.with_suffix(".sigmf-meta").write_bytes(meta(datatype))
    with np.errstate(over="ignore"):
        expected = np.asarray(sigmf.fromfile(path)[:], np.complex64)
    if np.isfinite(expected).all():
        assume(np.abs(expected.view(np.float32)).max() <= LARGEST_SAMPLE)
        np.testing.assert_allclose(decoded(data, meta(datatype)).iq, expected, 1e-6, 1e-7)
    else:
        with pytest.raises(RecordingError, match="NaN or infinite"):
            decoded(data, meta(datatype))


def test_spellings_that_leave_no_doubt_are_read():
    """Capitals, and fields that say nothing."""
    about = meta("CI16_LE", **{"core:num_channels": None, "core:sha512": ""})
    plain = decoded(archive(data=SAMPLES, meta=meta())).iq
    np.testing.assert_array_equal(decoded(SAMPLES, about).iq, plain)
    np.testing.assert_array_equal(decoded(archive(DATA=SAMPLES, META=about)).iq, plain)


def test_samples_that_are_compressed_without_an_archive_are_called_that():
    """The format knows compressed archives alone."""
    with pytest.raises(RecordingError, match=r"a file compressed by gzip .*; unpack it"):
        decoded(gzip.compress(SAMPLES))
    with pytest.raises(RecordingError, match=r"zip archive.*; this one has 0 data and 0 metadata"):
        decoded(zipped(npy=b""))


def test_bytes_after_an_archive_are_refused():
    """Of two archives in one file, the second would be lost; blocks of zeros are its end."""
    whole = archive(data=SAMPLES, meta=meta())
    assert len(decoded(whole + bytes(10_240)).iq) == 10
    with pytest.raises(RecordingError, match="bytes after its end"):
        decoded(whole + whole)
    with pytest.raises(RecordingError, match="4 bytes after its end"):
        decoded(gzip.compress(whole) + b"more")
    packed = zipped(**{"a.sigmf-data": SAMPLES, "a.sigmf-meta": meta()})
    with pytest.raises(RecordingError, match="bytes before its begin, such as of another"):
        decoded(packed + packed)


def test_floats_are_relative_to_a_full_scale_that_is_given():
    """Integers have that of their type."""
    counts = np.array([30_000, -15_000], "<f4").tobytes()
    read = decode(counts, "sigmf", name=NAME, metadata=meta("cf32_le"), full_scale=30_000)
    assert read.iq.tolist() == [1 - 0.5j]
    kept = decode(SAMPLES, "sigmf", name=NAME, metadata=meta(), full_scale=30_000)
    np.testing.assert_array_equal(kept.iq, decoded(SAMPLES, meta()).iq)


def test_an_archive_of_the_formats_own_library_is_read(tmp_path):
    """Users' files were written by that library."""
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


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(lengths, st.integers(0, 10**6))
def test_the_longest_capture_is_read_with_its_own_frequency(lengths, offset):
    """Between captures the receiver was retuned; indices count from a recording's first file."""
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    captures = [
        {"core:sample_start": offset + start, "core:frequency": n} for n, start in enumerate(starts)
    ]
    data = np.arange(2 * sum(lengths), dtype="<i2").tobytes()
    recording = decoded(data, meta(captures=captures, **{"core:offset": offset}))
    n = lengths.index(max(lengths))
    expected = 2 * np.arange(starts[n], starts[n] + lengths[n])
    np.testing.assert_array_equal(recording.iq.real * 32768, expected)
    assert recording.center_frequency_hz == n
    assert recording.n_dropped_samples == sum(lengths) - lengths[n]


@given(lengths, st.data())
def test_foreign_bytes_are_cut_out_as_the_formats_own_library_does(tmp_path_factory, lengths, data):
    """A header taken for samples is a click at full scale, and shifts all that follows."""
    # The library maps whole samples only, so the foreign bytes are whole samples here.
    foreign = st.sampled_from([0, 4, 8, 44])
    headers = data.draw(st.lists(foreign, min_size=len(lengths), max_size=len(lengths)))
    trailing = data.draw(foreign)
    captures = [
        {"core:sample_start": sum(lengths[:n]), "core:header_bytes": header}
        for n, header in enumerate(headers)
    ]
    described = meta(captures=captures, **{"core:trailing_bytes": trailing})
    size = 4 * sum(lengths) + sum(headers) + trailing
    content = bytes(n * 37 % 251 for n in range(size))
    path = tmp_path_factory.mktemp("sigmf") / "a.sigmf-data"
    path.write_bytes(content)
    path.with_suffix(".sigmf-meta").write_bytes(described)
    theirs = sigmf.fromfile(path).read_samples_in_capture(int(np.argmax(lengths)))
    np.testing.assert_array_equal(decoded(content, described).iq, np.asarray(theirs))


latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
positions = st.tuples(latitudes, longitudes)


@given(positions, st.none() | positions)
def test_a_captures_position_comes_before_the_recordings(mast, van):
    """A van moves between captures; the position of a mast is given once."""
    capture = {"core:sample_start": 0} | ({"core:geolocation": point(*van)} if van else {})
    described = meta(captures=[capture], **{"core:geolocation": point(*mast)})
    assert decoded(SAMPLES, described).position == (*(van or mast), 250.0)


@given(st.integers(0, 10**9 - 1), st.none() | st.floats(0, 1), st.none() | st.floats(0, 1))
def test_a_time_is_trusted_as_far_as_its_uncertainty_says(ns, own, shared):
    """The format has no field for it, and most recorders' times are their computer's."""
    capture = {"core:sample_start": 0, "core:datetime": f"2026-03-01T12:00:00.{ns:09d}Z"}
    capture |= {} if own is None else {CLOCK_KEY: own}
    recording = decoded(
        SAMPLES, meta(captures=[capture], **({CLOCK_KEY: shared} if shared else {}))
    )
    assert recording.start_gps_ns == NOON_NS + ns
    assert recording.clock_sigma_s == next(
        (one for one in (own, shared or None) if one is not None), math.inf
    )


gaps = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=5)


@given(gaps, st.booleans())
def test_captures_are_placed_at_their_time_and_gaps_stay_empty(drawn, by_index):
    """A receiver that lost samples must not hear the rest too early; zeros would be silence."""
    captures, lengths, here, true = [], [0], 0, 0
    for n_samples, n_lost in drawn:
        told = {"core:global_index": true} if by_index and captures else {}
        told = told or {"core:datetime": utc_text(NOON_NS + true * 80_000)}  # 12.5 kHz
        captures.append({"core:sample_start": here, **told})
        lengths[-1] += n_samples
        here, true = here + n_samples, true + n_samples + n_lost
        lengths += [0] if n_lost else []
    data = np.arange(2 * here, dtype="<i2").tobytes()
    longest = decoded(data, meta(captures=captures, **{CLOCK_KEY: 1e-7}))
    stretches = sorted((longest, *longest.others), key=lambda one: one.start_gps_ns)
    assert [len(one.iq) for one in stretches] == [n for n in lengths if n]
    assert len(longest.iq) == max(lengths)
    lost = np.repeat(np.cumsum([0, *(n_lost for _, n_lost in drawn[:-1])]), [n for n, _ in drawn])
    late = np.concatenate(
        [(one.start_gps_ns - NOON_NS) // 80_000 + np.arange(len(one.iq)) for one in stretches]
    )
    np.testing.assert_array_equal(late, np.arange(here) + lost)


@given(gaps, st.floats(0, 1e-3), st.none() | st.floats(-400, 9000))
def test_an_archive_keeps_what_a_recording_knows(drawn, sigma_s, altitude_m):
    """The store's other formats hold neither the start nor its uncertainty."""
    start_ns, stretches = NOON_NS + 1, []
    for n_samples, n_lost in drawn:
        one = Recording(
            iq=np.arange(n_samples, dtype=np.complex64),
            sample_rate_hz=12_500.0,
            start_gps_ns=start_ns,
            clock_sigma_s=sigma_s,
            center_frequency_hz=77_500.0,
            position=ReceiverPosition(53.7, 7.3, altitude_m),
        )
        stretches.append(one)
        start_ns += (n_samples + 1 + n_lost) * 80_000
    archived = sigmf_archive(replace(stretches[0], others=tuple(stretches[1:])), "DF0KL")
    found = decoded(archived)
    again = sorted((found, *found.others), key=lambda one: one.start_gps_ns)
    for one, before in zip(again, stretches, strict=True):
        assert one.iq.tolist() == before.iq.tolist()
        for name in ("start_gps_ns", "clock_sigma_s", "center_frequency_hz", "position"):
            assert getattr(one, name) == getattr(before, name)


@given(st.floats(), st.floats())
def test_a_position_off_the_globe_is_refused(latitude_deg, longitude_deg):
    """It would be the station's position in the catalogue."""
    assume(not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180))
    with pytest.raises(RecordingError) as caught:
        decoded(SAMPLES, meta(**{"core:geolocation": point(latitude_deg, longitude_deg)}))
    assert f"{latitude_deg}, longitude {longitude_deg};" in str(caught.value)


@given(st.integers(0, len(SAMPLES) - 1), st.integers(0, 255), st.sampled_from([str, str.upper]))
def test_a_checksum_notices_every_changed_byte(place, value, spelt):
    """Nothing else shows that a SigMF recording is damaged or cut short."""
    digest = spelt(hashlib.sha512(SAMPLES).hexdigest())
    described = meta(**{"core:sha512": digest})
    assert len(decoded(SAMPLES, described).iq) == 10
    assume(SAMPLES[place] != value)
    for damaged in (SAMPLES[:place] + bytes([value]) + SAMPLES[place + 1 :], SAMPLES[:-4]):
        with pytest.raises(RecordingError, match=digest[:16]):
            decoded(damaged, described)


zones = st.none() | st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))


@given(st.datetimes(datetime(1980, 1, 7), datetime(2100, 1, 1)), zones)
def test_a_time_counts_as_utc_unless_it_has_a_zone(moment, zone):
    """The format requires UTC, and not every program writes the Z."""
    said = moment.replace(tzinfo=zone).isoformat()
    described = meta(captures=[{"core:sample_start": 0, "core:datetime": said}])
    assert decoded(SAMPLES, described).start_utc == moment.replace(tzinfo=zone or UTC)


@pytest.mark.parametrize("said", ["1772366400", 1772366400, "noon"])
def test_a_time_in_another_form_is_refused(said):
    """As seconds since 1980 those of 1970 would be ten years late."""
    described = meta(captures=[{"core:sample_start": 0, "core:datetime": said}])
    with pytest.raises(RecordingError, match=str(said)):
        decoded(SAMPLES, described)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
keys = st.sampled_from([
    "core:sample_rate", "core:datatype", "core:num_channels", "core:offset", "core:sha512",
    "core:trailing_bytes", "core:sample_start", "core:header_bytes", "core:frequency",
    "core:datetime", "core:geolocation", "core:global_index", CLOCK_KEY,
])  # fmt: skip
described = st.dictionaries(keys, json_values)


@pytest.mark.slow
@given(described, st.lists(described | json_values))
def test_any_metadata_give_a_recording_or_an_error_with_the_name(about, captures):
    """Other programs write these files; the run continues and names the object."""
    try:
        outcome = NAME if decoded(SAMPLES, meta(captures=captures, **about)).iq.size else "empty"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


@pytest.mark.parametrize(
    ("data", "metadata", "message"),
    [
        (bytes(8), meta("rf32_le"), "'rf32_le' is real"),
        (bytes(8), meta("ci12_le"), "'ci12_le'"),
        (bytes(8), meta("cf16_le"), "'cf16_le'"),
        (bytes(8), meta(**{"core:num_channels": 2}), "2 channels"),
        (bytes(7), meta(), "7 bytes .* 4 bytes"),
        (bytes(8), b"{", "cannot be read .Expecting property name"),
        (bytes(8), b"[]", "cannot be read .* `global`"),
        (bytes(8), b"1" * 5000, "JSON with an integer of thousands of digits.; write"),
        (bytes(8), meta(**{"core:sample_rate": "fast"}), "'fast'"),
        (bytes(8), meta(captures=[{"core:sample_start": 9}]), "samples 9 to 2"),
        (bytes(8), meta(captures=[{"core:header_bytes": 9}]), "9 bytes .* 8 bytes"),
        (bytes(8), meta(captures=[{"core:header_bytes": -4}]), "core:header_bytes is -4"),
        (bytes(8), meta(**{"core:trailing_bytes": 2}), "6 bytes"),
        (
            bytes(8),
            meta(captures=[{"core:sample_start": 1}, {"core:sample_start": 0}]),
            r"\[1, 0\]",
        ),
        (bytes(8), meta(**{"core:geolocation": {"type": "Polygon"}}), "'Polygon'"),
        (
            bytes(8),
            meta(**{"core:geolocation": {"type": "Point", "coordinates": "845"}}),
            "core:geolocation has the coordinates '845'",
        ),
        (b"no tar", None, "not a SigMF archive"),
        (archive(data=bytes(8)), None, "1 data and 0 metadata"),
        *(
            (bytes(8), meta(captures=[{f"core:{name}": value}]), told)
            for name, value, told in [
                ("datetime", "0001-01-01T00:00:00+14:00", "out of range"),
                ("datetime", "9999-12-31T23:59:59-12:00", "out of range"),
                ("frequency", float("nan"), "nan"),
                ("frequency", float("-inf"), "-inf"),
            ]
        ),
    ],
)
def test_an_unusable_recording_is_refused_with_the_value(data, metadata, message):
    """The message must say what is wrong with the file."""
    with pytest.raises(RecordingError, match=message) as caught:
        decoded(data, metadata)
    assert not re.search(r"\w(Error|Exception)\b", str(caught.value))


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


def test_metadata_of_many_megabytes_are_not_parsed():
    """Parsed, they take many times their size: 300 MB took 1.8 GB."""
    described = meta(**{"core:description": "x" * LARGEST_BYTES})
    with pytest.raises(RecordingError, match=f"more than {LARGEST_BYTES}"):
        decoded(SAMPLES, described)


def test_metadata_that_are_deeply_nested_are_refused():
    """They exhaust the stack of the parser."""
    with pytest.raises(RecordingError, match="too deeply nested"):
        decoded(SAMPLES, b"[" * 10**5 + b"]" * 10**5)


def test_a_million_captures_are_refused_and_ten_thousand_read(monkeypatch):
    """A million took 20 s; a receiver that hops ten times a second for minutes is real."""
    hops = [{"core:sample_start": n, "core:frequency": n + 1} for n in range(MOST_CAPTURES)]
    hopping = decoded(bytes(4 * MOST_CAPTURES), meta(captures=hops))
    assert len(hopping.others) == MOST_CAPTURES - 1
    monkeypatch.setattr(Recording, "cut", lambda *_: pytest.fail("a capture was read"))
    with pytest.raises(RecordingError, match=f"10001 captures, more than {MOST_CAPTURES}"):
        decoded(SAMPLES, meta(captures=[{}] * (MOST_CAPTURES + 1)))


@pytest.mark.parametrize("key", ["core:sample_rate", "core:offset", "core:trailing_bytes"])
def test_a_boolean_is_no_number(key):
    """Python takes True for 1: a rate of 1 Hz."""
    with pytest.raises(RecordingError, match="True"):
        decoded(SAMPLES, meta(**{key: True}))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_headers_of_an_archive_are_read_up_to_a_limit(kind):
    """60,000 members took 7 s, and headers that continue one another exhaust the stack."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for _ in range(1000):
            member = tarfile.TarInfo("a.sigmf-data")
            member.type = kind
            tar.addfile(member)
    with pytest.raises(RecordingError, match=f"{NAME}: .*more than 100 members"):
        decoded(stream.getvalue())


def test_a_long_header_of_an_archive_is_read_once():
    """Python's parser takes the square of its length: 100 kB of digits took 24 s."""
    for header, problem in ((b"1" * 10**5, "damaged record .* byte 0"), (bytes(2**21), "2097152")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            member = tarfile.TarInfo("x")
            member.type, member.size = tarfile.XHDTYPE, len(header)
            tar.addfile(member, io.BytesIO(header))
        with pytest.raises(RecordingError, match=problem):
            decoded(stream.getvalue())


@given(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(0, 300))
def test_an_archive_of_macos_is_read(form, n):
    """Its tar adds a file of notes to each file, and keeps a download's address in a header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for path, content in (("meta", meta()), ("data", SAMPLES)):
            for mark, inside in (("._", b"\0\5\x16\7" + bytes(159)), ("", content)):
                member = tarfile.TarInfo(f"{n * 'd'}/{mark}name.sigmf-{path}")
                member.size = len(inside)
                where = "https://example.org/" + 6000 * "x"
                member.pax_headers = {"SCHILY.xattr.com.apple.metadata:kMDItemWhereFroms": where}
                tar.addfile(member, io.BytesIO(inside))
    assert len(decoded(stream.getvalue()).iq) == 10


@pytest.mark.parametrize("compression", ["gz", "xz", "zip"])
def test_a_compressed_archive_of_the_formats_own_library_is_read(tmp_path, compression):
    """That library reads and writes all three."""
    path = tmp_path / "a.sigmf-data"
    np.arange(16, dtype="<i2").tofile(path)
    about = {"core:datatype": "ci16_le", "core:sample_rate": 12_500.0, "core:version": "1.2.0"}
    written = sigmf.SigMFFile(data_file=path, global_info=about)
    written.add_capture(0)
    packed = written.archive(tmp_path / f"b.sigmf.{compression}")
    content = (tmp_path / packed).read_bytes()
    assert decoded(content).iq.real.tolist() == [n / 32768 for n in range(0, 16, 2)]
    for n_bytes in (40, len(content) - 30):
        with pytest.raises(RecordingError, match=f"{NAME}: not a SigMF archive but a "):
            decoded(content[:n_bytes])


def test_a_compressed_archive_may_be_of_several_streams():
    """Programs that compress on several cores write one for each part."""
    whole = archive(meta=meta(), data=SAMPLES)
    for compress in (gzip.compress, lzma.compress):
        assert len(decoded(compress(whole[:700]) + compress(whole[700:])).iq) == 10
        with pytest.raises(RecordingError, match="more than 100 compressed streams"):
            decoded(101 * compress(b""))


def zipped(**members):
    """A zip archive with these contents under `name.sigmf-{key}`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for key, content in members.items():
            packed.writestr(f"name.sigmf-{key}", content)
    return stream.getvalue()


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, None])
def test_what_a_compressed_archive_unpacks_to_has_a_limit(monkeypatch, compress):
    """A few kilobytes of it may claim gigabytes, of this machine and of the next."""
    most = 2**22
    monkeypatch.setattr("heimdall_data.recordings.sigmf_recording.MAX_BYTES", most)
    large = bytes(16 * most)
    packed = zipped(data=large, meta=meta()) if compress is None else compress(large)
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=f"more than {most}"):
            decoded(packed)
        assert tracemalloc.get_traced_memory()[1] < 8 * most
    finally:
        tracemalloc.stop()


def test_a_zip_of_thousands_of_files_is_not_listed():
    """Python keeps half a kilobyte of each, and two gigabytes of file have room for millions."""
    with pytest.raises(RecordingError, match="more than 100 members"):
        decoded(zipped(**{f"data{n}": b"" for n in range(200)}))


def test_a_dataset_of_another_name_is_found_in_its_archive():
    """The format's own library packs a non-conforming dataset under its own name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("a/a.sigmf-meta", meta(**{"core:dataset": "raw.dat"}))
        packed.writestr("a/raw.dat", SAMPLES)
    assert len(decoded(stream.getvalue()).iq) == 10


@given(st.integers(0, 9), st.sampled_from([int, float]))
def test_a_whole_number_may_be_written_with_a_point(start, kind):
    """JSON does not tell 4 from 4.0, and some programs write the latter."""
    described = meta(captures=[{"core:sample_start": kind(start)}], **{"core:offset": kind(0)})
    assert len(decoded(SAMPLES, described).iq) == 10 - start


@pytest.mark.parametrize("start", [0.5, math.nan, math.inf, -1.0, "0"])
def test_a_number_that_is_not_whole_is_refused(start):
    """It is no index of a sample."""
    with pytest.raises(RecordingError, match=f"core:sample_start is {start!r}"):
        decoded(SAMPLES, meta(captures=[{"core:sample_start": start}]))


def test_an_empty_time_is_none():
    """Programs without a clock write it; the samples are good for levels."""
    recording = decoded(SAMPLES, meta(captures=[{"core:sample_start": 0, "core:datetime": ""}]))
    assert recording.start_gps_ns is None


@pytest.mark.parametrize("datatype", ["ci8", "cu8", "ci16_le", "cf32_le"])
def test_decoding_takes_little_more_memory_than_its_samples(datatype):
    """A file of 256 MB of 8-bit samples took 3 GB, for which the kernel kills processes."""
    n_samples = 2**18
    data = bytes(n_samples * {"8": 2, "6": 4, "2": 8}[datatype.split("_")[0][-1]])
    described = meta(datatype)
    tracemalloc.start()
    try:
        assert len(decoded(data, described).iq) == n_samples
        assert tracemalloc.get_traced_memory()[1] < 20 * n_samples
    finally:
        tracemalloc.stop()
