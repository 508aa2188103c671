"""What every test of this package needs."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from heimdall_features import ClockedRecording
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "search", max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck)
)
# HEIMDALL_HYPOTHESIS=search looks longer for violations: repeat it with --hypothesis-seed=N.
settings.load_profile(os.environ.get("HEIMDALL_HYPOTHESIS", "suite"))


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """The folder of real recordings that stands beside the project."""
    here = Path(__file__).resolve()
    for parent in here.parents:
        folder = parent.parent / "shared" / "data"
        if (parent / "noxfile.py").exists() and folder.is_dir():
            return folder
    pytest.skip("the real recordings in ../shared/data are not on this machine")


@pytest.fixture(scope="session")
def dcf77(real_recordings) -> dict[str, ClockedRecording]:
    """One transmission at three KiwiSDRs, with the true rates and starts of their stamps."""
    folder = real_recordings / "kiwisdr-dcf77-2017"
    return {path.name.split("_")[2]: _read_kiwi(path) for path in sorted(folder.glob("*.wav"))}


def _read_kiwi(path: Path) -> ClockedRecording:
    """A KiwiSDR IQ file, its true rate and start from a line through its GNSS stamps."""
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
