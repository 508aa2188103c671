"""A recording brought to another sample rate, band-limited, a piece at a time.

The work is done by `scipy.signal.resample` (imported only where rates differ) on overlapping
pieces, of which the ends are thrown away: overlap-save, ten times as fast here as a polyphase
filter of the same length. What lies above the lower of the two Nyquist frequencies is gone,
and what lies below 0.86 of it is untouched. Sources: J. F. Kaiser, "Nonrecursive digital
filter design using the I0-sinh window function", IEEE ISCAS 1974; A. V. Oppenheim and
R. W. Schafer, "Discrete-Time Signal Processing", section 8.7.

Rates are measured (12001.145 Hz) while the filter needs a ratio of whole numbers; the nearest
one within a millionth is taken. At the edge of a 48 kHz band that is 0.024 Hz, and after a
minute 60 microseconds: a thousandth of a bin, and a fraction of a frame's hop.
"""

import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError
from heimdall_features.signal import Blocks, BlockSource, Samples, Source

__all__ = ["RATE_TOLERANCE", "rate_ratio", "resampled"]

RATE_TOLERANCE: Final = 1e-6
"""A receiver's clock is seldom truer than this, one part per million."""

RATIO_LIMIT: Final = 200
"""From 2.4 MHz to 12 kHz; what is further apart is a rate in kHz by mistake."""

STOPBAND_DB: Final = 80.0
HALF_LENGTH: Final = 36
"""Samples of the lower rate on either side that the filter takes in."""

OVERSAMPLING: Final = 4

PIECE_SAMPLES: Final = 1 << 14


def rate_ratio(rate_hz: float, wanted_hz: float) -> Fraction:
    """A ratio of small whole numbers near `wanted / rate`, within one part per million.

    Raises:
        FeatureError: when the rates are more than a factor of 200 apart.
    """
    exact = Fraction(wanted_hz) / Fraction(rate_hz)
    if not Fraction(1, RATIO_LIMIT) <= exact <= RATIO_LIMIT:
        raise FeatureError(
            f"{rate_hz} Hz cannot sensibly be brought to {wanted_hz} Hz; is the rate in Hz?"
        )
    # Doubling the terms finds a ratio at most twice as long as the shortest.
    near, terms = Fraction(round(exact)), 1
    while abs(near / exact - 1) > RATE_TOLERANCE:
        terms *= 2
        near = exact.limit_denominator(terms)
    return near


def resampled(source: Source, ratio: Fraction) -> Source:
    """The same recording at `ratio` times its rate; a ratio of 1 is the source itself."""
    if ratio == 1:
        return source
    n_samples = math.ceil(source.n_samples * ratio)
    return BlockSource(Blocks(_pieces(source, ratio, n_samples), n_samples))


def _pieces(source: Source, ratio: Fraction, n_samples: int) -> Iterator[Samples]:
    """The output in order; beyond its ends the recording is taken to be silent.

    Pieces start at multiples of the denominator, where input and output samples coincide.
    """
    # Imported here: it takes 1.6 s, and only other rates need it.
    from scipy.signal import resample

    margin, size = _piece_layout(ratio)
    response = _response(ratio, size)
    # Both ends of a piece are spoilt by the transform's wrapping around.
    kept = slice(int(margin * ratio), int((size - margin) * ratio))
    for start in range(0, source.n_samples, size - 2 * margin):
        piece = _padded(source, start - margin, start - margin + size)
        out = resample(piece, int(size * ratio), window=response)[kept]
        yield out[: n_samples - int(start * ratio)]


def _piece_layout(ratio: Fraction) -> tuple[int, int]:
    """The margin and the size of a piece, in samples: multiples of the denominator."""
    reach = HALF_LENGTH / min(ratio, Fraction(1))
    margin = ratio.denominator * math.ceil(reach / ratio.denominator)
    size = ratio.denominator
    while size < max(PIECE_SAMPLES, 4 * margin):
        size *= 2
    return margin, size


def _padded(source: Source, start: int, stop: int) -> Samples:
    first, last = max(0, start), min(stop, source.n_samples)
    return np.pad(source.read(first, last), (first - start, stop - last))


@functools.lru_cache(maxsize=8)
def _response(ratio: Fraction, size: int) -> NDArray[np.float32]:
    """The filter's gain at each bin of a piece: float32 `(size,)`, in the transform's order."""
    n_low = int(size * min(ratio, Fraction(1)))
    gains = np.abs(np.fft.rfft(low_pass(OVERSAMPLING), OVERSAMPLING * n_low))
    distance = np.abs(np.fft.fftfreq(size, 1.0 / size)).astype(np.intp)
    inside = distance <= n_low // 2
    return np.where(inside, gains[np.minimum(distance, n_low // 2)], 0.0).astype(np.float32)


def low_pass(factor: int) -> NDArray[np.float64]:
    """The filter at `factor` times the lower rate: `(2 * 36 * factor + 1,)`, its sum 1.

    Kaiser's formulas: the transition is as narrow as the length allows, and it ends where
    the lower rate's Nyquist frequency lies.
    """
    n = np.arange(-HALF_LENGTH * factor, HALF_LENGTH * factor + 1)
    transition = (STOPBAND_DB - 7.95) / (2.285 * 2 * HALF_LENGTH * math.pi)
    cutoff = (1.0 - transition / 2) / factor
    taps = np.sinc(cutoff * n) * np.kaiser(n.size, 0.1102 * (STOPBAND_DB - 8.7))
    return np.asarray(taps / taps.sum(), dtype=np.float64)
