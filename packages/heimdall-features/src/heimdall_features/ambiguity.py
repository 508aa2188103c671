"""Best fit of one recording to another, over lag and carrier offset.

The recordings are cut to segments. Each segment's cross-correlation shows the lag; how its
phase turns from segment to segment shows the offset that is left. Both at once are the
ambiguity function, and its highest cell is a start for what refines it.

Source: S. Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP 29 (1981).
"""

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_SEGMENTS", "Fit", "best_fit"]

N_SEGMENTS: Final = 64
"""Offsets are searched up to half as many times the recording's resolution either way."""
_OFFSETS_PER_BIN: Final = 4
"""The grid of offsets is so much finer than the recording resolves."""
_FALSE_ALARM: Final = 1e-3
"""Share of noise alone that may pass for an arrival."""

Complex = NDArray[np.complexfloating]


@dataclass(frozen=True, slots=True)
class Fit:
    """The highest cell of an ambiguity function."""

    lag: int
    """Samples by which the signal comes later than the reference."""
    cycles_per_sample: float
    """Its carrier above the reference's."""
    height: float
    """Over the median cell; in noise alone cells are Rayleigh distributed."""
    threshold: float
    """Height that noise alone exceeds once in a thousand times."""

    @property
    def is_arrival(self) -> bool:
        """The cell stands above what noise would show."""
        return self.height > self.threshold

    def is_power(self, power: float) -> bool:
        """Return True if a fit of this power over that of noise stands above noise as well."""
        # Rayleigh's median is at the power ln 2.
        return power > self.threshold**2 * math.log(2)


def best_fit(signal: Complex, reference: Complex, longest_lag: int) -> Fit:
    """The lag and offset at which a signal is most like a reference.

    Args:
        signal: `(n_samples,)`.
        reference: the same length.
        longest_lag: in samples, either way.
    """
    # Imported here: it takes 0.4 s.
    import scipy.fft

    lags = _segment_lags(signal, reference, longest_lag)
    cells = np.abs(scipy.fft.fft(lags, N_SEGMENTS * _OFFSETS_PER_BIN, axis=0))
    offset, lag = np.unravel_index(int(np.argmax(cells)), cells.shape)
    middle = float(np.median(cells))
    return Fit(
        lag=int(lag) - longest_lag,
        cycles_per_sample=float(np.fft.fftfreq(len(cells))[offset]) * N_SEGMENTS / signal.size,
        height=float(cells[offset, lag]) / middle if middle > 0 else 0.0,
        threshold=math.sqrt(math.log(cells.size / _FALSE_ALARM) / math.log(2)),
    )


def _segment_lags(signal: Complex, reference: Complex, longest_lag: int) -> Complex:
    """Each segment's cross-correlation at the lags in question: `(segments, lags)`."""
    import scipy.fft

    edges = np.linspace(0, signal.size, N_SEGMENTS + 1).astype(np.intp)
    size = scipy.fft.next_fast_len(int(np.diff(edges).max()) + 2 * longest_lag)
    shifts = np.arange(-longest_lag, longest_lag + 1)
    rows = []
    for begin, end in itertools.pairwise(edges):
        first = max(int(begin) - longest_lag, 0)
        wide = scipy.fft.fft(signal[first : end + longest_lag], size)
        narrow = scipy.fft.fft(reference[begin:end], size)
        correlation = scipy.fft.ifft(wide * narrow.conj())
        rows.append(correlation[(shifts + begin - first) % size])
    return np.array(rows)
