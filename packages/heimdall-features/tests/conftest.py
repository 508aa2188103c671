"""Hypothesis profiles, simulated transmissions, and real recordings."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from heimdall_features import ClockedRecording
from heimdall_features.testing import delayed, noise
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "search", max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck)
)
# HEIMDALL_HYPOTHESIS=search searches for longer: repeat it with --hypothesis-seed=N.
settings.load_profile(os.environ.get("HEIMDALL_HYPOTHESIS", "suite"))


@pytest.fixture(scope="session")
def transmitted():
    """Make recordings of one noise transmission at receivers A, B, ...: 48 kHz, any phases."""

    def make(delays_s, offsets_hz=(), *, snr_db, seed=0, n_samples=24_000, bandwidth=1.0):
        rng = np.random.default_rng(seed)
        waveform, time_s = noise(rng, n_samples, bandwidth), np.arange(n_samples) / 48e3
        found = {}
        for number, delay_s in enumerate(delays_s):
            offset_hz = offsets_hz[number] if offsets_hz else 0.0
            turn = np.exp(2j * np.pi * (offset_hz * time_s + rng.uniform()))
            own_noise = 10 ** (-snr_db / 20) * noise(rng, n_samples)
            iq = delayed(waveform, delay_s, 48e3) * turn + own_noise
            found["ABCD"[number]] = ClockedRecording(iq.astype(np.complex64), 48e3)
        return found

    return make


@pytest.fixture(scope="session")
def dcf77() -> dict[str, ClockedRecording]:
    """One real transmission at three KiwiSDRs, with true rates and starts from their stamps."""
    for parent in Path(__file__).resolve().parents:
        folder = parent.parent / "shared" / "data" / "kiwisdr-dcf77-2017"
        if (parent / "noxfile.py").exists() and folder.is_dir():
            return {p.name.split("_")[2]: _read_kiwi(p) for p in sorted(folder.glob("*.wav"))}
    pytest.skip("the real recordings in ../shared/data are not on this machine")


def _read_kiwi(path: Path) -> ClockedRecording:
    """Read a KiwiSDR IQ file; true rate and start come from a line through its GNSS stamps."""
    data, at, stamps, pieces = path.read_bytes(), 36, [], []
    while at < len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"kiwi":
            _, _, seconds, nanoseconds = struct.unpack_from("<BBII", data, at + 8)
            stamps.append(seconds + 1e-9 * nanoseconds)
        else:
            pieces.append(np.frombuffer(data, "<i2", size // 2, at + 8))
        at += 8 + size
    seconds = np.array(stamps)
    fresh = np.flatnonzero(np.abs(seconds - np.median(seconds)) < 60)
    iq = np.concatenate([pieces[block] for block in fresh]).astype(np.float32).view(np.complex64)
    period_s, start_s = np.polyfit(512 * np.arange(fresh.size), seconds[fresh], 1)
    return ClockedRecording(iq / 32768, 1 / period_s, start_s)
