"""Simulated sessions are reproducible to the byte and carry what their truth says."""

import hashlib
import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from heimdall_data.errors import DataError, RecordingError
from heimdall_data.recordings.decode import decode
from heimdall_simulation import (
    NO_MISHAPS,
    NORTHWEST_ITALY,
    simulate_session,
    simulate_sessions,
    simulate_truths,
)

SHORT = replace(NORTHWEST_ITALY, n_samples=4096, mishaps=NO_MISHAPS)


def samples_of(recording):
    """Full scale being 1."""
    i, q = np.load(io.BytesIO(recording.payload)).astype(np.float64)
    return (i + 1j * q) / 32767


def payloads(sessions):
    """The bytes of every recording."""
    return [[m.payload for m in session.new_session.measurements] for session in sessions]


def test_the_same_seed_gives_the_same_bytes():
    """A figure is worth something where others can make it again."""
    assert list(simulate_sessions(3, 5, SHORT)) == list(simulate_sessions(3, 5, SHORT))


def test_another_seed_gives_another_session():
    """Seeds would be no use if they shared sites or words."""
    one, two = simulate_session(0, 5, SHORT), simulate_session(0, 6, SHORT)
    assert one.truth.source.position_deg != two.truth.source.position_deg
    assert payloads([one]) != payloads([two])


def test_more_sessions_begin_with_the_same_ones():
    """Asking for more later must not change what was stored before."""
    assert list(islice(simulate_sessions(10**9, 5, SHORT), 3)) == list(
        simulate_sessions(3, 5, SHORT)
    )


def test_processes_make_the_same_bytes_in_the_same_order():
    """The number of cores is no part of the data."""
    alone, together = (list(simulate_sessions(9, 5, SHORT, workers=n)) for n in (1, 2))
    assert alone == together


def test_the_truth_alone_is_the_truth_of_the_session():
    """Bounds and baselines are computed from truths without making any sample."""
    made = [session.truth for session in simulate_sessions(3, 5, SHORT)]
    assert made == list(simulate_truths(3, 5, SHORT))


def test_a_recording_is_the_same_on_every_machine():
    """Golden samples: transforms may differ in the last bit, which moves at most one step."""
    recording = simulate_session(0, 42, SHORT).new_session.measurements[2]
    found = np.load(io.BytesIO(recording.payload))[:, 1000:1006]
    assert np.abs(found.astype(int) - GOLDEN).max() <= 1


GOLDEN = np.array([[-14, -5, 2, 12, 17, 16], [-8, -15, -16, -13, -6, 2]])


def test_levels_are_what_the_truth_says():
    """Signal plus noise, in dB of full scale, within what 4096 samples allow."""
    for session in simulate_sessions(5, 5, SHORT):
        for truth, recording in zip(
            session.truth.receptions, session.new_session.measurements, strict=True
        ):
            expected = 10 ** (truth.signal_dbfs / 10) + 10 ** (truth.noise_dbfs / 10)
            found = np.mean(np.abs(samples_of(recording)) ** 2)
            assert abs(10 * np.log10(found / expected)) < 0.5


def test_the_catalogues_snr_is_the_truths():
    """What the backend measures is what the link budget gave, where there is a signal."""
    for session in simulate_sessions(5, 5, SHORT):
        for truth, recording in zip(
            session.truth.receptions, session.new_session.measurements, strict=True
        ):
            # Steps of the converter add a little noise; nothing is claimed below the noise.
            assert truth.snr_db < 3 or abs(recording.snr_db - truth.snr_db) < 1.2


def test_all_receivers_hear_the_same_waveform():
    """Delays, offset and noise removed, two stations' recordings are one: else no timing."""
    quiet = replace(SHORT, noise_figure_db=-60.0, noise_floor_dbfs=-125.0, clock_error_s=0.0)
    session = simulate_session(1, 5, quiet)
    restored = []
    for truth, recording in zip(
        session.truth.receptions, session.new_session.measurements, strict=True
    ):
        if not -50 < truth.signal_dbfs < -1:
            continue
        cycles = np.arange(4096) * truth.frequency_offset_hz / 48_000
        still = samples_of(recording) * np.exp(-2j * np.pi * cycles - 1j * truth.phase_rad)
        early = np.exp(2j * np.pi * np.fft.fftfreq(4096) * truth.delay_s * 48_000)
        # The edges come round from the other end, where another word is.
        restored.append(np.fft.ifft(np.fft.fft(still) * early)[500:-500])
    likeness = np.abs(np.corrcoef(restored))
    assert len(restored) >= 3
    assert likeness.min() > 0.999


def test_damage_is_in_the_session_itself():
    """Ingestion is the whole of it: nothing is broken afterwards, so nothing is forgotten."""
    always = replace(NO_MISHAPS, object_missing=1.0)
    session = simulate_session(0, 5, replace(SHORT, mishaps=always))
    damages = [reception.damage for reception in session.truth.receptions]
    payload = session.new_session.measurements[damages.index("missing")].payload
    assert damages.count("missing") == 1
    assert payload is None


def test_a_truncated_object_does_not_decode():
    """The fault must be one that the pipeline can notice."""
    always = replace(NO_MISHAPS, object_truncated=1.0)
    session = simulate_session(0, 5, replace(SHORT, mishaps=always))
    damages = [reception.damage for reception in session.truth.receptions]
    payload = session.new_session.measurements[damages.index("truncated")].payload
    with pytest.raises(RecordingError):
        decode(payload, "npy", name="websdr_x.npy", sample_rate_hz=48_000.0)


def test_a_source_of_unknown_place_has_none_in_the_catalogue():
    """The label must not leak through the catalogue."""
    never = replace(SHORT, mishaps=replace(NO_MISHAPS, no_position=1.0))
    source = simulate_session(0, 5, never).new_session.source
    assert (source.latitude_deg, source.longitude_deg) == (None, None)


def test_the_catalogue_is_not_told_the_power():
    """Transmit power is unknown to operators; a model must not find it in the catalogue."""
    assert simulate_session(0, 5, SHORT).new_session.source.power_dbm is None


def test_no_worker_is_refused():
    """Zero processes would wait for ever."""
    with pytest.raises(DataError, match="with 0 workers"):
        simulate_sessions(1, 0, workers=0)


def test_the_demos_recordings_never_change():
    """What others measured on the default scenario must be made again by every later version.

    Samples are rounded to whole steps, and another machine's transforms differ by 1e-9 of
    one: some recording in a thousand would show it, and these two were looked at.
    """
    digest = hashlib.sha256()
    for index in (0, 17):
        session = simulate_session(index, 42).new_session
        digest.update(f"{session.name} {session.start} {session.source.name}".encode())
        for made in session.measurements:
            digest.update(f"{made.station.name} {made.snr_db} {made.frequency_hz}".encode())
            digest.update(made.payload or b"none")
    assert digest.hexdigest() == DEFAULT_SESSIONS_SHA256


DEFAULT_SESSIONS_SHA256 = "fddf4c9bddcb2c0caa531038e83a104b2b9560e8f1e7a3c81b8b64a4d5057fe7"
