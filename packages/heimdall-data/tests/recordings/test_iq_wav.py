"""Ordinary WAV files with I and Q, with the JSON that UberSDR and others put beside them."""

import contextlib
import io
import json
import math
import struct
import wave
from datetime import UTC, datetime

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.iq_wav import WavNotes, iq_wav_name, recording_from_iq_wav
from heimdall_data.recordings.recording import gps_ns_from_text
from hypothesis import assume, given
from hypothesis import strategies as st

NAME = "m9psy_14074000_2026-01-21T15:10:19.937Z.wav"
START_NS = gps_ns_from_text("2026-01-21T15:10:19.937Z")
UBERSDR = {
    "receiver": {
        "callsign": "M9PSY",
        "gps": {"lat": 56.0403, "lon": -3.3554, "gps_enabled": True, "tdoa_enabled": True},
        "asl": 30,
    }
}
"""Cut from the README of UberSDR's recorder."""


def wav(values, rate_hz=48_000):
    """A file of 16-bit integers, by Python's own library."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, 2, rate_hz, 0, "NONE", None))
        file.writeframes(np.asarray(values, "<i2").tobytes())
    return stream.getvalue()


def ka9q_wav(values, frequency_hz, data_bytes=None):
    """A file of floats with the chunks that ka9q-radio's recorder writes."""
    body = np.asarray(values, "<f4").tobytes()
    form = struct.pack("<HHIIHHHHI16x", 3, 2, 24_000, 192_000, 8, 32, 22, 0, 0)
    auxiliary = struct.pack("<32xI128x", frequency_hz)
    chunks = ((b"fmt ", form), (b"fact", bytes(4)), (b"auxi", auxiliary), (b"data", body))
    content = b"WAVE"
    for kind, chunk in chunks:
        size = len(chunk) if kind != b"data" or data_bytes is None else data_bytes
        content += struct.pack("<4sI", kind, size) + chunk
    return struct.pack("<4sI", b"RIFF", len(content)) + content


def described(sidecar, name=NAME, **attributes):
    """A short recording with this JSON beside it."""
    content = None if sidecar is None else json.dumps(sidecar).encode()
    return recording_from_iq_wav(wav([[1, 2]] * 4), name, WavNotes(content, attributes))


@given(st.lists(st.tuples(*[st.integers(-(2**15), 2**15 - 1)] * 2), min_size=1))
def test_samples_are_relative_to_full_scale(pairs):
    """Levels of all formats must compare."""
    recording = recording_from_iq_wav(wav(pairs), NAME)
    expected = np.array(pairs) @ [1, 1j] / 32768
    np.testing.assert_array_equal(recording.iq, expected.astype(np.complex64))
    assert recording.sample_rate_hz == 48_000


def form(bits, coding=1, rate_hz=12_000):
    """Content of a chunk `fmt `."""
    frame = bits // 4
    return struct.pack("<HHIIHH", coding, 2, rate_hz, frame * rate_hz, frame, bits)


def riff(*chunks, tag=b"RIFF", data_bytes=None):
    """A file of these chunks, each a name and its content."""
    content = b"WAVE"
    for kind, chunk in chunks:
        size = len(chunk) if kind != b"data" or data_bytes is None else data_bytes
        content += struct.pack("<4sI", kind, size) + chunk + bytes(len(chunk) % 2)
    size = len(content) if tag == b"RIFF" else 2**32 - 1
    return struct.pack("<4sI", tag, size) + content


def wave64(*chunks):
    """The same as Sony's Wave64, whose names are GUIDs and whose sizes count them."""
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    content = b"wave" + tail
    for kind, chunk in chunks:
        content += kind + tail + struct.pack("<Q", 24 + len(chunk)) + chunk + bytes(-len(chunk) % 8)
    guid = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    return guid + struct.pack("<Q", 24 + len(content)) + content


pairs_of_16_bits = st.lists(st.tuples(*[st.integers(-(2**15), 2**15 - 1)] * 2), min_size=1)


