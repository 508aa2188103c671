"""Recordings with the time they were taken at, brought to one clock and one carrier."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.carrier import carrier_offsets_hz
from heimdall_features.errors import FeatureError
from heimdall_features.lags import CorrelationConfig
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Samples, open_source, require_rate

__all__ = ["ClockedRecording", "Signal", "together"]

Complex64 = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class ClockedRecording:
    """IQ with the time it was taken at."""

    iq: Samples
    """`(n_samples,)` complex, full scale 1."""
    sample_rate_hz: float
    """The true rate: an error of 1e-6 moves the delay by a microsecond each second."""
    start_s: float = 0.0
    """When the first sample was taken, on a clock common to all receivers."""
    clock_locked: bool = True
    """Whether that clock can be believed; if not, the receiver's pairs are absent."""


class Signal:
    """One receiver's samples at the configuration's rate, and the time they were taken at."""

    def __init__(self, name: str, recording: ClockedRecording, config: CorrelationConfig) -> None:
        """Check, and bring to the configuration's rate.

        Raises:
            FeatureError: names the receiver and says what is wrong with its recording.
        """
        rate_hz = require_rate(recording.sample_rate_hz)
        if not math.isfinite(recording.start_s):
            raise FeatureError(f"receiver {name!r}: start_s is {recording.start_s}; give seconds")
        ratio = rate_ratio(rate_hz, config.sample_rate_hz)
        try:
            source = resampled(open_source(recording.iq, "two-sided"), ratio)
            with np.errstate(over="ignore", invalid="ignore"):  # refused just below
                self.samples: Complex64 = source.read(0, source.n_samples).astype(np.complex64)
        except FeatureError as error:
            raise FeatureError(f"receiver {name!r}: {error}") from error
        if not np.isfinite(self.samples).all():
            raise FeatureError(f"receiver {name!r}: the recording holds NaN or infinite samples")
        self.name = name
        self.nominal_rate_hz = config.sample_rate_hz
        self.true_rate_hz = rate_hz * float(ratio)
        self.start_s = recording.start_s

    def cut(self, start_s: float) -> None:
        """Drop the whole samples before a time; what is left of a sample stays as `start_s`."""
        n_early = max(0, round((start_s - self.start_s) * self.true_rate_hz))
        self.samples = self.samples[n_early:]
        self.start_s += n_early / self.true_rate_hz - start_s

    def lateness_s(self, sample: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """How much later than at the configuration's rate each sample was taken."""
        slip_s = 1 / self.true_rate_hz - 1 / self.nominal_rate_hz
        return np.asarray(self.start_s + sample * slip_s, dtype=np.float64)


def together(signals: dict[str, Signal], config: CorrelationConfig) -> list[Signal]:
    """The signals cut to the time they share, without their carrier offsets.

    Raises:
        FeatureError: when they share too little.
    """
    start_s = max(signal.start_s for signal in signals.values())
    for signal in signals.values():
        signal.cut(start_s)
    n_samples = min(signal.samples.size for signal in signals.values())
    if n_samples < config.n_fft:
        raise FeatureError(
            f"the recordings share {n_samples} samples, less than the {config.n_fft} it takes to "
            f"tell lags over {config.baseline_m} m; record for longer"
        )
    found = list(signals.values())
    for signal in found:
        signal.samples = signal.samples[:n_samples]
    offsets_hz = carrier_offsets_hz(
        [signal.samples for signal in found], config.sample_rate_hz, config.offset_limit_hz
    )
    time_s = np.arange(n_samples) / config.sample_rate_hz
    # Estimated once over all that is shared: the longer, the finer the resolution.
    for signal, offset_hz in zip(found, offsets_hz, strict=True):
        if offset_hz:
            turn = np.exp(-2j * np.pi * offset_hz * time_s)
            signal.samples = (signal.samples * turn).astype(np.complex64)
    return found
