"""Delays of receivers: learned from the training sessions of a run, and told to users."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from heimdall_features.names import shown
from heimdall_locate import Site, Transmitter, calibrate

from heimdall_trainer.events import LOGGER, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_data.catalogue.session import Session, Station
    from heimdall_locate import Calibration, ReceiverDelay

    from heimdall_trainer.data import TrainingData


def learned_delays(data: TrainingData) -> Calibration:
    """Delays of the receivers from the training part alone, which are told to the user.

    Raises:
        LocateError: No training session has arrivals at two receivers.
    """
    plain = data.train.subset(data.train.sessions)
    rows = np.stack([plain[index]["arrivals"] for index in range(len(plain))]).astype(np.float64)
    heard, arrival_us, sigma_us = rows[..., 0] > 0, rows[..., 1], rows[..., 2]
    calibration = calibrate(
        np.where(heard, arrival_us * 1e-6, np.nan),
        [
            Site(station.name, *station.position_deg, station.altitude_m or 0.0)
            for station in data.receivers
        ],
        [
            Transmitter(*session.position_deg, frequency_hz=carrier_hz(session))
            for session in plain.sessions
        ],
        sigma_us * 1e-6,
    )
    found = [asdict(one) for one in calibration.receivers]
    tell("delays", "\n".join(delay_lines(calibration)), receivers=found)
    for one in calibration.receivers:
        if one.position_fault is not None:
            LOGGER.warning("%s", f"receiver {one.name}: {fault_note(one)}")
    return calibration


def delays_of_channels(
    calibration: Calibration, receivers: Sequence[Station]
) -> tuple[list[float], list[float]]:
    """Delays in seconds and their deviations beyond those of all receivers, in channel order.

    The network of times learns the spread that receivers usually have.
    """
    known = [calibration.get(station.name) for station in receivers]
    usual_s = float(np.median([one.spread_s for one in known if one] or [0.0]))
    return (
        [one.delay_s if one else 0.0 for one in known],
        [
            math.hypot(one.delay_sigma_s, math.sqrt(max(one.spread_s**2 - usual_s**2, 0.0)))
            if one
            else 0.0
            for one in known
        ],
    )


def carrier_hz(session: Session) -> float | None:
    """Carrier of a session's source, or else what its receivers were tuned to."""
    tuned = next((one.frequency_hz for one in session.measurements), None)
    return session.frequency_hz or tuned or None


def delay_lines(calibration: Calibration) -> list[str]:
    """A table of the delays, one receiver a line."""
    width = max(8, *(len(shown(one.name)) for one in calibration.receivers))
    names = ("delay us", "+- us", "spread us", "sessions")
    return [
        f"{'receiver':{width}s}" + "".join(f"  {name:>9s}" for name in names),
        *(
            f"{shown(one.name):{width}s}  {1e6 * one.delay_s:9.3f}  "
            f"{1e6 * one.delay_sigma_s:9.3f}  {1e6 * one.spread_s:9.3f}  "
            f"{one.n_sessions:9d}  {fault_note(one)}".rstrip()
            for one in calibration.receivers
        ),
    ]


def fault_note(one: ReceiverDelay) -> str:
    """Reason to doubt a receiver's stated position; empty without one."""
    if (fault := one.position_fault) is None:
        return ""
    return (
        f"its stated position cannot be true: {fault.distance_m / 1000:.1f} km towards "
        f"{fault.bearing_deg:.0f} degrees (+- {fault.sigma_m / 1000:.1f} km) its spread would be "
        f"{1e6 * fault.spread_s:.2g} us"
    )