@given(pairs_of_16_bits, st.booleans(), st.booleans())
def test_files_for_more_than_four_gigabytes_are_read(pairs, is_finished, with_more):
    """Programs that record for hours write RF64, BW64 or Wave64 from the start."""
    body = np.asarray(pairs, "<i2").tobytes()
    more = [(b"LIST", b"INFOISFT\4\0\0\0Lavf")] * with_more
    chunks = [(b"fmt ", form(16)), *more, (b"data", body), *more]
    sizes = (b"ds64", struct.pack("<QQQI", 0, len(body) * is_finished, 0, 0))
    samples = recording_from_iq_wav(riff(*chunks), "a.wav").iq.tolist()
    chunks = chunks if is_finished else chunks[: 2 + with_more]
    for tag in (b"RF64", b"BW64"):
        large = riff(sizes, *chunks, tag=tag, data_bytes=2**32 - 1)
        assert recording_from_iq_wav(large, "a.wav").iq.tolist() == samples
    assert recording_from_iq_wav(wave64(*chunks), "a.w64").iq.tolist() == samples


@pytest.mark.parametrize(
    ("bits", "coding", "kind"),
    [(8, 1, "u1"), (16, 1, "<i2"), (24, 1, "<i4"), (32, 1, "<i4"), (32, 3, "<f4"), (64, 3, "<f8")],
)
def test_every_width_is_relative_to_the_same_full_scale(bits, coding, kind):
    """SDR# records 8, 16 or 32 bits, others 24: levels of all of them compare."""
    true = np.array([0.5, -0.25, -1.0, 0.0])
    scale = 1.0 if coding == 3 else 2.0 ** (8 * np.dtype(kind).itemsize - 1)
    values = (true * scale + (scale if kind == "u1" else 0)).astype(kind)
    body = values.tobytes()
    if bits == 24:
        body = values.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    recording = recording_from_iq_wav(riff((b"fmt ", form(bits, coding)), (b"data", body)), "a.wav")
    assert recording.iq.tolist() == [0.5 - 0.25j, -1.0 + 0.0j]


HDSDR = "HDSDR_20260301_120000Z_7100kHz_RF.wav"
moments = st.datetimes(datetime(1980, 1, 7), datetime(2100, 1, 1), timezones=st.just(UTC))


def spectravue_wav(moment, frequency_hz):
    """A file with the chunk `auxi` of SpectraVue, SDR# and HDSDR."""
    when = (moment.year, moment.month, moment.isoweekday() % 7, moment.day)
    when += (moment.hour, moment.minute, moment.second, moment.microsecond // 1000)
    auxiliary = struct.pack("<16HI128x", *when, *when, frequency_hz)
    return riff((b"fmt ", form(16)), (b"auxi", auxiliary), (b"data", bytes(8)))


@given(moments, st.integers(1, 2**32 - 1))
def test_other_programs_start_is_known_and_trusted_only_if_vouched_for(moment, frequency_hz):
    """It is their computer's clock, in milliseconds, and better than the name's seconds."""
    data = spectravue_wav(moment, frequency_hz)
    recording = recording_from_iq_wav(data, HDSDR)
    assert recording.start_utc == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert recording.center_frequency_hz == frequency_hz
    assert (recording.clock_locked, recording.start_from_name) == (False, False)


@given(st.integers(0, 2**32), st.integers(1, 10**12 - 1), st.sampled_from(["utf-16-le", "utf-8"]))
def test_start_and_frequency_are_read_from_sdr_consoles_xml(second, frequency_hz, encoding):
    """It has the name of SpectraVue's chunk, whose fields would be letters of it."""
    start, tuned = f"UTCSeconds='{second}'", f'RadioCenterFreq="{frequency_hz}"'
    root = f'<?xml version="1.0"?><SDR-XML-Root><Definition {tuned} {start}/></SDR-XML-Root>'
    auxiliary = f"{root}\0".encode(encoding)
    data = riff((b"fmt ", form(16)), (b"auxi", auxiliary), (b"data", bytes(8)))
    recording = recording_from_iq_wav(data, "a.wav")
    assert recording.start_utc == datetime.fromtimestamp(second, UTC)
    assert recording.center_frequency_hz == frequency_hz
    for cut in (auxiliary[:60], b"<" * 60):
        data = riff((b"fmt ", form(16)), (b"auxi", cut), (b"data", bytes(8)))
        assert recording_from_iq_wav(data, "a.wav").start_gps_ns is None


def test_the_name_of_other_programs_has_a_start_and_a_frequency():
    """Without `auxi`, as SDR# writes in some versions, it is all there is: no clock."""
    data = riff((b"JUNK", bytes(28)), (b"fmt ", form(16)), (b"data", bytes(8)))
    recording = recording_from_iq_wav(data, "SDRSharp_20260301_120000Z_77500Hz_IQ.wav")
    assert recording.start_gps_ns == gps_ns_from_text("2026-03-01T12:00:00Z")
    assert (recording.center_frequency_hz, recording.start_from_name) == (77_500, True)
    assert recording_from_iq_wav(data, HDSDR).center_frequency_hz == 7_100_000
    none = spectravue_wav(datetime(2026, 3, 1, tzinfo=UTC), 5).replace(b"\xea\x07", bytes(2))
    assert recording_from_iq_wav(none, "a.wav").start_gps_ns is None


def test_demodulated_sound_in_stereo_is_refused():
    """It would be taken for I and Q."""
    data = riff((b"fmt ", form(16)), (b"data", bytes(8)))
    with pytest.raises(RecordingError, match="demodulated sound"):
        recording_from_iq_wav(data, HDSDR.replace("RF", "AF"))


@given(
    st.integers(1, 2**32 - 1),
    st.sampled_from([None, 0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 2**32 - 1]),
)
def test_floats_of_a_recorder_that_was_stopped_are_read(frequency_hz, data_bytes):
    """ka9q-radio writes sizes when it closes a file; a pipe never gets them."""
    recording = recording_from_iq_wav(ka9q_wav([0.5, -0.25], frequency_hz, data_bytes), "a.wav")
    assert recording.iq.tolist() == [0.5 - 0.25j]
    assert recording.center_frequency_hz == frequency_hz


CHUNK = struct.pack("<4sI", b"data", 4) + bytes(4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (wav([[3, 4]]), "a second recording at byte 48"),
        (CHUNK, "a second recording at byte 48"),
        (b"LIST\4\0\0\0abcd" + CHUNK, "a second recording at byte 60"),
        (b"abc", "3 bytes after the last chunk"),
    ],
)
def test_a_second_recording_in_a_file_is_refused(more, message):
    """It would be lost without a word."""
    with pytest.raises(RecordingError, match=f"{NAME}: {message}"):
        recording_from_iq_wav(wav([[1, 2]]) + more, NAME)


