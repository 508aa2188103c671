"""Recordings on one clock: the time they share, and signals without carrier offsets.

`common_span` is the only rule for cutting recordings to the time they share: in training and in
service, for spectrograms and for arrival times.

Every receiver's oscillator is off by a different amount, and a carrier offset smears a
correlation. A delay changes the phases of a spectrum but not its power; an offset shifts the
power. The offset is therefore the shift that best aligns two power spectra, whatever the delay.
Each spectrum is first divided by a smoothed copy of itself, which compares the fine structure of
the modulation and not the shape of the receivers' filters.

Source: S. Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP 29 (1981); this
is the magnitude of its ambiguity function, without the delay.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import SPEED_OF_LIGHT_M_S, receiver_names
from heimdall_features.errors import FeatureError, by_receiver, naming
from heimdall_features.resample import rate_ratio, resampled
from heimdall_features.signal import Samples, open_source, require_rate

Complex64 = NDArray[np.complex64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

CLOCK_LIMIT_S: Final = 1e-4
"""A clock less certain than this gives no time differences: 30 km of path, as far as most
receivers are apart."""
_LONGEST_BASELINE_M: Final = 20_100_000.0
"""Half the Earth's circumference."""
_PEAK_LIMIT: Final = 8.0
"""Multiple of the smoothed power above which a bin is a spur and is clipped."""
_SMOOTHING_BINS: Final = 129
_FRAME: Final = 512
_LARGEST_SLIP: Final = 2e-4
"""Largest relative difference of rates that is removed by shifting frames. Clocks of receivers are
within it: the KiwiSDR's 66.6 MHz is up to 100 ppm off."""
_SLIP_SAMPLES: Final = 1e-4
"""Smaller clock differences over a recording are ignored: 2 ns at 48 kHz."""


@dataclass(frozen=True, slots=True)
class ClockedRecording:
    """IQ with the time at which it was recorded."""

    iq: Samples
    """`(n_samples,)` complex, full scale 1."""
    sample_rate_hz: float
    """True rate: an error of 1e-6 shifts the delay by a microsecond per second."""
    start_s: float = 0.0
    """Time of the first sample, on a clock common to all receivers."""
    clock_sigma_s: float = field(default=0.0, kw_only=True)
    """Standard deviation of `start_s`; `math.inf`: there is no usable clock."""

    def __post_init__(self) -> None:
        if not self.clock_sigma_s >= 0:
            raise FeatureError(
                f"clock_sigma_s is {self.clock_sigma_s}; give seconds, or math.inf without a clock"
            )

    @property
    def clock_locked(self) -> bool:
        """True if the start is certain enough for time differences between receivers."""
        return self.clock_sigma_s <= CLOCK_LIMIT_S


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
    """Return the samples of each recording in the time that all recordings share.

    Receivers start up to a second apart. Recordings with a clock are cut to the time that all of
    them cover. A recording without a clock is cut to the same duration from its own start. Cuts
    are to whole samples, within half a sample of the shared time, so a second cut could differ
    where rates differ: cut once.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonConfig:
    """Receivers whose signals are compared. An invalid setting raises a `FeatureError`."""

    receivers: tuple[str, ...]
    """At least two, in the order of the result."""
    baseline_m: float
    """Largest distance between two receivers, which limits the difference of arrival times."""
    sample_rate_hz: float = 48_000.0
    """Rate to which all recordings are brought."""
    bandwidth_hz: float | None = None
    """Compared band around the carrier; None: as wide as possible."""
    offset_limit_hz: float = 1_000.0
    """Largest difference between the carriers of two receivers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "receivers", receiver_names(self.receivers))
        if len(self.receivers) < 2:
            raise FeatureError(f"receivers are {self.receivers}; a comparison takes at least two")
        for name in ("baseline_m", "sample_rate_hz", "offset_limit_hz"):
            value: object = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise FeatureError(f"{name} is {value!r}; it must be positive")
        if self.baseline_m > _LONGEST_BASELINE_M:
            raise FeatureError(f"baseline_m is {self.baseline_m}, longer than any on the Earth")
        if not 0 < self.compared_hz <= self.widest_hz:
            raise FeatureError(
                f"bandwidth_hz is {self.bandwidth_hz}; the sample rate (and n_lags, if there are "
                f"lags) allow at most {self.widest_hz:.0f} Hz"
            )

    @property
    def longest_lag_s(self) -> float:
        """Largest possible difference of arrival times."""
        return self.baseline_m / SPEED_OF_LIGHT_M_S

    @property
    def widest_hz(self) -> float:
        """Largest bandwidth that can be compared."""
        return self.sample_rate_hz

    @property
    def compared_hz(self) -> float:
        """Bandwidth that is compared."""
        return self.widest_hz if self.bandwidth_hz is None else self.bandwidth_hz


