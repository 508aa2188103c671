"""Recordings with the time they were taken at, brought to one clock and one carrier."""

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from heimdall_features.carrier import carrier_offsets_hz
from heimdall_features.errors import FeatureError
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Samples, open_source, require_rate

__all__ = ["ClockedRecording", "Comparison", "Signal", "together"]

Complex64 = NDArray[np.complex64]

_FRAME: Final = 512
_SLIP_SAMPLES: Final = 1e-4
"""Clocks that part by less over a recording are one clock: 2 ns at 48 kHz."""


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


class Comparison(Protocol):
    """What it takes to bring recordings together."""

    @property
    def sample_rate_hz(self) -> float:
        """The rate that all are brought to."""

    @property
    def baseline_m(self) -> float:
        """The largest distance between two receivers."""

    @property
    def offset_limit_hz(self) -> float:
        """No two receivers' carriers are further apart."""

    @property
    def least_samples(self) -> int:
        """What they must have in common."""


class Signal:
    """One receiver's samples at the configuration's rate, and the time they were taken at."""

    def __init__(self, name: str, recording: ClockedRecording, config: Comparison) -> None:
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

    def steady(self) -> Complex64:
        """The samples as if the clock had run at the nominal rate from their start on.

        Frames of an overlap-add are each turned by their own lateness: within one, the clocks
        part by less than a thousandth of a sample.
        """
        slip = self.nominal_rate_hz / self.true_rate_hz - 1
        if abs(slip) * self.samples.size < _SLIP_SAMPLES:
            return self.samples
        # 0.4 s to import: only who computes pays.
        import scipy.fft

        hop, window = _FRAME // 2, np.hanning(_FRAME + 1)[:-1].astype(np.float32)
        padded = np.pad(self.samples, (_FRAME, 2 * _FRAME))
        starts = np.arange(0, padded.size - _FRAME + 1, hop)
        late = slip * (starts - _FRAME / 2)
        spectra = scipy.fft.fft(padded[starts[:, None] + np.arange(_FRAME)], axis=1)
        spectra *= np.exp(-2j * np.pi * np.outer(late, np.fft.fftfreq(_FRAME)))
        frames = window * scipy.fft.ifft(spectra, axis=1)
        steady = np.zeros_like(padded)
        for start, frame in zip(starts, frames, strict=True):
            steady[start : start + _FRAME] += frame
        return steady[_FRAME : _FRAME + self.samples.size]


def together(signals: dict[str, Signal], config: Comparison) -> list[Signal]:
    """The signals cut to the time they share, without their carrier offsets.

    Raises:
        FeatureError: when they share too little.
    """
    start_s = max(signal.start_s for signal in signals.values())
    for signal in signals.values():
        signal.cut(start_s)
    n_samples = min(signal.samples.size for signal in signals.values())
    if n_samples < config.least_samples:
        raise FeatureError(
            f"the recordings share {n_samples} samples, less than the {config.least_samples} it "
            f"takes to tell lags over {config.baseline_m} m; record for longer"
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
