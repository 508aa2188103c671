"""KiwiSDR WAVs: made ones with every known fault, and real ones."""

import math
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.kiwi_wav import kiwi_name
from hypothesis import assume, given
from hypothesis import strategies as st

NAME = "20171127T104156Z_77500_DF0KL_iq.wav"
START = datetime(2017, 11, 27, 10, 41, 56, tzinfo=UTC)
WEEK_S = 604_800
FIRST_SECOND = 124_934
PAIRS = 512


def block(second, nanosecond, samples, age=1):
    """A `kiwi` chunk and its `data` chunk."""
    stamp = struct.pack("<4sIBBII", b"kiwi", 10, age, 0, second, nanosecond)
    return stamp + struct.pack("<4sI", b"data", samples.nbytes) + samples.tobytes()


def stamps_s(n, rate=12_001.145, first=FIRST_SECOND + 0.25):
    """Seconds of the week of `n` blocks in a row."""
    return (first + np.arange(n) * PAIRS / rate).tolist()


def wav(stamps, *, age=1, header_rate=12_001, bits=16, channels=2):
    """A file whose sample values count its blocks."""
    body = b""
    for number, stamp in enumerate(stamps):
        second, nanosecond = divmod(round(stamp * 1e9), 10**9)
        samples = np.full((PAIRS, 2), number, "<i2")
        body += block(second % WEEK_S, nanosecond, samples, age)
    form = struct.pack("<HHIIHH", 1, channels, header_rate, header_rate * 4, 4, bits)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form
    return struct.pack("<4sI", b"RIFF", len(head) + len(body)) + head + body


def decoded(data, name=NAME, **options):
    """As the dataset reads it."""
    return decode(data, "kiwi_wav", name=name, **options)


def blocks_in(recording):
    """Which blocks of `wav` the recording holds."""
    return (recording.iq.real[::PAIRS] * 32768).astype(int).tolist()


