"""Sessions as ingestion takes them, with the truth beside each.

The waveform is made once for a session and reaches every receiver, which delays and shifts it,
adds noise and converts it (see `receiver`).
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.errors import SimulationError
from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
from heimdall_data.recordings.recording import gps_ns_from_utc

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
from heimdall_simulation.seeds import noise_rng
from heimdall_simulation.waveforms import interferer_waveform, waveform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from heimdall_simulation.truth import ReceptionTruth, SessionTruth

__all__ = ["SimulatedSession", "simulate_session", "simulate_sessions"]

_FIRST_START = datetime(2026, 1, 1, tzinfo=UTC)
_EVERY = timedelta(minutes=10)
_SESSIONS_PER_TASK = 4


@dataclass(frozen=True, slots=True)
class SimulatedSession:
    """A session to ingest and what is true of it.

    Damage is in the session itself: a missing object is one without payload, a truncated one
    a payload cut in half, so that ingesting the session is all that there is to do.
    """

    new_session: NewSession
    truth: SessionTruth


def simulate_sessions(
    n_sessions: int, seed: int, scenario: Scenario = NORTHWEST_ITALY, *, workers: int = 1
) -> Iterator[SimulatedSession]:
    """Return sessions 0 to `n_sessions - 1` of this seed, in order, each made when it is asked for.

    A session depends on its number, the seed and the scenario alone: neither on how many are
    made nor on `workers`, the number of processes that make them.

    Raises:
        SimulationError: a negative number of sessions or seed, or no worker.
    """
    if n_sessions < 0 or seed < 0 or workers < 1:
        raise SimulationError(
            f"{n_sessions} sessions of seed {seed} with {workers} workers: give 0 or more "
            "sessions, a seed of 0 or more and at least one worker"
        )
    if workers == 1:
        return (simulate_session(index, seed, scenario) for index in range(n_sessions))
    return _in_processes(n_sessions, seed, scenario, workers)


def simulate_session(
    index: int, seed: int, scenario: Scenario = NORTHWEST_ITALY
) -> SimulatedSession:
    """Session number `index` of this seed."""
    truth = session_truth(index, seed, scenario)
    spectrum = np.fft.fft(waveform(truth, scenario))
    interfering = [
        np.fft.fft(interferer_waveform(truth, number, scenario))
        for number in range(len(truth.interferers))
    ]
    recordings = tuple(
        _recording(truth, reception, spectrum, interfering, scenario)
        for reception in truth.receptions
    )
    return SimulatedSession(_new_session(truth, recordings, scenario), truth)


def _recording(
    truth: SessionTruth,
    reception: ReceptionTruth,
    spectrum: NDArray[np.complex128],
    interfering: list[NDArray[np.complex128]],
    scenario: Scenario,
) -> NewRecording:
    iq = received(
        noise_rng(truth.seed, truth.index, reception.station.name),
        spectrum,
        _received_as(reception),
        n_samples=scenario.n_samples,
        sample_rate_hz=scenario.sample_rate_hz,
        others=_others(truth, reception.station.name, interfering, scenario),
    )
    if scenario.recording_format == "kiwi_wav":
        iq = iq[:, : scenario.n_samples // BLOCK_SAMPLES * BLOCK_SAMPLES]
        # By its own clock each receiver begins with the session.
        payload = kiwi_wav_payload(iq, scenario.sample_rate_hz, gps_ns_from_utc(_start(truth)))
    else:
        payload = npy_payload(iq)
    if reception.damage == "truncated":
        payload = payload[: len(payload) // 2]
    channel_share = 1.25 * scenario.channel_hz / scenario.sample_rate_hz
    snr_db, signal_strength_db = measured_levels_db(iq, channel_share)
    return NewRecording(
        station=reception.station,
        payload=None if reception.damage == "missing" else payload,
        format=scenario.recording_format,
        sample_rate_hz=scenario.sample_rate_hz,
        n_samples=iq.shape[1],
        frequency_hz=truth.source.frequency_hz,
        snr_db=snr_db,
        signal_strength_db=signal_strength_db,
    )


def _start(truth: SessionTruth) -> datetime:
    return _FIRST_START + truth.index * _EVERY


def _received_as(truth: ReceptionTruth) -> Reception:
    return Reception(
        delay_s=truth.delay_s + truth.detour_s + truth.clock_error_s,
        frequency_offset_hz=truth.frequency_offset_hz,
        phase_rad=truth.phase_rad,
        signal_dbfs=truth.signal_dbfs,
        noise_dbfs=truth.noise_dbfs,
        rician=truth.rician,
        echoes=truth.echoes,
    )


def _others(
    truth: SessionTruth,
    station: str,
    interfering: list[NDArray[np.complex128]],
    scenario: Scenario,
) -> NDArray[np.complex128] | None:
    """All interferers at one station's converter; None where there are none."""
    n_samples, rate_hz = scenario.n_samples, scenario.sample_rate_hz
    arrivals = [
        arrived(spectrum, _received_as(interferer.at(station)), n_samples, rate_hz)
        for spectrum, interferer in zip(interfering, truth.interferers, strict=True)
    ]
    return np.sum(arrivals, axis=0) if arrivals else None


def _new_session(
    truth: SessionTruth, recordings: tuple[NewRecording, ...], scenario: Scenario
) -> NewSession:
    source = truth.source
    latitude_deg, longitude_deg = source.position_deg if source.position_known else (None, None)
    return NewSession(
        source=NewSource(  # its power is not known to the catalogue
            name=f"{scenario.name} seed {truth.seed} source {source.index:06d}",
            latitude_deg=latitude_deg,
            longitude_deg=longitude_deg,
            frequency_hz=source.frequency_hz,
            source_type="simulated",
        ),
        measurements=recordings,
        name=f"{scenario.name} seed {truth.seed} session {truth.index:06d}",
        start=_start(truth),
        duration_s=scenario.n_samples / scenario.sample_rate_hz,
        status=truth.status,
        approval_status=truth.approval_status,
    )


def _in_processes(
    n_sessions: int, seed: int, scenario: Scenario, workers: int
) -> Iterator[SimulatedSession]:
    """In order, never more than a few tasks ahead of whoever reads them."""
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
