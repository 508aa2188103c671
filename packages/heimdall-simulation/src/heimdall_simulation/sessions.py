"""Sessions in the form that ingestion takes, with their truth.

The waveform is made once per session; each receiver delays and shifts it, adds noise and converts
it (see `receiver`).
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
from heimdall_data.errors import SimulationError
from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
from heimdall_data.recordings.recording import gps_ns_from_utc
from numpy.typing import NDArray

from heimdall_simulation.drawing import session_truth
from heimdall_simulation.receiver import (
    BLOCK_SAMPLES,
    Reception,
    arrived,
    kiwi_wav_payload,
    measured_levels_db,
    npy_payload,
    received,
)
from heimdall_simulation.scenario import NORTHWEST_ITALY, Scenario
from heimdall_simulation.seeds import Branch, generator
from heimdall_simulation.truth import ReceptionTruth, SessionTruth
from heimdall_simulation.waveforms import interferer_waveform, waveform

_FIRST_START = datetime(2026, 1, 1, tzinfo=UTC)
_EVERY = timedelta(minutes=10)
_SESSIONS_PER_TASK = 4


@dataclass(frozen=True, slots=True)
class SimulatedSession:
    """A session to ingest, and its truth.

    Damage is part of the session: a missing object has no payload, and a truncated one has half
    of it, so nothing has to be done after ingestion.
    """

    new_session: NewSession
    """Recordings and labels, as `ingest` takes them."""
    truth: SessionTruth
    """Everything that was drawn to make it."""


def simulate_sessions(
    n_sessions: int, seed: int, scenario: Scenario = NORTHWEST_ITALY, *, workers: int = 1
) -> Iterator[SimulatedSession]:
    """Return sessions 0 to `n_sessions - 1` of this seed, in order, each made on demand.

    A session depends only on its number, the seed and the scenario; not on the number of sessions
    or of `workers`, the processes that make them.

    Raises:
        SimulationError: A negative number of sessions or seed, or no worker.
    """
    if n_sessions < 0 or seed < 0 or workers < 1:
        raise SimulationError(
            f"{n_sessions} sessions of seed {seed} with {workers} workers; give 0 or more "
            "sessions, a seed of 0 or more and at least one worker"
        )
    if workers == 1:
        return (simulate_session(index, seed, scenario) for index in range(n_sessions))
    return _in_processes(n_sessions, seed, scenario, workers)


def session_start(index: int) -> datetime:
    """Return when session number `index` starts: each starts after those before it."""
    return _FIRST_START + index * _EVERY


def simulate_session(
    index: int, seed: int, scenario: Scenario = NORTHWEST_ITALY
) -> SimulatedSession:
    """Return session number `index` of this seed."""
    truth = session_truth(index, seed, scenario)
    spectrum = np.fft.fft(waveform(truth, scenario))
    interfering = [
        np.fft.fft(interferer_waveform(truth, number, scenario))
        for number in range(len(truth.interferers))
    ]
    source, start = truth.source, session_start(index)
    latitude_deg, longitude_deg = source.position_deg if source.position_known else (None, None)
    new_session = NewSession(
        source=NewSource(  # without its power, which the catalogue does not know
            name=f"{scenario.name} seed {seed} source {source.index:06d}",
            latitude_deg=latitude_deg,
            longitude_deg=longitude_deg,
            frequency_hz=source.frequency_hz,
            source_type="simulated",
        ),
        measurements=tuple(
            _recording(truth, reception, spectrum, interfering, start, scenario)
            for reception in truth.receptions
        ),
        name=f"{scenario.name} seed {seed} session {index:06d}",
        start=start,
        duration_s=scenario.n_samples / scenario.sample_rate_hz,
        status=truth.status,
        approval_status=truth.approval_status,
    )
    return SimulatedSession(new_session, truth)


def _recording(
    truth: SessionTruth,
    reception: ReceptionTruth,
    spectrum: NDArray[np.complex128],
    interfering: list[NDArray[np.complex128]],
    start: datetime,
    scenario: Scenario,
) -> NewRecording:
    station, rate_hz = reception.station, scenario.sample_rate_hz
    arrivals = [
        arrived(other_spectrum, _parameters(other.at(station.name)), scenario.n_samples, rate_hz)
        for other_spectrum, other in zip(interfering, truth.interferers, strict=True)
    ]
    iq = received(
        generator(Branch.NOISE, truth.seed, truth.index, station.name),
        spectrum,
        _parameters(reception),
        n_samples=scenario.n_samples,
        sample_rate_hz=rate_hz,
        others=np.sum(arrivals, axis=0) if arrivals else None,
    )
    if scenario.recording_format == "kiwi_wav":
        iq = iq[:, : scenario.n_samples // BLOCK_SAMPLES * BLOCK_SAMPLES]
        # Each receiver starts with the session by its own clock.
        payload = kiwi_wav_payload(iq, rate_hz, gps_ns_from_utc(start))
    else:
        payload = npy_payload(iq)
    if reception.damage == "truncated":
        payload = payload[: len(payload) // 2]
    snr_db, signal_strength_db = measured_levels_db(iq, 1.25 * scenario.channel_hz / rate_hz)
    return NewRecording(
        station=station,
        payload=None if reception.damage == "missing" else payload,
        format=scenario.recording_format,
        sample_rate_hz=rate_hz,
        n_samples=iq.shape[1],
        frequency_hz=truth.source.frequency_hz,
        snr_db=snr_db,
        signal_strength_db=signal_strength_db,
    )


def _parameters(truth: ReceptionTruth) -> Reception:
    return Reception(
        delay_s=truth.delay_s + truth.detour_s + truth.clock_error_s + truth.receiver_delay_s,
        frequency_offset_hz=truth.frequency_offset_hz,
        phase_rad=truth.phase_rad,
        signal_dbfs=truth.signal_dbfs,
        noise_dbfs=truth.noise_dbfs,
        rician=truth.rician,
        echoes=truth.echoes,
    )


def _in_processes(
    n_sessions: int, seed: int, scenario: Scenario, workers: int
) -> Iterator[SimulatedSession]:
    """Yield sessions in order; only a few tasks run ahead of the reader."""
    tasks = (
        range(begin, min(begin + _SESSIONS_PER_TASK, n_sessions))
        for begin in range(0, n_sessions, _SESSIONS_PER_TASK)
    )
    # Threads and open connections of the caller do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        ahead = deque(
            pool.submit(_task, indices, seed, scenario) for indices in islice(tasks, 2 * workers)
        )
        try:
            while ahead:
                yield from ahead.popleft().result()
                ahead.extend(
                    pool.submit(_task, indices, seed, scenario) for indices in islice(tasks, 1)
                )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _task(indices: range, seed: int, scenario: Scenario) -> list[SimulatedSession]:
    return [simulate_session(index, seed, scenario) for index in indices]