@given(
    st.floats(-150, 150),
    st.integers(4, 60),
    st.floats(0, WEEK_S - 1) | st.floats(WEEK_S - 1, WEEK_S - 0.01),
    st.lists(st.floats(0, WEEK_S - 1), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_rate_and_start_come_from_the_stamps(ppm, n, first, stale, seed):
    """The header's rate is off by 100 us after a second, which is 30 km of radio path."""
    rate = 12_001 * (1 + ppm * 1e-6)
    jitter = np.random.default_rng(seed).uniform(-2e-7, 2e-7, n)
    stamps = (np.array(stamps_s(n, rate, first)) + jitter).tolist()
    near = datetime(2017, 11, 26, tzinfo=UTC) + timedelta(seconds=first - 18)
    stale = [s for s in stale if abs((s - first + WEEK_S / 2) % WEEK_S - WEEK_S / 2) > 10]
    recording = decoded(wav(stale + stamps), "a", start=near)
    assert recording.clock_locked
    assert len(recording.iq) == n * PAIRS
    assert recording.n_dropped_samples == len(stale) * PAIRS
    assert recording.sample_rate_hz == pytest.approx(rate, rel=4e-7 / (n * PAIRS / rate) * 4)
    error_s = (recording.start_utc - near).total_seconds()
    assert error_s == pytest.approx(0, abs=2e-6)


@given(st.integers(0, 4), st.integers(2, 20))
def test_all_blocks_are_read_and_stale_ones_dropped(n_stale, n):
    """An ordinary WAV reader returns 512 samples; a stale stamp would shift all others."""
    recording = decoded(wav([5.0 * k for k in range(n_stale)] + stamps_s(n)))
    assert blocks_in(recording) == list(range(n_stale, n_stale + n))
    assert recording.n_dropped_samples == n_stale * PAIRS
    assert recording.center_frequency_hz == 77_500


@given(st.integers(2, 18), st.integers(2, 18), st.integers(1, 50))
def test_a_gap_leaves_the_longer_part(n_before, n_after, n_lost):
    """Samples after lost blocks would have the wrong time, and gaps are not filled."""
    assume(n_before != n_after)
    stamps = stamps_s(n_before + n_lost + n_after)
    del stamps[n_before : n_before + n_lost]
    recording = decoded(wav(stamps))
    first, n = (0, n_before) if n_before > n_after else (n_before, n_after)
    assert blocks_in(recording) == list(range(first, first + n))
    assert (recording.start_utc - START).total_seconds() == pytest.approx(
        stamps[first] - FIRST_SECOND, abs=2e-6
    )


@given(st.integers(2, 17), st.floats(0.01, 1000))
def test_a_single_wrong_stamp_drops_no_sample(place, late_s):
    """The samples around a damaged stamp are good."""
    stamps = stamps_s(20)
    stamps[place] += late_s
    recording = decoded(wav(stamps))
    assert len(recording.iq) == 20 * PAIRS
    assert recording.sample_rate_hz == pytest.approx(12_001.145, abs=1e-4)


def test_a_few_late_stamps_do_not_change_the_rate():
    """A fit to all stamps would be a kilometre off at the end of a minute."""
    stamps = np.array(stamps_s(100))
    stamps[-5:] += 20e-6
    assert decoded(wav(stamps.tolist())).sample_rate_hz == pytest.approx(12_001.145, abs=1e-3)


@given(st.sampled_from([254, 255]), st.booleans(), st.integers(1, 9))
def test_without_a_lock_levels_are_kept_and_time_is_not(age, still, n):
    """Stamps of a receiver without GNSS can be hours wrong, or all the same."""
    recording = decoded(wav([0] * n if still else stamps_s(n), age=age))
    assert (recording.clock_locked, recording.start_gps_ns) == (False, None)
    assert recording.sample_rate_hz == 12_001
    assert len(recording.iq) == n * PAIRS


@given(st.integers(0, 251), st.integers(0, 251))
def test_a_clock_is_less_certain_the_older_its_solution(age, other):
    """The crystal runs free in between: by 7e-8, 5 km of path after four minutes."""
    assume(age < other)
    one, later = (decoded(wav(stamps_s(4), age=each)).clock_sigma_s for each in (age, other))
    assert 1e-7 <= one < later
    assert later == pytest.approx(7e-8 * other, rel=0.01, abs=1.3e-7)


@given(st.sampled_from([252, 253]))
def test_a_count_at_its_limit_is_no_clock(age):
    """The receiver counts to 252 s, so it may be hours."""
    assert decoded(wav(stamps_s(4), age=age)).clock_sigma_s == math.inf


def test_without_any_date_the_time_is_unknown():
    """A second of the week without the week is not a time, and guessing one would be wrong."""
    recording = decoded(wav(stamps_s(6)), "sessions/7/websdr_DF0KL.wav")
    assert (recording.clock_locked, recording.start_gps_ns) == (False, None)
    assert recording.sample_rate_hz == pytest.approx(12_001.145, abs=1e-3)


@given(st.integers(1, PAIRS * 4 + 25))
def test_a_last_block_cut_short_is_left_out(n_bytes):
    """A recorder that is stopped leaves an incomplete block at the end."""
    recording = decoded(wav(stamps_s(6)) + wav(stamps_s(1))[36 : 36 + n_bytes])
    assert len(recording.iq) == 6 * PAIRS


@given(st.binary(min_size=1, max_size=PAIRS * 4 + 25))
def test_bytes_after_the_last_block_are_refused(more):
    """They are no part of the recording, and perhaps the beginning of another."""
    assume(not b"kiwi".startswith(more[:4]))
    with pytest.raises(RecordingError, match=f"{len(more)} bytes after the last block"):
        decoded(wav(stamps_s(6)) + more)


@given(st.integers(36, 36 + 6 * (PAIRS * 4 + 26) - 1))
def test_a_file_shorter_than_its_header_says_is_truncated(n_bytes):
    """An interrupted upload must not look like a shorter recording."""
    with pytest.raises(RecordingError, match=f"truncated: {n_bytes} "):
        decoded(wav(stamps_s(6))[:n_bytes])


def resampled(sizes, header_rate=13_000):
    """A file whose blocks have these numbers of samples, and stamps a KiwiSDR's block apart."""
    body = b""
    for number, stamp in enumerate(stamps_s(len(sizes))):
        second, nanosecond = divmod(round(stamp * 1e9), 10**9)
        body += block(second, nanosecond, np.full((sizes[number], 2), number, "<i2"))
    head = wav([], header_rate=header_rate)[8:]
    return struct.pack("<4sI", b"RIFF", len(head) + len(body)) + head + body


@given(st.integers(0, 600), st.integers(200, 600), st.integers(3, 6))
def test_a_resampled_file_is_called_that(first, others, n):
    """The recorder's filter is late by an unknown time, and its file is not damaged."""
    assume(first != others)
    with pytest.raises(RecordingError, match=rf"{first} samples and block 1 has {others}, .*-resa"):
        decoded(resampled([first] + [others] * n))


@given(st.integers(100, 600))
def test_a_resampled_file_of_equal_blocks_has_no_clock(n_pairs):
    """Its samples are late by up to a block: 43 ms are 13,000 km of path."""
    recording = decoded(resampled([n_pairs] * 6, round(n_pairs * 12_001 / PAIRS)))
    assert len(recording.iq) == 6 * n_pairs
    assert recording.clock_locked == (n_pairs == PAIRS)
    assert n_pairs == PAIRS or recording.clock_sigma_s == pytest.approx(PAIRS / 12_001, rel=1e-2)


def test_stamps_of_another_rate_than_the_headers_name_both():
    """A change of the header's rate is no reason to record again."""
    with pytest.raises(RecordingError, match=r"12001\.1 Hz and the header is of 48000 Hz"):
        decoded(wav(stamps_s(9), header_rate=48_000))


@given(st.integers(0, 4), st.integers(6, 9))
def test_a_block_without_its_stamp_is_named(place, n):
    """An editor of sound leaves chunks out that it does not know."""
    whole, at = wav(stamps_s(n)), 36 + place * (PAIRS * 4 + 26)
    broken = struct.pack("<4sI", b"RIFF", len(whole) - 26) + whole[8:at] + whole[at + 18 :]
    with pytest.raises(RecordingError, match=rf"block {place} has no GNSS stamp .* byte {at};"):
        decoded(broken)


def test_a_file_written_into_a_pipe_is_read():
    """Its recorder could not go back to write the size."""
    whole = wav(stamps_s(3))
    assert len(decoded(whole[:4] + b"\xff" * 4 + whole[8:]).iq) == 3 * PAIRS


@given(st.data())
def test_a_damaged_file_is_refused_by_name_or_read(data):
    """Whatever a bad disk does to a file, the run continues and names the object."""
    broken = bytearray(wav(stamps_s(3)))
    place = data.draw(st.integers(0, 120))
    broken[place] ^= data.draw(st.integers(1, 255))
    broken = bytes(broken[: data.draw(st.integers(1, len(broken)))])
    try:
        outcome = NAME if len(decoded(broken).iq) <= 3 * PAIRS else "too many samples"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF", "truncated: 4 bytes"),
        (b"\x93NUMPY" + bytes(60), "a NumPy file.* iq_data_format"),
        (wav(stamps_s(2), channels=1), "1 channel.* 16 bit"),
        (wav(stamps_s(2), bits=8), "2 channel.* 8 bit"),
        (wav([]), "truncated: 36 bytes"),
        (wav([])[:36] + struct.pack("<4sI", b"data", 64) + bytes(64), "without `kiwi` stamps"),
        (wav([1.0, 9.0, 50.0]), "3 time stamps are 512 samples"),
        (wav(stamps_s(3), header_rate=6000), "6000 Hz"),
    ],
)
def test_a_file_of_another_kind_says_what_it_is(data, message):
    """The message must say what is wrong with the file."""
    with pytest.raises(RecordingError, match=message):
        decoded(data)


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)),
    st.integers(0, 10**11),
    st.from_regex(r"[A-Za-z0-9_-]*[A-Za-z0-9-]", fullmatch=True),
    st.sampled_from(["", "_iq"]),
)
def test_a_name_gives_time_frequency_and_station(start, frequency_hz, station, end):
    """The station's own name may contain underscores."""
    assume(end or not station.lower().endswith("_iq"))
    named = kiwi_name(f"some/folder/{start:%Y%m%dT%H%M%SZ}_{frequency_hz}_{station}{end}.wav")
    assert named.start == start.replace(microsecond=0, tzinfo=UTC)
    assert (named.frequency_hz, named.station) == (frequency_hz, station)


