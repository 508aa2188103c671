"""One recording brought to another sample rate, band-limited.

The filtering is `scipy.signal.resample_poly`, imported only where rates differ.
"""

from fractions import Fraction
from typing import Final

import numpy as np

from heimdall_features.errors import FeatureError
from heimdall_features.signal import Samples

__all__ = ["RATE_TOLERANCE", "rate_ratio", "resampled"]

RATE_TOLERANCE: Final = 1e-6
"""A receiver's clock is seldom truer than this, one part per million."""


def rate_ratio(rate_hz: float, wanted_hz: float) -> Fraction:
    """The ratio of small whole numbers nearest `wanted / rate`, within one part per million.

    Raises:
        FeatureError: when the rates are more than a factor of 1,000 apart.
    """
    exact = Fraction(wanted_hz) / Fraction(rate_hz)
    if not Fraction(1, 1000) <= exact <= 1000:
        raise FeatureError(
            f"{rate_hz} Hz cannot sensibly be brought to {wanted_hz} Hz; is the rate in Hz?"
        )
    terms = 1
    while abs(exact.limit_denominator(terms) / exact - 1) > RATE_TOLERANCE:
        terms *= 2
    return exact.limit_denominator(terms)


def resampled(samples: Samples, ratio: Fraction) -> Samples:
    """The samples at `ratio` times their rate, float32 or complex64."""
    if ratio == 1:
        return samples
    # 1.6 s to import: only who has another rate pays.
    from scipy.signal import resample_poly

    out = resample_poly(samples, ratio.numerator, ratio.denominator)
    return np.ascontiguousarray(out)
