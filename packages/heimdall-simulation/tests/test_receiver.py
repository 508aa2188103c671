"""A receiver delays, shifts, adds noise and converts, each with the documented precision."""

import io
import wave
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.errors import SimulationError
from heimdall_data.recordings.decode import decode
from heimdall_data.recordings.recording import gps_ns_from_utc
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_session
from heimdall_simulation.modulation import fm_baseband
from heimdall_simulation.receiver import (
    FULL_SCALE,
    LEAST_SNR_DB,
    Reception,
    delayed,
    kiwi_wav_payload,
    measured_levels_db,
    npy_payload,
    phasor,
    received,
    thermal_noise_dbm,
)
from heimdall_simulation.voice import modulating_signal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

RATE_HZ = 48_000.0
N_SAMPLES = 12_000
SILENT_DBFS = -400.0
seeds = st.integers(0, 2**32)
PLAIN = Reception(
    delay_s=0.0, frequency_offset_hz=0.0, phase_rad=0.0, signal_dbfs=-20.0, noise_dbfs=-80.0
)
SHORT = replace(NORTHWEST_ITALY, n_samples=4500, mishaps=NO_MISHAPS)
CLOCKED = replace(SHORT, recording_format="kiwi_wav")
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


def spectrum_of(seed):
    """Spectrum of a modulated carrier."""
    voice = modulating_signal(np.random.default_rng(seed), N_SAMPLES, RATE_HZ)
    return np.fft.fft(fm_baseband(voice, 4000.0, RATE_HZ))


def iq_of(seed=0, **changes):
    """Output of the receiver with these parameters, with full scale 1."""
    raw = received(
        np.random.default_rng(seed), spectrum_of(1), replace(PLAIN, **changes), N_SAMPLES, RATE_HZ
    )
    return (raw[0] + 1j * raw[1]) / FULL_SCALE


@given(seeds, st.integers(-60, 60))
def test_a_delay_of_whole_samples_is_a_shift(seed, n_late):
    """Without interpolation it must be exact."""
    signal = np.fft.ifft(spectrum_of(seed))
    assert np.allclose(delayed(spectrum_of(seed), n_late), np.roll(signal, n_late), atol=1e-9)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_two_delays_add_up(first, second):
    """Fractions of a sample are as precise as whole samples."""
    twice = delayed(np.fft.fft(delayed(spectrum_of(3), first)), second)
    assert np.allclose(twice, delayed(spectrum_of(3), first + second), atol=1e-6)


@given(st.integers(1, 50_000), st.floats(-0.5, 0.5), st.floats(-4, 4))
def test_the_fast_phasor_equals_the_plain_one(n_samples, cycles_per_sample, phase_rad):
    """The outer product must not cost precision."""
    plain = np.exp(1j * (2 * np.pi * cycles_per_sample * np.arange(n_samples) + phase_rad))
    assert np.allclose(phasor(n_samples, cycles_per_sample, phase_rad), plain, atol=1e-9)


@settings(max_examples=20)
@given(st.floats(0, 6e-4), st.floats(0, 6e-4))
def test_correlation_finds_the_delay_between_two_receivers(delay_a_s, delay_b_s):
    """The basis of timing: a hundredth of a sample is 60 m of path."""
    one, two = (iq_of(n, delay_s=delay_s) for n, delay_s in enumerate((delay_a_s, delay_b_s)))
    assert abs(lag_s(two, one) - (delay_b_s - delay_a_s)) < 0.02 / RATE_HZ


def lag_s(late, early):
    """Peak of the cross-correlation, refined by the phase slope of the cross-spectrum."""
    cross = np.fft.fft(late) * np.conj(np.fft.fft(early))
    frequency = np.fft.fftfreq(len(late))
    whole = frequency[np.argmax(np.abs(np.fft.ifft(cross)))] * len(late)
    angle = np.angle(cross * np.exp(2j * np.pi * frequency * whole))
    slope = np.polyfit(frequency, angle, 1, w=np.abs(cross))[0]
    return (whole - slope / (2 * np.pi)) / RATE_HZ


@settings(max_examples=20)
@given(st.floats(-500, 500))
def test_the_carrier_has_the_given_offset(offset_hz):
    """Two receivers of one waveform differ only by their oscillators."""
    still, moved = iq_of(), iq_of(frequency_offset_hz=offset_hz)
    turn = np.unwrap(np.angle(moved * np.conj(still)))
    slope = np.polyfit(np.arange(N_SAMPLES) / RATE_HZ, turn, 1)[0]
    assert abs(slope / (2 * np.pi) - offset_hz) < 0.05


