"""What a transmitter sends: voice or symbols, drawn once and modulated, for all receivers.

Sources: J. G. Proakis and M. Salehi, "Communication Systems Engineering" (2nd ed., 2002),
section 3.2, for AM and its depth and for single sideband as the analytic signal; the widths
are twice the highest audio frequency for AM and, since the carrier stays in the middle, for
one sideband too, and Carson's rule for what modulates the frequency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from heimdall_simulation.packets import (
    PACKET_FORMATS,
    carson_bandwidth_hz,
    fm_baseband,
    packet_baseband,
)
from heimdall_simulation.seeds import interferer_waveform_rng, waveform_rng
from heimdall_simulation.voice import AUDIO_BAND_HZ, modulating_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_simulation.scenario import Scenario
    from heimdall_simulation.truth import SessionTruth, SourceTruth

__all__ = [
    "MODULATIONS",
    "Modulation",
    "am_baseband",
    "channel_width_hz",
    "interferer_waveform",
    "ssb_baseband",
    "waveform",
]

Modulation = Literal["fm", "am", "usb", "lsb", "gfsk", "4fsk"]
MODULATIONS: tuple[Modulation, ...] = ("fm", "am", "usb", "lsb", "gfsk", "4fsk")


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


def am_baseband(modulating: NDArray[np.float64], depth: float) -> NDArray[np.complex128]:
    """Carrier and both sidebands around 0 Hz, of carrier amplitude 1, `(n_samples,)`.

    A modulating signal within ±1 and a depth up to 1 never turn the carrier over.
    """
    return (1 + depth * modulating).astype(np.complex128)


def ssb_baseband(modulating: NDArray[np.float64], *, upper: bool) -> NDArray[np.complex128]:
    """One sideband of a suppressed carrier at 0 Hz, `(n_samples,)`: the analytic signal.

    The other sideband is exactly nothing; a real set leaves it 40 dB to 60 dB down.
    """
    n_samples = len(modulating)
    spectrum = np.fft.fft(modulating)
    spectrum[(n_samples + 1) // 2 :] = 0.0
    spectrum[0] = 0.0
    analytic = 2 * np.fft.ifft(spectrum)
    return analytic if upper else np.conj(analytic)


def channel_width_hz(modulation: Modulation, largest_deviation_hz: float) -> float:
    """What a signal fills around its carrier, in Hz; the deviation is FM's."""
    if modulation == "fm":
        return carson_bandwidth_hz(largest_deviation_hz, AUDIO_BAND_HZ[1])
    if modulation in PACKET_FORMATS:
        return PACKET_FORMATS[modulation].bandwidth_hz
    return 2 * AUDIO_BAND_HZ[1]
