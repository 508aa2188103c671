"""Ordinary WAV files with I and Q, with the JSON that UberSDR and others put beside them."""

import contextlib
import io
import json
import math
import struct
import wave

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


@given(st.integers(1, 2**32 - 1), st.sampled_from([None, 0, 2**32 - 1]))
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


@pytest.mark.parametrize("more", [b"LIST\4\0\0\0abcd", b"id3 \3\0\0\0abc\0", bytes(7)])
def test_other_chunks_after_the_samples_are_passed_over(more):
    """Programs write their name there, and a pad."""
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
    unix_ns = gps_ns_from_text("1970-01-01T00:00:00Z")
    assert recording.start_gps_ns == unix_ns + second * 10**9 + ns
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


def test_a_file_of_empty_chunks_is_refused():
    """Each takes some hundred bytes of memory, and a file has room for millions."""
    chunks = b"".join(struct.pack("<II", number, 0) for number in range(1, 2000))
    data = struct.pack("<4sI4s", b"RIFF", len(chunks) + 4, b"WAVE") + chunks
    with pytest.raises(RecordingError, match=f"{NAME}: more than 1000 chunks"):
        recording_from_iq_wav(data, NAME)