class Signal:
    """A receiver's samples at the configured rate, by its true clock, and their time."""

    def __init__(self, name: str, recording: ClockedRecording, rate_hz: float) -> None:
        with naming(name):
            true_rate_hz = require_rate(recording.sample_rate_hz)
            # Filters for a ratio of small numbers are short; `_steady` does the rest.
            ratio = rate_ratio(true_rate_hz, rate_hz, _LARGEST_SLIP)
            source = resampled(open_source(recording.iq, "two-sided"), ratio)
            with np.errstate(over="ignore", invalid="ignore"):  # rejected below
                samples = source.read(0, source.n_samples).astype(np.complex64)
            if not np.isfinite(samples).all():
                raise FeatureError("the recording holds NaN or infinite samples")
        self.samples: Complex64 = _steady(samples, 1 - true_rate_hz * float(ratio) / rate_hz)
        self.name = name
        self.start_s = recording.start_s
        self.clock_sigma_s = recording.clock_sigma_s


def _steady(samples: Complex64, slip: float) -> Complex64:
    """Return the samples as if the clock, slow by the share `slip`, had kept its rate.

    Each frame of an overlap-add is shifted by the clock error at its middle, which changes by at
    most a fortieth of a sample to the next frame.
    """
    if abs(slip) * samples.size < _SLIP_SAMPLES:
        return samples
    # Imported here: it takes 0.4 s.
    import scipy.fft

    hop, n_frames = _FRAME // 2, samples.size // (_FRAME // 2) + 2
    late = slip * hop * np.arange(n_frames)
    whole = np.rint(late).astype(np.intp)
    part = (late - whole)[:, None]
    margin = _FRAME + int(np.abs(whole).max())
    first = margin + hop * (np.arange(n_frames) - 1) - whole
    frames = np.pad(samples, margin)[first[:, None] + np.arange(_FRAME)]
    # Triangles of neighbours add up to 1, and the shift between them is a straight line. They are
    # laid where they must be before the shift.
    taper = np.maximum(1 - np.abs(np.arange(_FRAME) + part - hop) / hop, 0).astype(np.float32)
    spectra = scipy.fft.fft(frames * taper, axis=1)
    angle = (-2 * np.pi * part * np.fft.fftfreq(_FRAME)).astype(np.float32)
    spectra *= np.cos(angle) + np.complex64(1j) * np.sin(angle)
    halves = scipy.fft.ifft(spectra, axis=1).reshape(n_frames, 2, hop)
    steady: Complex64 = (halves[:-1, 1] + halves[1:, 0]).ravel()[: samples.size]
    return steady


def common_signals(
    recordings: Mapping[str, ClockedRecording | None], config: ComparisonConfig, least_samples: int
) -> list[Signal]:
    """Return the signals of receivers with a clock, in their order, in the time that they share.

    Carrier offsets are removed. The fraction of a sample that the cut leaves is each signal's
    `start_s`. Fewer than two receivers with a clock give an empty list.

    Raises:
        FeatureError: A receiver is unknown, a recording is unfit, or they share fewer than
            `least_samples`.
    """
    recordings = by_receiver(recordings, config.receivers)
    signals = [
        Signal(name, recording, config.sample_rate_hz)
        for name in config.receivers
        if (recording := recordings.get(name)) is not None and recording.clock_locked
    ]
    if len(signals) < 2:
        return []
    begin_s = max(signal.start_s for signal in signals)
    cuts = common_span(
        {
            signal.name: Span(signal.start_s, signal.samples.size, config.sample_rate_hz)
            for signal in signals
        }
    )
    for signal in signals:
        first = cuts[signal.name].start
        signal.samples = signal.samples[first:]
        signal.start_s += first / config.sample_rate_hz - begin_s
    n_samples = min(signal.samples.size for signal in signals)
    if n_samples < least_samples:
        raise FeatureError(
            f"the recordings share {n_samples} samples, fewer than the {least_samples} that lags "
            f"over {config.baseline_m} m need; record for longer"
        )
    for signal in signals:
        signal.samples = signal.samples[:n_samples]
    offsets_hz = carrier_offsets_hz(
        [signal.samples for signal in signals], config.sample_rate_hz, config.offset_limit_hz
    )
    for signal, offset_hz in zip(signals, offsets_hz, strict=True):
        signal.samples = signal.samples * phasor(n_samples, -offset_hz / config.sample_rate_hz)
    return signals


