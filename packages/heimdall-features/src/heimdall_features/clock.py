"""Recordings on one clock: the time they share, and receivers' signals without carrier offsets.

`common_span` is the one rule for cutting recordings to the time they share, in training and
in service, for spectrograms and for arrival times.

No two receivers' oscillators agree, and a carrier offset smears a correlation. A delay changes
the phases of a spectrum but not its power, while an offset moves the power: the shift that
best lays one receiver's power spectrum over another's is the offset, whatever the delay. Each
spectrum is first divided by a smoothed copy, so that the fine structure of the modulation,
common to all, is compared and not the shape of a receiver's filter.

Source of the idea: S. Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP
29 (1981); this is the magnitude of its ambiguity function, without the delay.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from heimdall_features.common_waveform import smoothed
from heimdall_features.errors import FeatureError
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Samples, open_source, require_rate

__all__ = [
    "ClockedRecording",
    "Comparison",
    "Signal",
    "Span",
    "carrier_offsets_hz",
    "common_signals",
    "common_span",
]

Complex64 = NDArray[np.complex64]

_PEAK_LIMIT: Final = 8.0
"""Times the smoothed power: a bin above it is a spur and is clipped."""
_FRAME: Final = 512
_SLIP_SAMPLES: Final = 1e-4
"""Clocks that differ by less over a recording are one clock: 2 ns at 48 kHz."""


@dataclass(frozen=True, slots=True)
class ClockedRecording:
    """IQ with the time it was taken at."""

    iq: Samples
    """`(n_samples,)` complex, full scale 1."""
    sample_rate_hz: float
    """The true rate: an error of 1e-6 moves the delay by a microsecond each second."""
    start_s: float = 0.0
    """Time of the first sample, on a clock common to all receivers."""
    clock_locked: bool = True
    """False: the time is not to be trusted; the receiver has no time differences."""


class Span(NamedTuple):
    """Time that a recording covers."""

    start_s: float | None
    """Time of the first sample on the receivers' common clock; None without a locked clock."""
    n_samples: int
    sample_rate_hz: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate_hz


def common_span(spans: Mapping[str, Span]) -> dict[str, slice]:
    """Samples of each recording in the time that all recordings share.

    Receivers start up to a second apart. Those with a clock are cut to the time that all of them
    cover. One without cannot be placed in time: it is cut to the same duration from its own
    start. Cuts are to whole samples: each begins and ends within half a sample of the shared
    time. So a second cut may take another sample where rates differ: cut once.

    Args:
        spans: By receiver; rates are positive.

    Raises:
        FeatureError: A start is not finite, or the recordings have no time in common.
    """
    for name, span in spans.items():
        if span.start_s is not None and not math.isfinite(span.start_s):
            raise FeatureError(f"receiver {name!r}: start_s is {span.start_s}; give seconds")
    begin_s = max(
        (span.start_s for span in spans.values() if span.start_s is not None), default=0.0
    )
    waits_s = {
        name: 0.0 if span.start_s is None else begin_s - span.start_s
        for name, span in spans.items()
    }
    duration_s = min((span.duration_s - waits_s[name] for name, span in spans.items()), default=0.0)
    cuts = {}
    for name, span in spans.items() if 0 < duration_s < math.inf else ():
        first = round(waits_s[name] * span.sample_rate_hz)
        n_samples = min(round(duration_s * span.sample_rate_hz), span.n_samples - first)
        if n_samples > 0:
            cuts[name] = slice(first, first + n_samples)
    if len(cuts) < len(spans):
        covered = ", ".join(
            f"{name!r} {span.duration_s:.3f} s "
            + ("without a clock" if span.start_s is None else f"from {span.start_s:.3f} s")
            for name, span in spans.items()
        )
        raise FeatureError(
            f"the recordings have no time in common: {covered}; were they made in one session?"
        )
    return cuts


class Comparison(Protocol):
    """Settings for bringing recordings to one clock and carrier."""

    @property
    def sample_rate_hz(self) -> float:
        """Rate that all recordings are resampled to."""

    @property
    def baseline_m(self) -> float:
        """The largest distance between two receivers."""

    @property
    def offset_limit_hz(self) -> float:
        """Largest difference of two receivers' carriers."""

    @property
    def least_samples(self) -> int:
        """Samples that the recordings must share."""


