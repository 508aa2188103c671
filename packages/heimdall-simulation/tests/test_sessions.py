"""Simulated sessions are reproducible to the byte and agree with their truth."""

import hashlib
import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from heimdall_data.errors import DataError, RecordingError
from heimdall_data.recordings.decode import decode
from heimdall_simulation import (
    MODULATIONS,
    NO_MISHAPS,
    NORTHWEST_ITALY,
    Channel,
    Interference,
    Propagation,
    simulate_session,
    simulate_sessions,
    simulate_truths,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = replace(NORTHWEST_ITALY, n_samples=4096, mishaps=NO_MISHAPS)
EVERYTHING = replace(
    SHORT,
    modulations=MODULATIONS,
    channel=Channel(rician_k_db=6.0, doppler_hz=20.0, n_echoes=3),
    interference=Interference(n_interferers=2, offset_hz=12_500.0),
)
LOW = replace(
    SHORT,
    frequency_hz=(77_500.0, 77_500.0),
    raster_hz=100.0,
    modulations=("am",),
    bandwidth_hz=1_500.0,
    receiver_delay_sigma_s=3e-5,
).with_propagation(Propagation.usual("ground_wave"))
SHORT_WAVE = replace(
    EVERYTHING, frequency_hz=(6.9e6, 7.1e6), receiver_delay_sigma_s=1e-5
).with_propagation(Propagation.usual("sky_wave"))
DEFAULT_SESSIONS_SHA256 = "19733378a46049aa0a787410524102d8babb11d087b2159e5f7b0d20fffac2e5"
seeds = st.integers(0, 2**32)


def samples_of(recording):
    """Samples with full scale 1."""
    i, q = np.load(io.BytesIO(recording.payload)).astype(np.float64)
    return (i + 1j * q) / 32767


def pairs_of(session):
    """Each station's truth and recording."""
    return zip(session.truth.receptions, session.new_session.measurements, strict=True)


@settings(max_examples=10)
@given(seeds, st.sampled_from([SHORT, EVERYTHING, LOW, SHORT_WAVE]))
def test_a_seed_gives_the_same_bytes_for_any_number_of_sessions(seed, scenario):
    """A larger run must not change what was stored before, and truths need no samples."""
    two = list(simulate_sessions(2, seed, scenario))
    assert list(islice(simulate_sessions(10**9, seed, scenario), 2)) == two
    assert [session.truth for session in two] == list(simulate_truths(2, seed, scenario))
    assert simulate_session(0, seed + 1, scenario).new_session.measurements != (
        two[0].new_session.measurements
    )


def test_processes_make_the_same_bytes_in_the_same_order():
    """The data must not depend on the number of cores."""
    alone, together = (list(simulate_sessions(9, 5, SHORT, workers=n)) for n in (1, 2))
    assert alone == together


@settings(max_examples=10)
@given(seeds)
def test_levels_agree_with_the_truth(seed):
    """The total, in dB of full scale, and the measured ratio of signal to noise."""
    for truth, recording in pairs_of(simulate_session(0, seed, SHORT)):
        expected = 10 ** (truth.signal_dbfs / 10) + 10 ** (truth.noise_dbfs / 10)
        found = np.mean(np.abs(samples_of(recording)) ** 2)
        assert truth.signal_dbfs > -1 or abs(10 * np.log10(found / expected)) < 0.5
        # Beyond 40 dB, the part of the signal outside its channel is measured as noise.
        assert not 3 < truth.snr_db < 35 or abs(recording.snr_db - truth.snr_db) < 1.2


@pytest.mark.parametrize("delay_sigma_s", [0.0, 1e-4])
def test_all_receivers_hear_the_same_waveform(delay_sigma_s):
    """Without delays, offset and noise, the stations' recordings are equal, as timing needs."""
    quiet = replace(
        SHORT,
        noise_figure_db=-60.0,
        noise_floor_dbfs=-125.0,
        clock_error_s=0.0,
        receiver_delay_sigma_s=delay_sigma_s,
    )
    restored = []
    for truth, recording in pairs_of(simulate_session(1, 5, quiet)):
        if not -50 < truth.signal_dbfs < -1:
            continue
        cycles = np.arange(4096) * truth.frequency_offset_hz / 48_000
        still = samples_of(recording) * np.exp(-2j * np.pi * cycles - 1j * truth.phase_rad)
        delay_s = truth.delay_s + truth.receiver_delay_s
        early = np.exp(2j * np.pi * np.fft.fftfreq(4096) * delay_s * 48_000)
        # The edges wrap around from the other end, where the signal is another.
        restored.append(np.fft.ifft(np.fft.fft(still) * early)[500:-500])
    assert len(restored) >= 3
    assert np.abs(np.corrcoef(restored)).min() > 0.999


def test_a_filtered_transmitter_keeps_to_its_band():
    """Neighbouring channels of long wave are free of it."""
    quiet = replace(LOW, noise_figure_db=-60.0, noise_floor_dbfs=-125.0)
    for _, recording in pairs_of(simulate_session(0, 5, quiet)):
        samples = samples_of(recording) * np.hanning(4096)
        power = np.abs(np.fft.fft(samples)) ** 2
        outside = np.abs(np.fft.fftfreq(4096, 1 / 48_000)) > 800
        assert power[outside].sum() < 1e-3 * power.sum()


def damaged(scenario, **mishaps):
    """Session with these mishaps, and the payload of its damaged object."""
    session = simulate_session(0, 5, replace(scenario, mishaps=replace(NO_MISHAPS, **mishaps)))
    (payload,) = [found.payload for truth, found in pairs_of(session) if truth.damage]
    return session.new_session, payload


def test_a_missing_object_has_no_payload():
    """Ingestion needs no further step that could be forgotten."""
    assert damaged(SHORT, object_missing=1.0)[1] is None


@pytest.mark.parametrize("file_format", ["npy", "kiwi_wav"])
def test_a_truncated_object_does_not_decode(file_format):
    """The pipeline must be able to notice the damage."""
    scenario = replace(SHORT, recording_format=file_format)
    session, payload = damaged(scenario, object_truncated=1.0)
    with pytest.raises(RecordingError):
        decode(payload, file_format, name="x", sample_rate_hz=48_000.0, start=session.start)


def test_the_catalogue_has_neither_unknown_positions_nor_the_power():
    """A model must not find them in the catalogue."""
    unknown = replace(SHORT, mishaps=replace(NO_MISHAPS, no_position=1.0))
    source = simulate_session(0, 5, unknown).new_session.source
    assert (source.latitude_deg, source.longitude_deg, source.power_dbm) == (None, None, None)


def test_no_worker_is_rejected():
    """No process would wait for ever."""
    with pytest.raises(DataError, match="with 0 workers"):
        simulate_sessions(1, 0, workers=0)


def test_the_demos_recordings_never_change():
    """Later versions must reproduce measurements on the default scenario.

    Samples are rounded to whole steps, and another machine's transforms differ by 1e-9 of a step:
    one recording in a thousand could show it; these two do not.
    """
    digest = hashlib.sha256()
    for index in (0, 17):
        session = simulate_session(index, 42).new_session
        digest.update(f"{session.name} {session.start} {session.source.name}".encode())
        for made in session.measurements:
            digest.update(f"{made.station.name} {made.snr_db} {made.frequency_hz}".encode())
            digest.update(made.payload or b"none")
    assert digest.hexdigest() == DEFAULT_SESSIONS_SHA256