def carrier_offsets_hz(signals: list[Complex64], rate_hz: float, limit_hz: float) -> Float64:
    """Return the offset of each receiver's carrier from that of a reference receiver.

    Signals are simultaneous, `(n_samples,)` at one rate; the result is `(receivers,)` in Hz. The
    reference is the receiver whose spectrum fits the others best, so never one that hears
    nothing. Offsets are accurate to a third of the recording's resolution `1 / duration`, which
    turns the phase within one column of 32 by a hundredth of a turn.
    """
    # Imported here: it takes 0.4 s.
    import scipy.fft

    n_samples = signals[0].size
    profiles = _fine_structure(scipy.fft.fft(np.array(signals), axis=1))
    limit = min(round(limit_hz * n_samples / rate_hz), n_samples // 2)
    # Shifts are few compared with bins: blocks of bins are compared with what is around them, and
    # their cross-correlations added.
    block = min(max(2 * limit, _SMOOTHING_BINS), n_samples)
    size = scipy.fft.next_fast_len(block + 2 * limit, real=True)
    n_blocks = -(-n_samples // block)
    padded = np.pad(profiles, ((0, 0), (limit, n_blocks * block + limit - n_samples)))
    around = np.lib.stride_tricks.sliding_window_view(padded, block + 2 * limit, axis=1)
    around = scipy.fft.rfft(around[:, ::block], size)
    blocks = scipy.fft.rfft(padded[:, limit : -limit or None].reshape(-1, n_blocks, block), size)
    np.conjugate(blocks, out=blocks)
    shifts = np.zeros((len(signals), len(signals)))
    fits = np.zeros_like(shifts)
    for one, other in itertools.combinations(range(len(signals)), 2):
        fit = scipy.fft.irfft((around[other] * blocks[one]).sum(axis=0), size)[: 2 * limit + 1]
        at = int(np.argmax(fit))
        shift = at - limit + (vertex(*fit[at - 1 : at + 2]) if 0 < at < 2 * limit else 0.0)
        shifts[one, other], shifts[other, one] = shift, -shift
        fits[one, other] = fits[other, one] = fit[at]
    reference = int(fits.sum(axis=1).argmax())
    offsets_hz: Float64 = shifts[reference] * rate_hz / n_samples
    return offsets_hz


def _fine_structure(spectra: Complex64) -> Float32:
    """Power over smoothed power of each bin, less 1, in order of frequency."""
    power = np.fft.fftshift(np.square(spectra.real) + np.square(spectra.imag), axes=-1)
    smooth = smoothed(power)
    ratio = np.divide(power, smooth, out=np.ones_like(smooth), where=smooth > 0)
    return np.asarray(np.minimum(ratio, _PEAK_LIMIT) - 1.0, dtype=np.float32)


def phasor(n_samples: int, cycles_per_sample: float, first: float = 0.0) -> Complex64:
    """Return `exp(2 pi i cycles_per_sample n)`, `(n_samples,)`, for n from `first` on.

    It is an outer product of two short ones, which needs a hundredth of the sines and cosines.
    """
    inner = math.isqrt(n_samples) + 1
    turn = 2j * np.pi * cycles_per_sample
    coarse = np.exp(turn * (first + inner * np.arange(-(-n_samples // inner))))
    fine = np.exp(turn * np.arange(inner))
    turns: Complex64 = np.outer(coarse, fine).astype(np.complex64).ravel()[:n_samples]
    return turns


def smoothed(power: NDArray[np.floating]) -> Float64:
    """Mean power of the bins around each bin, along the last axis; the spectrum wraps around."""
    n_bins = power.shape[-1]
    width = min(_SMOOTHING_BINS, 1 + 2 * (n_bins // 8))
    edges = [(0, 0)] * (power.ndim - 1) + [(width // 2 + 1, width // 2)]
    sums = np.cumsum(np.pad(power, edges, mode="wrap"), axis=-1, dtype=np.float64)
    return np.asarray((sums[..., width:] - sums[..., :-width]) / width, dtype=np.float64)


def vertex(before: float, peak: float, after: float) -> float:
    """Offset of the maximum of a parabola through three values a step apart, in steps."""
    bend = 2 * peak - before - after
    return (after - before) / (2 * bend) if bend > 0 else 0.0
