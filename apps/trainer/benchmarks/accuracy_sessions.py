"""Simulated sessions as arrays: spectrograms, times of arrival, truths and bounds."""

from __future__ import annotations

import io
import multiprocessing
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    ClockedRecording,
    FeatureConfig,
    FeatureExtractor,
)
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, Channel, simulate_session
from heimdall_simulation.cramer_rao import timing_covariance_m2

RATE_HZ = 48_000.0
BASE = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS, n_samples=33_600)
"""The demo's region and radio, seven receivers, 0.7 s, 3 dB of fading, clocks good to 0.1 us."""
NAMES = tuple(station.name for station in BASE.stations)
MEL = FeatureConfig(receivers=NAMES, sample_rate_hz=RATE_HZ)
ARRIVALS = ArrivalConfig(receivers=NAMES, baseline_m=180e3, bandwidth_hz=20e3)
N_MISSING = 2
CONDITIONS = {
    "clean": BASE,
    "clocks off by 10 us": replace(BASE, clock_error_s=1e-5),
    "1 us non-line-of-sight": replace(BASE, channel=Channel(blocked_share=0.2, detour_s=1e-6)),
    "two receivers missing": BASE,
    "SNR below 10 dB": replace(BASE, radiated_dbm=(8.0, 25.0)),
}
"""Non-line-of-sight: one path in five has a detour, exponential, 1 us in the mean."""


@dataclass(frozen=True)
class Sessions:
    """What methods may see of sessions, and what they are judged by."""

    mel: np.ndarray
    """float32 `(n, receivers, 128, 32)`, dB."""
    arrivals: np.ndarray
    """float32 `(n, receivers, 5)`."""
    truth_deg: np.ndarray
    """`(n, 2)`."""
    bound_m: np.ndarray
    """`(n,)`: root of the trace of the Cramer-Rao bound of time differences, no detours."""

    def rows(self, chosen):
        """Some of the sessions."""
        return Sessions(*(getattr(self, field.name)[chosen] for field in fields(self)))


def sessions_of(condition, n, seed, folder):
    """Sessions 0 to n - 1 of a seed, from the folder if they are there already.

    Args:
        condition: One of `CONDITIONS`.
        n: How many.
        seed: Of the simulator.
        folder: Where arrays are kept from one run to the next.
    """
    name = "".join(c if c.isalnum() else "-" for c in condition)
    path = Path(folder) / f"{name}-{seed}-{n}.npz"
    if not path.exists():
        made = _simulated(condition, n, seed)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **{field.name: getattr(made, field.name) for field in fields(made)})
        part.replace(path)
    with np.load(path) as kept:
        return Sessions(*(kept[field.name] for field in fields(Sessions)))


def _simulated(condition, n, seed):
    context = multiprocessing.get_context("spawn")
    tasks = [(condition, index, seed) for index in range(n)]
    with context.Pool() as pool:
        found = list(pool.imap(_session, tasks, chunksize=10))
    return Sessions(*(np.stack(column) for column in zip(*found, strict=True)))


def _session(task):
    condition, index, seed = task
    scenario = CONDITIONS[condition]
    simulated = simulate_session(index, seed, scenario)
    heard = {
        recording.station.name: ClockedRecording(_iq(recording.payload), RATE_HZ)
        for recording in simulated.new_session.measurements
    }
    truth = simulated.truth
    if condition == "two receivers missing":
        for lost in np.random.default_rng((seed, index)).permutation(NAMES)[:N_MISSING]:
            heard.pop(str(lost))
        kept = tuple(r for r in truth.receptions if r.station.name in heard)
        truth = replace(truth, receptions=kept)
    mel = FeatureExtractor(MEL)({name: (r.iq, RATE_HZ) for name, r in heard.items()})
    bound_m = np.sqrt(np.trace(timing_covariance_m2(truth, scenario)))
    position_deg = np.array(truth.source.position_deg)
    return mel, ArrivalExtractor(ARRIVALS)(heard), position_deg, bound_m


def _iq(payload):
    i, q = np.load(io.BytesIO(payload)).astype(np.float32) / 32768
    return (i + 1j * q).astype(np.complex64)
