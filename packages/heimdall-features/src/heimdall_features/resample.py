"""A recording at another sample rate, band-limited, one piece at a time.

`scipy.signal.resample` converts overlapping pieces, whose ends are discarded (overlap-save):
ten times as fast here as a polyphase filter of the same length. Nothing remains above the lower
of the two Nyquist frequencies; the band up to 0.86 of it is unchanged.

Measured rates (12001.145 Hz) are converted with the nearest ratio of whole numbers within one
part per million. At the edge of a 48 kHz band that is 0.024 Hz, a thousandth of a bin; after a
minute it is 60 microseconds, a fraction of a hop.

Sources: J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window function",
IEEE ISCAS 1974; A. V. Oppenheim and R. W. Schafer, "Discrete-Time Signal Processing", 8.7.
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

RATE_TOLERANCE: Final = 1e-6
"""Typical error of a receiver's clock: one part per million."""
RATIO_LIMIT: Final = 200
"""2.4 MHz to 12 kHz; a larger ratio means a rate in kHz by mistake."""
UPSAMPLING_LIMIT: Final = 32
"""12 kHz to 384 kHz. A lower rate than that is a mistake, and makes much work of few samples."""
STOPBAND_DB: Final = 80.0
HALF_LENGTH: Final = 36
"""Samples of the lower rate that the filter covers on either side."""
OVERSAMPLING: Final = 4
PIECE_SAMPLES: Final = 1 << 14


def rate_ratio(rate_hz: float, wanted_hz: float, tolerance: float = RATE_TOLERANCE) -> Fraction:
    """Ratio of small whole numbers near `wanted / rate`, within a relative tolerance.

    Raises:
        FeatureError: The rate is more than 200 times or less than a 32nd of the wanted one.
    """
    exact = Fraction(wanted_hz) / Fraction(rate_hz)
    if not Fraction(1, RATIO_LIMIT) <= exact <= UPSAMPLING_LIMIT:
        raise FeatureError(f"cannot resample {rate_hz} Hz to {wanted_hz} Hz; is the rate in Hz?")
    # Doubling the terms finds a ratio at most twice as long as the shortest.
    near, terms = Fraction(round(exact)), 1
    while abs(near / exact - 1) > tolerance:
        terms *= 2
        near = exact.limit_denominator(terms)
    return near


def resampled(source: Source, ratio: Fraction) -> Source:
    """Return the recording at `ratio` times its rate; for a ratio of 1, the source itself."""
    if ratio == 1:
        return source
    n_samples = math.ceil(source.n_samples * ratio)
    return BlockSource(Blocks(_pieces(source, ratio, n_samples), n_samples))


def _pieces(source: Source, ratio: Fraction, n_samples: int) -> Iterator[Samples]:
    """Yield the output in order; the recording is taken as silent beyond its ends.

    Pieces start at multiples of the ratio's denominator, where input and output samples coincide.
    """
    # Imported here: it takes 1.6 s, and only different rates need it.
    from scipy.signal import resample

    margin = ratio.denominator * math.ceil(
        HALF_LENGTH / min(ratio, Fraction(1)) / ratio.denominator
    )
    size = ratio.denominator
    while size < max(PIECE_SAMPLES, 4 * margin):
        size *= 2
    response = _response(ratio, size)
    # The transform wraps around, which corrupts both ends of a piece.
    kept = slice(int(margin * ratio), int((size - margin) * ratio))
    for start in range(-margin, source.n_samples - margin, size - 2 * margin):
        first, last = max(0, start), min(start + size, source.n_samples)
        piece = np.pad(source.read(first, last), (first - start, start + size - last))
        out = resample(piece, int(size * ratio), window=response)[kept]
        yield out[: n_samples - int((start + margin) * ratio)]


@functools.lru_cache(maxsize=8)
def _response(ratio: Fraction, size: int) -> NDArray[np.float32]:
    """Filter gain at each bin of a piece: float32 `(size,)`, in FFT order."""
    n_low = int(size * min(ratio, Fraction(1)))
    gains = np.abs(np.fft.rfft(low_pass(OVERSAMPLING), OVERSAMPLING * n_low))
    distance = np.abs(np.fft.fftfreq(size, 1.0 / size)).astype(np.intp)
    # What is beyond the lower Nyquist frequency, the conversion leaves out.
    response: NDArray[np.float32] = gains[np.minimum(distance, n_low // 2)].astype(np.float32)
    return response


def low_pass(factor: int) -> NDArray[np.float64]:
    """Low-pass filter at `factor` times the lower rate: `(2 * 36 * factor + 1,)` with sum 1.

    By Kaiser's formulas the transition is as narrow as the length allows, and ends at the Nyquist
    frequency of the lower rate.
    """
    n = np.arange(-HALF_LENGTH * factor, HALF_LENGTH * factor + 1)
    transition = (STOPBAND_DB - 7.95) / (2.285 * 2 * HALF_LENGTH * math.pi)
    cutoff = (1.0 - transition / 2) / factor
    taps = np.sinc(cutoff * n) * np.kaiser(n.size, 0.1102 * (STOPBAND_DB - 8.7))
    return np.asarray(taps / taps.sum(), dtype=np.float64)
