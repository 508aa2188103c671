"""Simulated KiwiSDR WAVs agree with recorded ones."""

import io
import wave
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.errors import DataError
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.recording import gps_ns_from_utc
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_session
from heimdall_simulation.receiver import kiwi_wav_payload
from hypothesis import given
from hypothesis import strategies as st

SHORT = replace(NORTHWEST_ITALY, n_samples=4500, mishaps=NO_MISHAPS)
CLOCKED = replace(SHORT, recording_format="kiwi_wav")
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def noise(n_samples, seed=0):
    """I and Q over the whole range."""
    return np.random.default_rng(seed).integers(-32768, 32768, (2, n_samples)).astype(np.int16)


def decoded(payload, start=MONDAY):
    """The recording as the dataset reads it, with an approximate start from the catalogue."""
    return decode(payload, "kiwi_wav", name="sessions/1/websdr_a.wav", start=start)


@given(
    st.floats(8_000, 200_000),
    st.integers(1024, 40_000),
    st.integers(0, 14 * 86_400 * 10**9),
    st.integers(-(10**12), 10**12),
)
def test_the_decoder_finds_samples_rate_and_start(rate_hz, n_samples, after_ns, hint_ns):
    """Also across the end of a week; a nanosecond is 30 cm."""
    iq, start_ns = noise(n_samples), gps_ns_from_utc(MONDAY) + after_ns
    hint = MONDAY + timedelta(microseconds=(after_ns + hint_ns) / 1000)
    found = decoded(kiwi_wav_payload(iq, rate_hz, start_ns), hint)
    n_whole = n_samples // 512 * 512
    assert found.clock_locked
    assert abs(found.start_gps_ns - start_ns) <= 1
    # Stamps are whole nanoseconds, which limits the error of the rate over the recording.
    assert abs(n_whole / found.sample_rate_hz - n_whole / rate_hz) < 2.1e-9
    assert np.array_equal(found.iq, (iq[0] + 1j * iq[1])[:n_whole] / 32768)


@given(st.integers(0, 14 * 86_400 * 10**9))
def test_at_48_khz_start_and_rate_are_exact(after_ns):
    """The file adds no error to the arrival times of the demo."""
    start_ns = gps_ns_from_utc(MONDAY) + after_ns
    hint = MONDAY + timedelta(microseconds=after_ns / 1000)
    found = decoded(kiwi_wav_payload(noise(24_000), 48_000.0, start_ns), hint)
    assert found.start_gps_ns == start_ns
    assert found.sample_rate_hz == pytest.approx(48_000, abs=1e-5)


def test_other_readers_find_a_wav_of_one_block():
    """Python's own reader accepts header and chunks, as of recorded files."""
    iq = noise(2048)
    with wave.open(io.BytesIO(kiwi_wav_payload(iq, 12_001.2, 0))) as file:
        assert file.getparams()[:4] == (2, 2, 12_001, 512)
        assert np.array_equal(
            np.frombuffer(file.readframes(512), "<i2").reshape(-1, 2).T, iq[:, :512]
        )


@pytest.mark.parametrize("age_s", [254, 255])
def test_a_receiver_without_lock_has_no_start(age_s):
    """Half of all amateur receivers have no satellites."""
    found = decoded(kiwi_wav_payload(noise(2048), 12_000.0, 0, age_s=age_s))
    assert (found.clock_locked, found.start_gps_ns) == (False, None)


def test_less_than_two_blocks_are_rejected():
    """One stamp gives no rate."""
    with pytest.raises(DataError, match="1023 samples are less than two KiwiSDR blocks"):
        kiwi_wav_payload(noise(1023), 12_000.0, 0)


def test_the_format_changes_only_the_file():
    """Truth and samples, up to the last complete block, are the same, so results compare."""
    plain, clocked = simulate_session(3, 5, SHORT), simulate_session(3, 5, CLOCKED)
    assert plain.truth == clocked.truth
    start_ns = gps_ns_from_utc(clocked.new_session.start)
    for one, other in zip(
        plain.new_session.measurements, clocked.new_session.measurements, strict=True
    ):
        found = decoded(other.payload, clocked.new_session.start)
        assert (other.format, other.n_samples) == ("kiwi_wav", 4096)
        assert found.start_gps_ns == start_ns
        i, q = np.load(io.BytesIO(one.payload))[:, :4096].astype(np.float32) / 32768
        assert np.array_equal(found.iq, i + 1j * q)
