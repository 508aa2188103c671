"""Simulated sessions as arrays: spectrograms, times of arrival, truths and bounds."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from heimdall_features import (
    ArrivalExtractor,
    Augmentation,
    ClockedRecording,
    FeatureConfig,
    FeatureExtractor,
    NormalizationStats,
    augment_features,
)
from heimdall_models import Region
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, Channel, simulate_session
from heimdall_simulation.cramer_rao import timing_covariance_m2
from heimdall_trainer.data import arrival_config

RATE_HZ = 48_000.0
FREQUENCY_HZ = 145e6
BASE = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS, n_samples=33_600)
"""The demo's region and radio, seven receivers, 0.7 s, 3 dB of fading, clocks good to 0.1 us."""
NAMES = tuple(station.name for station in BASE.stations)
MEL = FeatureConfig(receivers=NAMES, sample_rate_hz=RATE_HZ)
ARRIVALS = arrival_config(BASE.stations, RATE_HZ)
"""The settings of `heimdall train`, by the same function."""
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
    """float32 `(n, receivers, columns)`."""
    truth_deg: np.ndarray
    """`(n, 2)`."""
    bound_m: np.ndarray
    """`(n,)`: root of the trace of the Cramer-Rao bound of time differences, no detours."""

    def rows(self, chosen):
        """Some of the sessions."""
        return Sessions(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Known:
    """A session as training knows it."""

    id: str
    position_deg: tuple[float, float]
    frequency_hz: float = FREQUENCY_HZ
    measurements: tuple = ()


class LearnedSessions:
    """The dataset that `heimdall_models.training` takes, in memory; varied like the trainer's."""

    def __init__(self, rows, *, augment=False, seed=42):
        self.rows, self.epoch, self._augment, self._seed = rows, 0, augment, seed
        self.sessions = [Known(str(n), tuple(at)) for n, at in enumerate(rows.truth_deg.tolist())]

    def __len__(self):
        return len(self.sessions)

    def __getitem__(self, index):
        mel = self.rows.mel[index]
        if self._augment:
            rng = np.random.default_rng((self._seed, self.epoch, index))
            mel = augment_features(mel, rng, Augmentation(fill_db=MEL.fill_db))
        return {
            "features": mel,
            "position_deg": self.rows.truth_deg[index],
            "arrivals": self.rows.arrivals[index],
            "session_id": self.sessions[index].id,
        }

    def subset(self, sessions):
        """Some of the sessions as they were recorded."""
        return LearnedSessions(self.rows.rows([int(session.id) for session in sessions]))

    def set_epoch(self, epoch):
        """Choose the epoch of the variation."""
        self.epoch = epoch


@dataclass(frozen=True)
class Parts:
    """The data of a run of `heimdall train`."""

    region: Region
    stats: NormalizationStats
    train: LearnedSessions
    validation: LearnedSessions
    receivers = BASE.stations

    @classmethod
    def of(cls, learn, validation):
        """From the sessions to learn from and those to choose the epoch by."""
        return cls(
            Region.around(*learn.truth_deg.T),
            NormalizationStats.of(learn.mel),
            LearnedSessions(learn, augment=True),
            LearnedSessions(validation),
        )


def sessions_of(condition, n, seed, folder, pool):
    """Sessions 0 to n - 1 of a seed, from the folder if as many or more are there already.

    Args:
        condition: One of `CONDITIONS`.
        n: How many.
        seed: Of the simulator.
        folder: Where arrays are kept from one run to the next; a change of the features' or the
            arrivals' algorithm or settings makes new ones.
        pool: Processes that simulate.
    """
    scenario = "".join(c if c.isalnum() else "-" for c in condition)
    kind = f"{MEL.fingerprint[:8]}-{ARRIVALS.fingerprint[:8]}"
    kept = sorted(Path(folder).glob(f"{scenario}-{seed}-{kind}-*.npz"), key=_size)
    path = next((path for path in kept if _size(path) >= n), None)
    if path is None:
        made = _simulated(condition, n, seed, pool)
        path = Path(folder) / f"{scenario}-{seed}-{kind}-{n}.npz"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **{field.name: getattr(made, field.name) for field in fields(made)})
        part.replace(path)
    with np.load(path) as arrays:
        return Sessions(*(arrays[field.name] for field in fields(Sessions))).rows(slice(n))


def _size(path):
    return int(path.stem.rpartition("-")[2])


def _simulated(condition, n, seed, pool):
    tasks = [(condition, index, seed) for index in range(n)]
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
