"""Transmitted waveforms: voice or symbols, drawn once per session and modulated."""

import numpy as np
from numpy.typing import NDArray

from heimdall_simulation.modulation import (
    PACKET_FORMATS,
    am_baseband,
    fm_baseband,
    packet_baseband,
    ssb_baseband,
)
from heimdall_simulation.scenario import Scenario
from heimdall_simulation.seeds import Branch, generator
from heimdall_simulation.truth import SessionTruth, SourceTruth
from heimdall_simulation.voice import modulating_signal

Complex128 = NDArray[np.complex128]


def waveform(truth: SessionTruth, scenario: Scenario) -> Complex128:
    """Return one period of the session's transmitter at the scenario's rate, around its carrier.

    Its mean power over the recording, the first `n_samples`, is 1. The rest is a guard.
    """
    rng = generator(Branch.WAVEFORM, truth.seed, truth.index)
    return _sent(rng, truth.source, scenario)


def interferer_waveform(truth: SessionTruth, number: int, scenario: Scenario) -> Complex128:
    """Return the same of the session's interferer of this number, around its own carrier."""
    rng = generator(Branch.INTERFERER_WAVEFORM, truth.seed, truth.index, number)
    return _sent(rng, truth.interferers[number].source, scenario)


def _sent(rng: np.random.Generator, source: SourceTruth, scenario: Scenario) -> Complex128:
    rate_hz, modulation = scenario.sample_rate_hz, source.modulation
    n_period = scenario.n_samples + round(scenario.guard_s * rate_hz)
    # No prime factor above 5, for a fast transform: 30^64 is then a multiple of the length.
    while pow(30, 64, n_period):
        n_period += 1
    if modulation in PACKET_FORMATS:
        recorded_s = scenario.n_samples / rate_hz
        sent = packet_baseband(
            rng, PACKET_FORMATS[modulation], n_period, rate_hz, first_within_s=recorded_s
        )
    else:
        voice = modulating_signal(rng, n_period, rate_hz)
        if modulation == "fm":
            sent = fm_baseband(voice, source.deviation_hz, rate_hz)
            if scenario.bandwidth_hz is None:
                return sent  # of power 1, exactly
        elif modulation == "am":
            sent = am_baseband(voice, source.am_depth)
        else:
            sent = ssb_baseband(voice, upper=modulation == "usb")
    if scenario.bandwidth_hz is not None:
        spectrum = np.fft.fft(sent)
        spectrum[np.abs(np.fft.fftfreq(n_period, 1 / rate_hz)) > scenario.bandwidth_hz / 2] = 0
        sent = np.fft.ifft(spectrum)
    # Levels are mean powers of the recording, for every modulation.
    rms = np.sqrt(np.mean(np.abs(sent[: scenario.n_samples]) ** 2))
    scaled: Complex128 = sent / rms
    return scaled