@settings(max_examples=20)
@given(st.floats(-60, -3), st.floats(-80, -20))
def test_levels_are_as_given(signal_dbfs, noise_dbfs):
    """Signal and noise have the power of the link budget."""
    signal = iq_of(signal_dbfs=signal_dbfs, noise_dbfs=SILENT_DBFS)
    noise = iq_of(signal_dbfs=SILENT_DBFS, noise_dbfs=noise_dbfs)
    assert abs(10 * np.log10(np.mean(np.abs(signal) ** 2)) - signal_dbfs) < 0.1
    assert abs(10 * np.log10(np.mean(np.abs(noise) ** 2)) - noise_dbfs) < 0.3


def test_noise_is_white_and_its_two_parts_are_independent():
    """Thermal noise has no preferred frequency or phase."""
    noise = iq_of(signal_dbfs=SILENT_DBFS, noise_dbfs=-40)
    power = np.abs(np.fft.fft(noise)) ** 2
    bands = power.reshape(8, -1).mean(axis=1)
    assert np.all(np.abs(10 * np.log10(bands / power.mean())) < 0.6)
    assert abs(np.corrcoef(noise.real, noise.imag)[0, 1]) < 0.05


def test_a_signal_beyond_full_scale_saturates_and_does_not_wrap():
    """Wrapping would turn the strongest signal into noise."""
    loud = iq_of(signal_dbfs=10.0)
    assert np.abs(loud.real).max() == 1.0
    assert np.mean(np.sign(loud.real) == np.sign(iq_of().real)) > 0.99


def test_thermal_noise_is_minus_174_dbm_in_a_hertz():
    """The value that every radio engineer knows."""
    assert abs(thermal_noise_dbm(1.0, 0.0) + 174) < 0.03
    assert abs(thermal_noise_dbm(48_000.0, 8.0) + 119.2) < 0.1


@given(arrays(np.int16, st.tuples(st.just(2), st.integers(0, 100))))
def test_others_can_read_a_payload(iq):
    """The contract's format: NumPy without pickle, I and Q in rows."""
    assert np.array_equal(np.load(io.BytesIO(npy_payload(iq)), allow_pickle=False), iq)


def carrier_in_noise(seed, signal_rms, noise_rms=20.0, n_samples=24_000):
    """A carrier beside the middle, in noise; full scale is 32767."""
    rng = np.random.default_rng(seed)
    carrier = signal_rms * np.exp(2j * np.pi * 0.03 * np.arange(n_samples))
    noise = noise_rms / np.sqrt(2) * rng.standard_normal((2, n_samples))
    return np.rint(np.stack([carrier.real, carrier.imag]) + noise).astype(np.int16)


@given(seeds, st.floats(-5, 50))
def test_signal_and_noise_are_measured(seed, snr_db):
    """The catalogue's snr_db is accurate over the whole range of a network."""
    signal_rms = 20.0 * 10 ** (snr_db / 20)
    measured_snr_db, strength_db = measured_levels_db(
        carrier_in_noise(seed, signal_rms), 20_000 / 48_000
    )
    assert abs(measured_snr_db - snr_db) < 0.6
    assert abs(strength_db - 20 * np.log10(signal_rms / 32767)) < 0.6


@given(seeds)
def test_noise_alone_gives_the_lowest_ratio(seed):
    """No logarithm of zero, and no report of a signal."""
    measured_snr_db, _ = measured_levels_db(carrier_in_noise(seed, 0.0), 20_000 / 48_000)
    assert LEAST_SNR_DB <= measured_snr_db < -12


def random_iq(n_samples, seed=0):
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
    iq, start_ns = random_iq(n_samples), gps_ns_from_utc(MONDAY) + after_ns
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
    found = decoded(kiwi_wav_payload(random_iq(24_000), 48_000.0, start_ns), hint)
    assert found.start_gps_ns == start_ns
    assert found.sample_rate_hz == pytest.approx(48_000, abs=1e-5)


def test_other_readers_find_a_wav_of_one_block():
    """Python's own reader accepts header and chunks, as of recorded files."""
    iq = random_iq(2048)
    with wave.open(io.BytesIO(kiwi_wav_payload(iq, 12_001.2, 0))) as file:
        assert file.getparams()[:4] == (2, 2, 12_001, 512)
        assert np.array_equal(
            np.frombuffer(file.readframes(512), "<i2").reshape(-1, 2).T, iq[:, :512]
        )


@pytest.mark.parametrize("age_s", [254, 255])
def test_a_receiver_without_lock_has_no_start(age_s):
    """Half of all amateur receivers have no satellites."""
    found = decoded(kiwi_wav_payload(random_iq(2048), 12_000.0, 0, age_s=age_s))
    assert (found.clock_locked, found.start_gps_ns) == (False, None)


def test_less_than_two_blocks_are_rejected():
    """One stamp gives no rate."""
    with pytest.raises(SimulationError, match="1023 samples are less than two KiwiSDR blocks"):
        kiwi_wav_payload(random_iq(1023), 12_000.0, 0)


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
