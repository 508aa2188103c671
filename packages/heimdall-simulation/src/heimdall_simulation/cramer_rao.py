"""How well any unbiased estimator could do: Cramér-Rao bounds on position, per session.

Sources: N. Patwari, A. O. Hero, M. Perkins, N. S. Correal and R. J. O'Dea, "Relative location
estimation in wireless sensor networks", IEEE Trans. SP 51 (2003), for received levels;
W. R. Hahn and S. A. Tretter, "Optimum processing for delay-vector estimation in passive
signal arrays", IEEE Trans. IT 19 (1973), for delays of one unknown waveform among many
sensors; S. M. Kay, "Fundamentals of Statistical Signal Processing" I (1993), sections 3.7 and
3.9, for nuisances by the Schur complement and for Gaussian observations.

They hold for every modulation. Fading within a recording, echoes and interferers are left
out: each only takes information away, so that the bounds stay bounds and grow optimistic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.errors import SimulationError

from heimdall_simulation.geometry import earth_centred_m, east_north_axes
from heimdall_simulation.propagation import SPEED_OF_LIGHT_M_S
from heimdall_simulation.waveforms import waveform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_simulation.scenario import Scenario
    from heimdall_simulation.truth import SessionTruth

__all__ = ["delay_information", "level_covariance_m2", "timing_covariance_m2"]

_DB_PER_NEPER = 10 / np.log(10)


def level_covariance_m2(
    truth: SessionTruth, scenario: Scenario, *, sigma_db: float | None = None
) -> NDArray[np.float64]:
    """Bound on the position from levels alone, east and north, `(2, 2)` in square metres.

    The transmit power is unknown; the path-loss law, gains and noise levels are known.

    Args:
        truth: The session.
        scenario: What it was made with.
        sigma_db: By how much a level strays from what is known of it; by default shadowing
            and fading together. Give the fading alone for one who has the map. (The map's
            slope would help further, but an exponential correlation has none.)

    Raises:
        SimulationError: Fewer than three receivers.
    """
    _check_receivers(truth)
    if sigma_db is None:
        sigma_db = float(np.hypot(scenario.shadowing_sigma_db, scenario.fading_sigma_db))
    distance_m = np.array([reception.distance_m for reception in truth.receptions])
    exponent = np.where(distance_m > scenario.reference_m, scenario.path_loss_exponent, 2.0)
    slope = -_DB_PER_NEPER * (exponent / distance_m)[:, None] * _directions(truth)
    # Of the mean of n powers in Gaussian noise, relative to the signal, whose own mean power
    # over the recording is common to all receivers: whatever the modulation.
    snr = _snr(truth)
    measured_db = _DB_PER_NEPER * np.sqrt((2 * snr + 1) / scenario.n_samples) / snr
    variance = sigma_db**2 + measured_db**2
    return _bound(_later_than_first(slope), np.diag(variance[1:]) + variance[0])


def timing_covariance_m2(truth: SessionTruth, scenario: Scenario) -> NDArray[np.float64]:
    """Bound on the position from time differences, east and north, `(2, 2)` in square metres.

    The waveform, its time of emission and each receiver's carrier phase are unknown; carrier
    offsets and the transmitter's altitude are known. Clock errors are independent.

    Raises:
        SimulationError: Fewer than three receivers.
    """
    _check_receivers(truth)
    sent = waveform(truth, scenario)[: scenario.n_samples]
    power = np.abs(np.fft.fft(sent)) ** 2 / len(sent)
    snr = np.outer(power, _snr(truth))
    frequency_hz = np.fft.fftfreq(len(sent), 1 / scenario.sample_rate_hz)
    delays = _inverse(delay_information(snr, frequency_hz))
    clocks = scenario.clock_error_s**2 * (np.eye(len(delays)) + 1)
    return _bound(_later_than_first(_directions(truth)) / SPEED_OF_LIGHT_M_S, delays + clocks)


def delay_information(
    snr: NDArray[np.float64], frequency_hz: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Fisher information of delays against the first receiver's, in 1/s^2.

    Nobody can tell a delay common to all from a later emission, so `n` receivers have
    `n - 1` delays. Each one's carrier phase is a nuisance and eliminated.

    Args:
        snr: Signal to noise in each bin at each receiver, `(bins, n)`.
        frequency_hz: Of the bins, relative to any carrier, `(bins,)`.

    Returns:
        `(n - 1, n - 1)`.
    """
    # Hahn and Tretter: what bin by bin is known of the receivers' phases, the first at zero.
    others, total = snr[:, 1:], snr.sum(axis=1)
    phases = -2 * others[:, :, None] * others[:, None, :]
    diagonal = np.arange(others.shape[1])
    phases[:, diagonal, diagonal] += 2 * others * total[:, None]
    phases /= (1 + total)[:, None, None]
    turn = 2 * np.pi * frequency_hz
    of_phase, across, of_delay = (np.tensordot(turn**k, phases, axes=1) for k in range(3))
    return np.asarray(of_delay - across @ _inverse(of_phase) @ across, dtype=np.float64)


def _bound(slope: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound for Gaussian observations (Kay, section 3.9), `(2, 2)`.

    Shapes: slope of the observations by position `(n, 2)`, their covariance `(n, n)`.
    """
    return _inverse(slope.T @ _inverse(covariance) @ slope)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a covariance or an information; rounding leaves it symmetric."""
    inverse = np.linalg.inv(matrix)
    return np.asarray((inverse + inverse.T) / 2, dtype=np.float64)


def _later_than_first(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What remains of observations when a part common to all of them is unknown."""
    return np.asarray(values[1:] - values[0], dtype=np.float64)


def _directions(truth: SessionTruth) -> NDArray[np.float64]:
    """How the slant range to each receiver grows per metre east and north, `(receivers, 2)`."""
    source = truth.source
    stations = [reception.station for reception in truth.receptions]
    from_stations = earth_centred_m(source.position_deg, source.altitude_m) - earth_centred_m(
        [station.position_deg for station in stations],
        [station.altitude_m or 0.0 for station in stations],
    )
    unit = from_stations / np.linalg.norm(from_stations, axis=1, keepdims=True)
    along: NDArray[np.float64] = unit @ east_north_axes(source.position_deg).T
    return along


def _snr(truth: SessionTruth) -> NDArray[np.float64]:
    return np.array([10 ** (reception.snr_db / 10) for reception in truth.receptions])


def _check_receivers(truth: SessionTruth) -> None:
    if len(truth.receptions) < 3:
        raise SimulationError(
            f"session {truth.index} has {len(truth.receptions)} receivers; a position in the "
            "plane and an unknown common part need at least 3"
        )
