"""Makes the pictures of docs/features.md, and prints its figures.

    python docs/features/pictures.py

Needs the workspace's own environment (it simulates with heimdall-data and draws with
Matplotlib). The real recording is read in place from ../shared/data; without it that picture
is left as it is.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from heimdall_data.errors import DataError
from heimdall_data.recordings.decode import decode
from heimdall_features import (
    ClockedRecording,
    CorrelationConfig,
    FeatureConfig,
    FeatureExtractor,
    NormalizationStats,
    cross_correlation_features,
    normalize_features,
)
from heimdall_features.correlation import time_differences_s
from heimdall_features.mel import band_edges_hz
from heimdall_features.normalization import normalize_per_sample
from heimdall_simulation.sessions import simulate_session

HERE = Path(__file__).parent
REAL = HERE.parents[2] / "shared" / "data" / "kiwisdr-dcf77-2017"
STATIONS = ("Torino", "Genova", "Milano-Baggio")
N_SESSIONS, N_TRAINING, SEED = 900, 600, 42
KM_PER_DEGREE = np.array([111.2, 111.2 * np.cos(np.radians(45.0))])


def simulated(index: int) -> tuple[tuple[float, float], dict[str, tuple[np.ndarray, float]]]:
    """Where the transmitter is, and each station's IQ; None where a recording is unusable."""
    session = simulate_session(index, SEED)
    heard = {}
    for measurement in session.new_session.measurements:
        rate_hz = measurement.sample_rate_hz
        try:
            recording = decode(measurement.payload or b"", "npy", name="", sample_rate_hz=rate_hz)
        except DataError:
            continue  # the simulation damages some on purpose
        heard[measurement.station.name] = (recording.iq, rate_hz)
    return session.truth.source.position_deg, heard


def draw_spectrograms(features: np.ndarray, config: FeatureConfig, title: str, file: str) -> None:
    """One panel a receiver: bands from below the carrier to above it, over time."""
    names = config.receivers
    figure, axes = plt.subplots(1, len(names), figsize=(9, 3.4), sharey=True, layout="constrained")
    low = features[features > config.floor_db].min()
    centres_hz = band_edges_hz(config)[1:-1]
    ticks = np.linspace(0, config.n_mels - 1, 9).round().astype(int)
    for axis, levels, name in zip(axes, features, names, strict=True):
        image = axis.imshow(
            levels, origin="lower", aspect="auto", vmin=low, vmax=features.max(), cmap="magma"
        )
        axis.set(title=name, xlabel="column", yticks=ticks)
        axis.set_yticklabels([f"{centres_hz[tick] / 1e3:+.2f}" for tick in ticks])
    axes[0].set_ylabel("band centre, kHz from the carrier")
    figure.colorbar(image, ax=axes, label="dB re full scale")
    figure.suptitle(title)
    figure.savefig(HERE / file, dpi=80)


def simulated_picture() -> None:
    """The model's input for the first session that all three stations heard."""
    config = FeatureConfig(receivers=STATIONS)
    for index in range(100):
        _, heard = simulated(index)
        if set(STATIONS) <= set(heard):
            features = FeatureExtractor(config)({name: heard[name] for name in STATIONS})
            title = f"simulated: session {index} of seed {SEED}, narrow-band FM voice"
            draw_spectrograms(features, config, title, "simulated.png")
            return


def real_recordings() -> dict[str, ClockedRecording]:
    """DCF77 at three KiwiSDRs, with the true rates and starts that their stamps give."""
    found = {}
    for path in sorted(REAL.glob("*.wav")):
        recording = decode(path.read_bytes(), "kiwi_wav", name=path.name)
        start_s = None if recording.start_gps_ns is None else recording.start_gps_ns * 1e-9
        found[path.name.split("_")[2]] = ClockedRecording(
            recording.iq, recording.sample_rate_hz, start_s, clock_sigma_s=recording.clock_sigma_s
        )
    return found


def real_pictures() -> None:
    """DCF77 at three KiwiSDRs: spectrograms, and the correlation of each pair."""
    heard = real_recordings()
    names = tuple(heard)
    config = FeatureConfig(receivers=names, sample_rate_hz=12e3)
    start_s = max(recording.start_s for recording in heard.values())
    together = {}
    for name, recording in heard.items():
        early = round((start_s - recording.start_s) * recording.sample_rate_hz)
        together[name] = (recording.iq[early:], recording.sample_rate_hz)
    features = FeatureExtractor(config)(together)
    draw_spectrograms(features, config, "real: DCF77, 77.5 kHz, 29 s", "real.png")

    lags = CorrelationConfig(
        receivers=names, baseline_m=900e3, sample_rate_hz=12e3, weighting="plain"
    )
    profiles = cross_correlation_features(heard, lags)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, profile, pair in zip(axes, profiles, lags.pairs, strict=True):
        ends_ms = lags.lags_s[[0, -1]] * 1e3
        axis.imshow(
            profile, origin="lower", aspect="auto", extent=(0, 32, *ends_ms), vmin=0, vmax=1
        )
        axis.set(title=f"{pair[0]} later than {pair[1]}", xlabel="column")
        print(pair, f"{1e6 * time_differences_s(profiles, lags)[pair]:.0f} us")
    axes[0].set_ylabel("lag, ms")
    figure.suptitle("real: plain cross-correlation of the same three")
    figure.savefig(HERE / "correlation.png", dpi=80)


def normalisation_example() -> None:
    """How well levels tell the position, normalised over the data set and sample by sample."""
    positions, recordings = [], []
    for index in range(N_SESSIONS):
        position_deg, heard = simulated(index)
        if set(STATIONS) <= set(heard):
            positions.append(position_deg)
            recordings.append({name: heard[name] for name in STATIONS})
    place_km = np.array(positions) * KM_PER_DEGREE
    print(f"{len(recordings)} sessions, {N_TRAINING} for training; median error, km")
    mean_km = place_km[N_TRAINING:] - place_km[:N_TRAINING].mean(axis=0)
    print(f"the training set's mean position: {np.median(np.linalg.norm(mean_km, axis=1)):.1f}")
    for f_max_hz in (24e3, 3e3):
        extract = FeatureExtractor(FeatureConfig(receivers=STATIONS, f_max_hz=f_max_hz))
        features = [extract(heard) for heard in recordings]
        stats = NormalizationStats.of(features[:N_TRAINING])
        over_all = [normalize_features(sample, stats) for sample in features]
        by_itself = [normalize_per_sample(sample) for sample in features]
        for name, samples in (("data set", over_all), ("each sample", by_itself)):
            levels = np.array([sample.mean(axis=2).ravel() for sample in samples])
            error_km = np.linalg.norm(place_km[N_TRAINING:] - ridge(levels, place_km), axis=1)
            print(f"| +-{f_max_hz / 1e3:.0f} kHz | {name} | {np.median(error_km):.1f} |")


def ridge(levels: np.ndarray, place_km: np.ndarray, strength: float = 300.0) -> np.ndarray:
    """Held-out positions from a linear fit of the training sessions' band levels."""
    inside, outside = levels[:N_TRAINING], levels[N_TRAINING:]
    centre, middle_km = inside.mean(axis=0), place_km[:N_TRAINING].mean(axis=0)
    gram = (inside - centre) @ (inside - centre).T + strength * np.eye(len(inside))
    weights = np.linalg.solve(gram, place_km[:N_TRAINING] - middle_km)
    return (outside - centre) @ (inside - centre).T @ weights + middle_km


if __name__ == "__main__":
    simulated_picture()
    if REAL.is_dir():
        real_pictures()
    normalisation_example()
