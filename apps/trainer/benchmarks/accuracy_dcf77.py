"""DCF77 at three KiwiSDR receivers: one transmitter that nobody here has simulated.

Three KiwiSDR receivers hear DCF77. The network of times learns from arrivals drawn for those
three receivers, with the nuisances of every other training, and is asked once.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from heimdall_data import Station
from heimdall_data.recordings.decode import decode
from heimdall_features import ArrivalExtractor, ClockedRecording
from heimdall_locate import Site, locate
from heimdall_models import Region, error_m
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.timing.network import region_prior
from heimdall_models.timing.receivers import SPEED_IN_AIR_M_S, ReceiverRanges, receiver_sites
from heimdall_models.training.options import TrainingOptions
from heimdall_models.training.timing import TimedParts, TimedSessions, train_timing
from heimdall_trainer.data import arrival_config

TRANSMITTER_DEG = (50.0152, 9.0112)
FREQUENCY_HZ = 77_500.0
STATIONS = (
    Station("DF0KL", 53.665337, 7.282766, None),
    Station("F1JEK", 45.779290, 0.614638, None),
    Station("HB9RYZ", 47.1721, 8.42683, None),
)
RATE_HZ = 12_000.0
REGION = Region(49.7, 6.0, 480_000.0)
"""Receivers and transmitter within one plane."""
N_DRAWN = 3_000
SIGMA_US = (0.1, 10.0)


@dataclass(frozen=True)
class Found:
    """Answer of one method."""

    error_m: float
    sigma_m: tuple[float, float]
    """East and north."""
    inside: float
    """Probability of the smallest region that holds the truth."""


def dcf77(folder):
    """Arrivals at DCF77's receivers, and every method's answer, from the recordings of a folder."""
    measured = _arrivals(folder)
    rows = measured.rows
    found = {
        "time differences, least squares": _least_squares(rows),
        "network of times": _network(rows),
        "heimdall locate": _located(measured),
    }
    return SimpleNamespace(names=[s.name for s in STATIONS], rows=rows, found=found)


def _arrivals(folder):
    recordings = {
        path.name.split("_")[2]: decode(
            path.read_bytes(), "kiwi_wav", name=path.name, sample_rate_hz=None
        )
        for path in sorted(folder.glob("*.wav"))
    }
    first_ns = min(recording.start_gps_ns for recording in recordings.values())
    heard = {
        name: ClockedRecording(
            recording.iq, recording.sample_rate_hz, (recording.start_gps_ns - first_ns) * 1e-9
        )
        for name, recording in recordings.items()
    }
    return ArrivalExtractor(arrival_config(STATIONS, RATE_HZ)).measure(heard)


def _least_squares(rows):
    found = locate_by_time_differences(rows[None], receiver_sites(STATIONS), REGION)
    covariance_m2 = found.covariance_m2[0]
    truth = REGION.to_plane(np.array([TRANSMITTER_DEG]))[0]
    offset_m = (truth - REGION.to_plane(found.position_deg)[0]) * REGION.scale_m
    square = offset_m @ np.linalg.solve(covariance_m2, offset_m)
    return _found(found.position_deg, np.sqrt(np.diagonal(covariance_m2)), _held(square))


def _network(rows):
    timing = _trained()
    with torch.no_grad():
        found = timing(torch.from_numpy(rows[None]), region_prior(1))
    sigma, correlation = sigma_and_correlation(found.covariance)
    target = torch.from_numpy(REGION.to_plane(np.array([TRANSMITTER_DEG]))).float()
    square = float(mahalanobis_squared(target - found.position, sigma, correlation))
    position_deg = REGION.to_degrees(found.position.double().numpy())
    return _found(position_deg, sigma[0].numpy() * REGION.scale_m, _held(square))


def _located(measured):
    places = [Site(s.name, s.latitude_deg, s.longitude_deg) for s in STATIONS]
    answer = locate(
        measured.rows[:, 1] * 1e-6,
        places,
        sigma_s=measured.noise_s,
        frequency_hz=FREQUENCY_HZ,
        coherent_s=measured.coherent_s,
    )
    sigma_m = np.sqrt(np.diagonal(answer.candidates[0].covariance_m2))
    position_deg = np.array([(answer.latitude_deg, answer.longitude_deg)])
    return _found(position_deg, sigma_m, float(answer.smallest_region(*TRANSMITTER_DEG)))


def _found(position_deg, sigma_m, inside):
    error = float(error_m(position_deg, np.array([TRANSMITTER_DEG]))[0])
    return Found(error, tuple(map(float, sigma_m)), inside)


def _held(square):
    return 1 - float(np.exp(-square / 2))


def _trained():
    """The network for this geometry, from arrivals that are drawn and not recorded."""
    rng = np.random.default_rng(42)
    target = torch.from_numpy(rng.uniform(-0.7, 0.7, (N_DRAWN, 2))).float()
    true_us = ReceiverRanges(REGION, receiver_sites(STATIONS))(target)[0].double().numpy()
    true_us *= 1e6 * REGION.scale_m / SPEED_IN_AIR_M_S
    sigma_us = np.exp(rng.uniform(*np.log(SIGMA_US), (N_DRAWN, 1))) * np.ones(true_us.shape)
    found_us = true_us + np.hypot(sigma_us, 0.1) * rng.standard_normal(true_us.shape)
    found_us -= found_us.mean(axis=1, keepdims=True)
    ones = np.ones(true_us.shape)
    rows = np.stack([ones, found_us, sigma_us, 20 * ones, 0 * ones], axis=-1).astype(np.float32)
    sides = (slice(-300), slice(-300, None))
    parts = TimedParts(
        *(TimedSessions(torch.from_numpy(rows)[side], target[side], N_DRAWN) for side in sides)
    )
    nobody = SimpleNamespace(sessions=[])
    data = SimpleNamespace(receivers=STATIONS, region=REGION, train=nobody, validation=nobody)
    net, _ = train_timing(parts, data, TrainingOptions(accelerator="cpu"))
    return net
