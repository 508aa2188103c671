"""LocaRDS: every message located from its own receivers' clocks, with the altitude given."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass

import numpy as np
from accuracy_judged import LEVELS, Judged, gaussian
from heimdall_data.public.locards import FREQUENCY_HZ
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from heimdall_locate import Site, locate
from heimdall_locate.sites import cartesian_m, geodesic_m, moved_deg, offset_m
from scipy.stats import chi2

LEAST_SQUARES = "Gauss-Newton"
LOCATE = "heimdall locate"
ELLIPSES = "heimdall locate, ellipses"
DISTANCES = ("median_m", "p90_m", "p95_m")
SPEED_IN_AIR_M_S = SPEED_OF_LIGHT_M_S / 1.0003
"""Near the ground."""
_LONGEST_STEP_M = 50_000.0


@dataclass(frozen=True, eq=False)
class LocardsResults:
    """Every method on the messages that can be judged."""

    n_read: int
    methods: dict[str, Judged]
    blocks: list[str]
    """`(n,)`: the aircraft, or the message itself where it is not known."""
    seconds: float


def locards_results(read):
    """Judge `heimdall locate` and least squares on all messages that tell where they were sent."""
    started = time.monotonic()
    messages = [m for m in read if np.isfinite((m.latitude_deg, m.altitude_m)).all()]
    messages = [m for m in messages if len(m.sensors) > 3]
    with multiprocessing.get_context("spawn").Pool() as pool:
        located = []
        for answer in pool.imap(_located, messages, chunksize=4):
            located.append(answer)
            if len(located) % 100 == 0:
                seconds = time.monotonic() - started
                print(
                    f"LocaRDS: {len(located)} of {len(messages)} messages, {seconds:.0f} s",
                    flush=True,
                )
    error_m, nll, region, ellipse = np.array(located).T
    methods = {
        LEAST_SQUARES: least_squares(messages),
        LOCATE: Judged(error_m, nll, region),
        ELLIPSES: Judged(error_m, nll, ellipse),
    }
    blocks = [m.aircraft or m.where for m in messages]
    return LocardsResults(len(read), methods, blocks, time.monotonic() - started)


def _located(message):
    """Error, negative log-density, and probabilities of the least region and of the ellipse."""
    sites = [Site(s.serial, s.latitude_deg, s.longitude_deg, s.height_m) for s in message.sensors]
    truth = message.latitude_deg, message.longitude_deg
    found = locate(
        message.arrivals_s, sites, altitude_m=message.altitude_m, frequency_hz=FREQUENCY_HZ
    )
    first = found.candidates[0]
    # Ellipses have one shape; the least of them that holds the truth.
    radius_m = np.sqrt(first.squared_sigmas(*truth)) * first.ellipse(1.0).semi_major_m
    held = [p / 100 for p in LEVELS if radius_m <= found.ellipse(p / 100).semi_major_m]
    return (
        float(geodesic_m(found.latitude_deg, found.longitude_deg, *truth)),
        -float(found.log_density(*truth)),
        float(found.smallest_region(*truth)),
        min(held, default=1.0),
    )


def least_squares(messages):
    """Gauss-Newton on position and time of emission, every receiver's error alike.

    The variance of errors is that of the message's own residuals, and of the usual message's.
    """
    fits = [_fit(message) for message in messages]
    offsets, inverses, squares, spare = map(np.array, zip(*fits, strict=True))
    variance = squares / spare + np.median(squares / chi2.ppf(0.5, spare))
    return gaussian(offsets, variance[:, None, None] * inverses)


def _fit(message):
    """Offset to the truth, covariance for errors of 1 m, sum of squares, degrees of freedom."""
    sites = np.array([(s.latitude_deg, s.longitude_deg, s.height_m) for s in message.sensors])
    sensors_m = cartesian_m(*sites.T)
    measured_m = np.array(message.arrivals_s) * SPEED_IN_AIR_M_S
    place_deg = _middle_deg(sensors_m)
    for _ in range(50):
        here_m = cartesian_m(*place_deg, message.altitude_m)
        ranges_m = np.linalg.norm(sensors_m - here_m, axis=1)
        slope = np.column_stack(
            [
                (here_m - sensors_m) / ranges_m[:, None] @ _east_north(*place_deg),
                np.ones(len(sites)),
            ]
        )
        rest_m = measured_m - ranges_m
        step, *_ = np.linalg.lstsq(slope, rest_m, rcond=None)
        left_m = rest_m - slope @ step
        length_m = np.hypot(*step[:2])
        shorter = min(1.0, _LONGEST_STEP_M / max(length_m, 1e-9))
        place_deg = tuple(map(float, moved_deg(*place_deg, *(shorter * step[:2]))))
        if length_m < 0.01:
            break
    inverse = np.linalg.pinv(slope.T @ slope)[:2, :2]
    offset = offset_m(*place_deg, (message.latitude_deg, message.longitude_deg))
    return offset, inverse, left_m @ left_m, len(sites) - 3


def _middle_deg(sensors_m):
    x, y, z = sensors_m.mean(axis=0)
    return float(np.degrees(np.arctan2(z, np.hypot(x, y)))), float(np.degrees(np.arctan2(y, x)))


def _east_north(latitude_deg, longitude_deg):
    """Unit vectors, as columns `(3, 2)`."""
    latitude, longitude = np.radians((latitude_deg, longitude_deg))
    east = [-np.sin(longitude), np.cos(longitude), 0.0]
    north = [
        -np.sin(latitude) * np.cos(longitude),
        -np.sin(latitude) * np.sin(longitude),
        np.cos(latitude),
    ]
    return np.array([east, north]).T