@pytest.mark.parametrize(
    "more",
    [
        b"LIST\4\0\0\0abcd",
        b"id3 \3\0\0\0abc\0",
        b"id3 \3\0\0\0abcLIST\4\0\0\0abcd",
        bytes(7),
        b"TAG" + bytes(125),
        b"ID3\4\0\0\0\0\1\2" + b"x" * 130,
    ],
)
def test_other_chunks_after_the_samples_are_passed_over(more):
    """Programs write their name there, a pad or none, and players their tags."""
    assert len(recording_from_iq_wav(wav([[1, 2]]) + more, NAME).iq) == 1


def test_floats_are_relative_to_a_full_scale_that_is_given():
    """Integers have that of their type."""
    counts = ka9q_wav([30_000, -15_000], 1)
    assert recording_from_iq_wav(counts, "a.wav", full_scale=30_000).iq.tolist() == [1 - 0.5j]
    kept = recording_from_iq_wav(wav([[1, 2]]), NAME, full_scale=30_000)
    assert kept.iq.tolist() == [(1 + 2j) / 32768]


def test_ubersdrs_time_is_known_and_not_trusted():
    """Its packets are stamped when they arrive: a TDOA flag of the operator changes nothing."""
    recording = described(UBERSDR)
    assert recording.start_gps_ns == START_NS
    assert recording.clock_sigma_s == math.inf
    assert not recording.clock_locked
    assert recording.position == (56.0403, -3.3554, 30)
    assert (recording.station, recording.center_frequency_hz) == ("m9psy", 14_074_000)


@given(st.integers(0, 10**9 - 1), st.floats(0, 1))
def test_json_states_the_start_to_the_nanosecond_and_its_uncertainty(ns, sigma_s):
    """A microsecond is 300 m of path."""
    start = f"2026-01-21T15:10:20.{ns:09d}Z"
    recording = described({**UBERSDR, "start_time": start, "start_uncertainty_s": sigma_s})
    assert recording.start_gps_ns == START_NS + 63_000_000 + ns
    assert recording.clock_sigma_s == sigma_s
    assert recording.clock_locked == (sigma_s <= 1e-4)


def test_keys_of_the_json_come_before_names_and_attributes():
    """They are written by hand, to correct what a program says."""
    told = {"frequency_hz": 1e6, "sample_rate_hz": 48_000.25, "station": "attic"}
    place = {"latitude": 45, "longitude": 7, "altitude_m": 250}
    recording = described(UBERSDR | told | place, frequency="7000", unixstarttime="0.000000000")
    assert (recording.center_frequency_hz, recording.station) == (1e6, "attic")
    assert recording.sample_rate_hz == 48_000.25
    assert recording.position == (45, 7, 250)