class Signal:
    """One receiver's samples at the configuration's rate, and the time they were taken at."""

    def __init__(self, name: str, recording: ClockedRecording, config: Comparison) -> None:
        """Check, and bring to the configuration's rate.

        Raises:
            FeatureError: names the receiver and says what is wrong with its recording.
        """
        rate_hz = require_rate(recording.sample_rate_hz)
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

    def lateness_s(self, sample: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the delay of each sample against the configuration's rate."""
        slip_s = 1 / self.true_rate_hz - 1 / self.nominal_rate_hz
        return np.asarray(self.start_s + sample * slip_s, dtype=np.float64)

    def steady(self) -> Complex64:
        """Return the samples as if the clock had run at the nominal rate from their start on.

        Frames of an overlap-add are each turned by their own lateness: within one, the clocks
        part by less than a thousandth of a sample.
        """
        slip = self.nominal_rate_hz / self.true_rate_hz - 1
        if abs(slip) * self.samples.size < _SLIP_SAMPLES:
            return self.samples
        # Imported here: it takes 0.4 s.
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


def common_signals(signals: dict[str, Signal], config: Comparison) -> list[Signal]:
    """The signals cut to the time they share, without their carrier offsets.

    The fraction of a sample that the cut leaves is kept as each signal's `start_s`.

    Raises:
        FeatureError: when they share too little.
    """
    begin_s = max(signal.start_s for signal in signals.values())
    cuts = common_span(
        {
            name: Span(signal.start_s, signal.samples.size, signal.true_rate_hz)
            for name, signal in signals.items()
        }
    )
    for name, signal in signals.items():
        signal.samples = signal.samples[cuts[name].start :]
        signal.start_s += cuts[name].start / signal.true_rate_hz - begin_s
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


def carrier_offsets_hz(
    signals: list[Complex64], rate_hz: float, limit_hz: float
) -> NDArray[np.float64]:
    """Return the offset of each receiver's carrier from that of a reference receiver.

    The reference is the receiver whose spectrum fits the others' best, never one that hears
    nothing.

    Args:
        signals: one `(n_samples,)` complex array a receiver, of one moment, at one rate.
        rate_hz: that rate.
        limit_hz: no offset is larger.

    Returns:
        float64 `(receivers,)`, Hz; the reference's is 0. True to a third of what the
        recording resolves, `1 / duration`, which turns the phase of one column in 32 by a
        hundredth of a turn.
    """
    # Imported here: it takes 0.4 s.
    import scipy.fft

    n_samples = signals[0].size
    # Padded to twice the length, so that shifts do not wrap around.
    size = scipy.fft.next_fast_len(2 * n_samples)
    profiles = [scipy.fft.rfft(_fine_structure(scipy.fft.fft(s)), size) for s in signals]
    limit = min(round(limit_hz * n_samples / rate_hz), n_samples // 2)
    shifts = np.zeros((len(signals), len(signals)))
    fits = np.zeros_like(shifts)
    for one, other in itertools.combinations(range(len(signals)), 2):
        fit = scipy.fft.irfft(profiles[other] * profiles[one].conj(), size)
        shift, height = _peak(fit, limit)
        shifts[one, other], shifts[other, one] = shift, -shift
        fits[one, other] = fits[other, one] = height
    reference = int(fits.sum(axis=1).argmax())
    offsets_hz: NDArray[np.float64] = shifts[reference] * rate_hz / n_samples
    return offsets_hz


def _fine_structure(spectrum: Complex64) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(spectrum), dtype=np.float64))
    smooth = smoothed(power)
    ratio: NDArray[np.float64] = np.divide(power, smooth, out=np.ones_like(power), where=smooth > 0)
    return np.asarray(np.minimum(ratio, _PEAK_LIMIT) - 1.0, dtype=np.float64)


def _peak(fit: NDArray[np.float64], limit: int) -> tuple[float, float]:
    """Position of the best fit within the limit, to a fraction of a bin, and its height."""
    lags = np.arange(-limit, limit + 1)
    at = int(lags[np.argmax(fit[lags])])
    before, peak, after = fit[at - 1], fit[at], fit[at + 1]
    bend = 2 * peak - before - after
    fraction = (after - before) / (2 * bend) if bend > 0 else 0.0
    return at + float(np.clip(fraction, -0.5, 0.5)), float(peak)