@pytest.mark.parametrize(
    "name",
    ["websdr_A.wav", "20171327T104156Z_77500_A_iq.wav", "99991231T235959Z_77500_A_iq.wav"],
)
def test_a_name_of_another_form_has_no_parts(name):
    """Nor does a name with an impossible date."""
    assert kiwi_name(name) is None


@pytest.mark.parametrize(
    ("station", "rate", "start"),
    [
        ("DF0KL", 12_001.145, 56.1719),
        ("F1JEK", 12_001.202, 56.4045),
        ("HB9RYZ", 12_001.132, 55.9955),
    ],
)
def test_the_real_recordings_have_their_known_rates(real_recordings, station, rate, start):
    """The figures of the recordings' README, from a fit made by others."""
    name = f"20171127T104156Z_77500_{station}_iq.wav"
    recording = decoded((real_recordings / "kiwisdr-dcf77-2017" / name).read_bytes(), name)
    assert recording.clock_locked
    assert recording.sample_rate_hz == pytest.approx(rate, abs=6e-4)
    assert (recording.start_utc - START).total_seconds() == pytest.approx(start - 56, abs=1e-4)
    assert recording.n_dropped_samples == PAIRS


def test_millions_of_blocks_without_samples_to_speak_of_are_refused():
    """Fitting their stamps takes more memory than any recording."""
    one = block(0, 0, np.zeros((1, 2), "<i2"))
    data = wav(stamps_s(1))[:36] + one * (2**20 + 1)
    with pytest.raises(RecordingError, match="1048577 blocks of 1 samples"):
        decoded(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