@given(st.integers(0, 4 * 10**9), st.integers(0, 10**9 - 1))
def test_ka9q_radios_attributes_give_time_and_frequency(second, ns):
    """The name has tenths of a second only."""
    recording = described(
        None, "a.wav", frequency="14074000.250", unixstarttime=f"{second}.{ns:09d}"
    )
    utc = datetime.fromtimestamp(second, UTC)
    assert recording.start_gps_ns == gps_ns_from_text(f"{utc:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z")
    assert recording.center_frequency_hz == 14_074_000.25


stations = st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True)


@given(stations, st.integers(0, 10**11))
def test_a_name_gives_station_frequency_and_start(station, frequency_hz):
    """Host names have dots, and users' names underscores."""
    named = iq_wav_name(f"folder/{station}_{frequency_hz}_2026-01-21T15:10:19.937Z.wav")
    assert named == (station, frequency_hz, START_NS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
keys = st.sampled_from([
    "start_time", "start_uncertainty_s", "sample_rate_hz", "frequency_hz", "station", "latitude",
    "longitude", "altitude_m", "receiver", "gps", "lat", "lon", "asl",
])  # fmt: skip
sidecars = st.dictionaries(keys, json_values | st.dictionaries(keys, json_values))


@given(sidecars, st.text(max_size=20))
def test_any_json_gives_a_recording_or_an_error_with_the_name(sidecar, attribute):
    """Other programs write these files; the run continues and names the file."""
    try:
        recording = described(sidecar, frequency=attribute, unixstarttime=attribute)
        outcome = NAME if recording.iq.size else "empty"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


@given(st.data(), st.booleans())
def test_a_damaged_file_is_refused_by_name_or_read(data, as_floats):
    """Whatever a bad disk does to a file, the run continues and names it."""
    intact = ka9q_wav([1.0] * 8, 10**6) if as_floats else wav([[1, 2]] * 8)
    broken = bytearray(intact)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    broken = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    try:
        outcome = NAME if recording_from_iq_wav(broken, NAME).iq.size <= 8 else "too long"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


@given(st.binary(max_size=60))
def test_json_that_is_none_is_refused(content):
    """A position would be missing without a word."""
    with contextlib.suppress(ValueError):
        assume(not isinstance(json.loads(content), dict))
    with pytest.raises(RecordingError, match="m9psy"):
        recording_from_iq_wav(wav([[1, 2]]), NAME, WavNotes(content))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is text", "not a WAV file"),
        (wav([[1, 2]])[:-1], "3 bytes of 4"),
        (wav([[1, 2]])[:36], "`data`"),
        (wav([[1, 2]]).replace(b"\2\0\x80\xbb", b"\1\0\x80\xbb"), "1 channel"),
    ],
)
def test_an_unusable_file_is_refused_with_the_value(data, message):
    """The message must say what is wrong with the file."""
    with pytest.raises(RecordingError, match=message):
        recording_from_iq_wav(data, NAME)


more = [(b"LIST", b"INFOISFT\4\0\0\0Lavf")]


def test_an_empty_chunk_of_samples_does_not_swallow_those_after_it():
    """A size of 0 is a stopped program's too, whose samples go on to the end of the file."""
    described, samples = (b"fmt ", form(16)), bytes(range(1, 9))
    assert len(recording_from_iq_wav(riff(described, (b"data", samples)), NAME).iq) == 2
    late = riff(described, (b"data", b""), *more, (b"data", samples))
    assert len(recording_from_iq_wav(late, NAME).iq) == 2
    stopped = riff(described, (b"data", samples), data_bytes=0)
    assert len(recording_from_iq_wav(stopped, NAME).iq) == 2
    with pytest.raises(RecordingError, match="no complete chunk"):
        recording_from_iq_wav(riff(described, (b"data", b""), *more), NAME)


def test_a_file_of_empty_chunks_is_refused():
    """Each takes some hundred bytes of memory, and a file has room for millions."""
    chunks = b"".join(struct.pack("<II", number, 0) for number in range(1, 2000))
    data = struct.pack("<4sI4s", b"RIFF", len(chunks) + 4, b"WAVE") + chunks
    with pytest.raises(RecordingError, match=f"{NAME}: more than 1000 chunks"):
        recording_from_iq_wav(data, NAME)
