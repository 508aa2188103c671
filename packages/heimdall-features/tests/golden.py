"""Write golden.json: fingerprints and features that later versions must reproduce.

    python tests/golden.py

Run it only with a new ALGORITHM_VERSION: models in service were trained on these values.
"""

import json
from pathlib import Path

import numpy as np
from heimdall_features import (
    ClockedRecording,
    CorrelationConfig,
    FeatureConfig,
    FeatureExtractor,
    cross_correlation_features,
)
from heimdall_features.config import ALGORITHM_VERSION

FILE = Path(__file__).with_name("golden.json")
A = ("A",)
CONFIGS = {
    "default at 48 kHz": FeatureConfig(receivers=A),
    "default at 192 kHz": FeatureConfig(receivers=A, sample_rate_hz=192_000),
    "default at 12 kHz": FeatureConfig(receivers=A, sample_rate_hz=12_000),
    "htk": FeatureConfig(receivers=A, mel_scale="htk", mel_norm="slaney", n_mels=40, n_frames=7),
    "one-sided": FeatureConfig(receivers=A, spectrum="one-sided", mel_scale="slaney", n_mels=40),
    "envelope": FeatureConfig(receivers=A, spectrum="envelope", n_mels=32, floor_db=-100),
}


def signal(config: FeatureConfig, n_samples: int = 30_000) -> np.ndarray:
    """Two sweeps and a carrier, 60 dB apart, the same on every machine."""
    t = np.arange(n_samples) / n_samples
    iq = 0.5 * np.exp(1j * np.pi * n_samples * (t**2 - t) / 2)
    iq += 0.05 * np.exp(2j * np.pi * (0.1 * n_samples * t + 30 * np.sin(40 * t)))
    iq += 0.0005 * np.exp(-1j * np.pi * n_samples * t * t * 0.7)
    is_real = config.spectrum == "one-sided"
    return iq.real.astype(np.float32) if is_real else iq.astype(np.complex64)


def features() -> dict[str, list[list[float]]]:
    """Every third feature of every configuration, in dB."""
    found = {}
    for name, config in CONFIGS.items():
        for how, rate_hz in (("at its own rate", config.sample_rate_hz), ("resampled", 50_000.0)):
            levels = FeatureExtractor(config)({"A": (signal(config), rate_hz)})[0]
            found[f"{name}, {how}"] = levels[::3, ::3].astype(float).round(4).tolist()
    return found


def correlations() -> list[float]:
    """Return a profile between two receivers."""
    config = CorrelationConfig(receivers=("A", "B"), baseline_m=100e3, n_frames=1)
    iq = signal(CONFIGS["htk"])
    heard = {"A": ClockedRecording(iq[5:], 48e3), "B": ClockedRecording(iq[:-5], 48e3, 1e-5)}
    return cross_correlation_features(heard, config)[0, :, 0].astype(float).round(5).tolist()


if __name__ == "__main__":
    golden = {
        "algorithm_version": ALGORITHM_VERSION,
        "fingerprints": {name: config.fingerprint for name, config in CONFIGS.items()},
        "features": features(),
        "correlation": correlations(),
    }
    FILE.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
