"""Transmitted waveforms: voice or symbols, drawn once and modulated, for all receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_simulation.modulation import am_baseband, ssb_baseband
from heimdall_simulation.packets import PACKET_FORMATS, fm_baseband, packet_baseband
from heimdall_simulation.seeds import interferer_waveform_rng, waveform_rng
from heimdall_simulation.voice import modulating_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_simulation.scenario import Scenario
    from heimdall_simulation.truth import SessionTruth, SourceTruth

__all__ = ["interferer_waveform", "waveform"]


def waveform(truth: SessionTruth, scenario: Scenario) -> NDArray[np.complex128]:
    """Return what the session's transmitter sends, one period at the scenario's rate.

    Of mean power 1 over the recording, around its own carrier. The recording is its first
    `n_samples`; the rest is a guard.
    """
    return _sent(waveform_rng(truth.seed, truth.index), truth.source, scenario)


def interferer_waveform(
    truth: SessionTruth, number: int, scenario: Scenario
) -> NDArray[np.complex128]:
    """Return the same of the session's interferer of this number, around its own carrier."""
    rng = interferer_waveform_rng(truth.seed, truth.index, number)
    return _sent(rng, truth.interferers[number].source, scenario)


def _sent(
    rng: np.random.Generator, source: SourceTruth, scenario: Scenario
) -> NDArray[np.complex128]:
    rate_hz, modulation = scenario.sample_rate_hz, source.modulation
    n_period = _smooth_length(scenario.n_samples + round(scenario.guard_s * rate_hz))
    if modulation in PACKET_FORMATS:
        recorded_s = scenario.n_samples / rate_hz
        bursts = packet_baseband(
            rng, PACKET_FORMATS[modulation], n_period, rate_hz, first_within_s=recorded_s
        )
        return _of_power_one(bursts, scenario.n_samples)
    modulating = modulating_signal(rng, n_period, rate_hz)
    if modulation == "fm":
        return fm_baseband(modulating, source.deviation_hz, rate_hz)
    if modulation == "am":
        return _of_power_one(am_baseband(modulating, source.am_depth), scenario.n_samples)
    one_sideband = ssb_baseband(modulating, upper=modulation == "usb")
    return _of_power_one(one_sideband, scenario.n_samples)


def _of_power_one(signal: NDArray[np.complex128], n_samples: int) -> NDArray[np.complex128]:
    """Scale, so that levels are mean powers of the recording whatever the modulation."""
    rms = np.sqrt(np.mean(np.abs(signal[:n_samples]) ** 2))
    scaled: NDArray[np.complex128] = signal / rms
    return scaled


def _smooth_length(at_least: int) -> int:
    """Smallest length from `at_least` on without a prime factor above 5: a fast transform."""
    length = at_least
    while pow(30, 64, length):  # 0 if no prime but 2, 3 and 5 divides it
        length += 1
    return length
