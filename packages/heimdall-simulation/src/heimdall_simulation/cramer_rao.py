"""Cramér-Rao bounds: the smallest error of any unbiased position estimate, per session.

They hold for every modulation. Fading within a recording, echoes and interferers are ignored.
Each of them only removes information, so the bounds remain valid but become optimistic.

Sources: N. Patwari, A. O. Hero, M. Perkins, N. S. Correal and R. J. O'Dea, "Relative location
estimation in wireless sensor networks", IEEE Trans. SP 51 (2003), for received levels;
W. R. Hahn and S. A. Tretter, "Optimum processing for delay-vector estimation in passive
signal arrays", IEEE Trans. IT 19 (1973), for delays of one unknown waveform at many sensors;
S. M. Kay, "Fundamentals of Statistical Signal Processing" I (1993), sections 3.7 and 3.9, for
nuisances by the Schur complement and for Gaussian observations.
"""

import numpy as np
from heimdall_data.errors import SimulationError
from numpy.typing import NDArray

from heimdall_simulation.geometry import earth_centred_m, east_north_axes
from heimdall_simulation.propagation import SPEED_OF_LIGHT_M_S
from heimdall_simulation.scenario import Scenario
from heimdall_simulation.truth import SessionTruth
from heimdall_simulation.waveforms import waveform

_DB_PER_NEPER = 10 / np.log(10)

Float64 = NDArray[np.float64]


def level_covariance_m2(
    truth: SessionTruth, scenario: Scenario, *, sigma_db: float | None = None
) -> Float64:
    """Return the bound from levels alone, east and north, `(2, 2)` in square metres.

    The transmit power is unknown; the path-loss law, gains and noise levels are known.

    Args:
        truth: The session.
        scenario: Scenario of the session.
        sigma_db: Deviation of a level from the known law; by default that of shadowing and
            fading. Give the fading alone if the shadowing map is known. (The slope of the map
            would give more information, but an exponential correlation has none.)

    Raises:
        SimulationError: Fewer than three receivers.
    """
    directions, snr = _directions(truth), _snr(truth)
    if sigma_db is None:
        sigma_db = float(np.hypot(scenario.shadowing_sigma_db, scenario.fading_sigma_db))
    distance_m = np.array([reception.distance_m for reception in truth.receptions])
    exponent = np.where(distance_m > scenario.reference_m, scenario.path_loss_exponent, 2.0)
    slope = -_DB_PER_NEPER * (exponent / distance_m)[:, None] * directions
    # Deviation of the mean of n powers in Gaussian noise, relative to the signal, whose own mean
    # power over the recording is common to all receivers: the same for every modulation.
    measured_db = _DB_PER_NEPER * np.sqrt((2 * snr + 1) / scenario.n_samples) / snr
    variance = sigma_db**2 + measured_db**2
    return _bound(slope[1:] - slope[0], np.diag(variance[1:]) + variance[0])


def timing_covariance_m2(truth: SessionTruth, scenario: Scenario) -> Float64:
    """Return the bound from time differences, east and north, `(2, 2)` in square metres.

    The waveform, its time of emission and each receiver's carrier phase are unknown; carrier
    offsets and the transmitter's altitude are known. Clock errors are independent.

    Raises:
        SimulationError: Fewer than three receivers.
    """
    directions = _directions(truth)
    sent = waveform(truth, scenario)[: scenario.n_samples]
    power = np.abs(np.fft.fft(sent)) ** 2 / len(sent)
    snr = np.outer(power, _snr(truth))
    frequency_hz = np.fft.fftfreq(len(sent), 1 / scenario.sample_rate_hz)
    delays = _inverse(delay_information(snr, frequency_hz))
    clocks = scenario.clock_error_s**2 * (np.eye(len(delays)) + 1)
    return _bound((directions[1:] - directions[0]) / SPEED_OF_LIGHT_M_S, delays + clocks)


def delay_information(snr: Float64, frequency_hz: NDArray[np.floating]) -> Float64:
    """Return the Fisher information of delays relative to the first receiver, in 1/s^2.

    A delay common to all is indistinguishable from a later emission, so `n` receivers have
    `n - 1` delays. The carrier phases are nuisances and eliminated. Shapes: signal to noise
    `(bins, n)` and frequencies relative to any carrier `(bins,)` give `(n - 1, n - 1)`.
    """
    # Hahn and Tretter: information of each bin about the receivers' phases relative to the first.
    others, total = snr[:, 1:], snr.sum(axis=1)
    phases = -2 * others[:, :, None] * others[:, None, :]
    diagonal = np.arange(others.shape[1])
    phases[:, diagonal, diagonal] += 2 * others * total[:, None]
    phases /= (1 + total)[:, None, None]
    turn = 2 * np.pi * frequency_hz
    of_phase, across, of_delay = (np.tensordot(turn**k, phases, axes=1) for k in range(3))
    return np.asarray(of_delay - across @ _inverse(of_phase) @ across, dtype=np.float64)


def _bound(slope: Float64, covariance: Float64) -> Float64:
    """Bound for Gaussian observations (Kay, section 3.9), `(2, 2)`.

    Shapes: slope of the observations over the position `(n, 2)`, their covariance `(n, n)`.
    """
    return _inverse(slope.T @ _inverse(covariance) @ slope)


def _inverse(matrix: Float64) -> Float64:
    """Inverse of a covariance or an information, symmetric in spite of rounding."""
    inverse = np.linalg.inv(matrix)
    return np.asarray((inverse + inverse.T) / 2, dtype=np.float64)


def _directions(truth: SessionTruth) -> Float64:
    """Increase of the range to each receiver per metre east and north, `(receivers, 2)`."""
    if len(truth.receptions) < 3:
        raise SimulationError(
            f"session {truth.index} has {len(truth.receptions)} receivers; a position in the "
            "plane and an unknown common part need at least 3"
        )
    source = truth.source
    stations = [reception.station for reception in truth.receptions]
    from_stations = earth_centred_m(source.position_deg, source.altitude_m) - earth_centred_m(
        [station.position_deg for station in stations],
        [station.altitude_m or 0.0 for station in stations],
    )
    unit = from_stations / np.linalg.norm(from_stations, axis=1, keepdims=True)
    along: Float64 = unit @ east_north_axes(source.position_deg).T
    return along


def _snr(truth: SessionTruth) -> Float64:
    return np.array([10 ** (reception.snr_db / 10) for reception in truth.receptions])
