"""The recordings of ../shared/data: one transmitter that nobody here has simulated.

Three KiwiSDR receivers hear DCF77. The network of times learns from arrivals drawn for those
three receivers, with the nuisances of every other training, and is asked once.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from heimdall_data.recordings.decode import decode
from heimdall_features import ArrivalConfig, ArrivalExtractor, ClockedRecording
from heimdall_models import Region, error_m
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.timing.module import TimingConfig, TimingModule
from heimdall_models.timing.network import region_prior
from heimdall_models.timing.receivers import SPEED_OF_LIGHT_M_S, ReceiverRanges, ReceiverSite
from torch.utils.data import DataLoader

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "kiwisdr-dcf77-2017"
TRANSMITTER_DEG = (50.0152, 9.0112)
SITES = (
    ReceiverSite("DF0KL", 53.665337, 7.282766),
    ReceiverSite("F1JEK", 45.779290, 0.614638),
    ReceiverSite("HB9RYZ", 47.1721, 8.42683),
)
RATE_HZ = 12_000.0
REGION = Region(49.7, 6.0, 480_000.0)
"""Receivers and transmitter within one plane."""
N_DRAWN = 3_000
SIGMA_US = (0.1, 10.0)


def real_recordings(epochs):
    """What is said of DCF77, as lines of the page; None where the recordings are not at hand."""
    if not FOLDER.is_dir():
        return None
    rows = _arrivals()
    timing = _trained(epochs)
    with torch.no_grad():
        found = timing(torch.from_numpy(rows[None]), region_prior(1))
    plain = locate_by_time_differences(rows[None], SITES, REGION)
    truth = np.array([TRANSMITTER_DEG])
    sigma, correlation = sigma_and_correlation(found.covariance)
    target = torch.from_numpy(REGION.to_plane(truth)).float()
    square = float(mahalanobis_squared(target - found.position, sigma, correlation))
    sigma_m = sigma[0].numpy() * REGION.scale_m
    position_deg = REGION.to_degrees(found.position.double().numpy())
    return {
        "rows": rows,
        "error_m": float(error_m(position_deg, truth)[0]),
        "plain_error_m": float(error_m(plain.position_deg, truth)[0]),
        "plain_sigma_m": np.sqrt(np.diagonal(plain.covariance_m2[0])),
        "sigma_m": sigma_m,
        "inside": 1 - float(np.exp(-square / 2)),
    }


def _arrivals():
    recordings = {
        path.name.split("_")[2]: decode(
            path.read_bytes(), "kiwi_wav", name=path.name, sample_rate_hz=None
        )
        for path in sorted(FOLDER.glob("*.wav"))
    }
    first_ns = min(recording.start_gps_ns for recording in recordings.values())
    heard = {
        name: ClockedRecording(
            recording.iq, recording.sample_rate_hz, (recording.start_gps_ns - first_ns) * 1e-9
        )
        for name, recording in recordings.items()
    }
    apart_m = max(
        float(error_m([(a.latitude_deg, a.longitude_deg)], [(b.latitude_deg, b.longitude_deg)])[0])
        for a, b in itertools.combinations(SITES, 2)
    )
    config = ArrivalConfig(
        receivers=tuple(site.name for site in SITES),
        baseline_m=1.05 * apart_m,
        sample_rate_hz=RATE_HZ,
    )
    return ArrivalExtractor(config)(heard)


def _trained(epochs):
    """The network for this geometry, from arrivals that are drawn and not recorded."""
    pl.seed_everything(42, verbose=False)
    rng = np.random.default_rng(42)
    target = torch.from_numpy(rng.uniform(-0.7, 0.7, (N_DRAWN, 2))).float()
    true_us = ReceiverRanges(REGION, SITES)(target)[0].double().numpy()
    true_us *= 1e6 * REGION.scale_m / SPEED_OF_LIGHT_M_S
    sigma_us = np.exp(rng.uniform(*np.log(SIGMA_US), (N_DRAWN, 1))) * np.ones(true_us.shape)
    found_us = true_us + np.hypot(sigma_us, 0.1) * rng.standard_normal(true_us.shape)
    found_us -= found_us.mean(axis=1, keepdims=True)
    ones = np.ones(true_us.shape)
    rows = np.stack([ones, found_us, sigma_us, 20 * ones, 0 * ones], axis=-1).astype(np.float32)
    module = TimingModule(TimingConfig(), REGION, SITES)
    data = [
        {"arrivals": row, "target": place}
        for row, place in zip(torch.from_numpy(rows), target, strict=True)
    ]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, DataLoader(data[:-300], 128, shuffle=True), DataLoader(data[-300:], 128))
    module.eval()
    module.calibrate(torch.from_numpy(rows[-300:]), target[-300:])
    return module.net
