"""Resampling keeps the band and the time, and removes what is outside the band."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.signal
from heimdall_features import FeatureError
from heimdall_features.resample import (
    RATE_TOLERANCE,
    RATIO_LIMIT,
    UPSAMPLING_LIMIT,
    low_pass,
    rate_ratio,
    resampled,
)
from heimdall_features.signal import open_source
from heimdall_features.testing import noise, tone
from hypothesis import assume, given
from hypothesis import strategies as st

RATES = [(192e3, 48e3), (200e3, 48e3), (12_001.145, 12e3), (12.5e3, 12e3), (12e3, 48e3)]


def converted(iq, rate_hz, wanted_hz):
    """All of a recording at another rate."""
    source = resampled(open_source(iq, "two-sided"), rate_ratio(rate_hz, wanted_hz))
    return source.read(0, source.n_samples)


@given(st.floats(1e3, 1e7), st.floats(1e3, 1e7))
def test_the_ratio_is_accurate_to_a_millionth(rate_hz, wanted_hz):
    """Clocks are seldom better; the documentation promises it."""
    assume(1 / RATIO_LIMIT < wanted_hz / rate_hz < UPSAMPLING_LIMIT)
    assert abs(rate_ratio(rate_hz, wanted_hz) * rate_hz / wanted_hz - 1) <= 2 * RATE_TOLERANCE


@pytest.mark.parametrize(
    ("rate_hz", "wanted_hz", "ratio"),
    [
        (192e3, 48e3, Fraction(1, 4)),
        (12_500.0, 12e3, Fraction(24, 25)),
        (48e3, 48e3, Fraction(1)),
        (12_001.145, 12e3, Fraction(10_480, 10_481)),
    ],
)
def test_usual_rates_have_simple_ratios(rate_hz, wanted_hz, ratio):
    """By hand: 12000 / 12001.145 = 1 - 1 / 10481."""
    assert rate_ratio(rate_hz, wanted_hz) == ratio


@pytest.mark.parametrize("rate_hz", [1.0, 48.0, 192.0, 240.0, 1499.0, 9_600_001.0, 1e9])
def test_a_rate_in_khz_is_rejected(rate_hz):
    """A common mistake, which gives a tone at the carrier, or hours of samples from seconds."""
    with pytest.raises(FeatureError, match=rf"{rate_hz} Hz to 48000\.0 Hz; is the rate in Hz"):
        rate_ratio(rate_hz, 48e3)


@given(st.sampled_from(RATES), st.floats(-0.85, 0.85))
def test_a_tone_in_the_band_keeps_frequency_phase_and_level(rates_hz, where):
    """Each sample is that of the tone at the new rate, except near the ends."""
    rate_hz, wanted_hz = rates_hz
    frequency_hz = where * min(rates_hz) / 2
    out = converted(tone(frequency_hz, rate_hz, 60_000), rate_hz, wanted_hz)
    true_rate_hz = rate_hz * float(rate_ratio(rate_hz, wanted_hz))
    inner = slice(400, -400)
    expected = tone(frequency_hz, true_rate_hz, out.size)
    np.testing.assert_allclose(out[inner], expected[inner], atol=2e-3)


@given(st.floats(1.01, 3.99), st.sampled_from([-1, 1]))
def test_a_tone_outside_the_band_is_removed(where, side):
    """It could be another station, and would alias into the band."""
    out = converted(tone(side * where * 24e3, 192e3, 192_000), 192e3, 48e3)
    assert 20 * np.log10(np.abs(out[400:-400]).max()) < -78


@pytest.mark.parametrize(("rate_hz", "wanted_hz"), RATES)
def test_a_polyphase_filter_gives_the_same(rate_hz, wanted_hz):
    """An outside oracle: SciPy's other resampler with the same filter, down to its stopband."""
    iq = noise(np.random.default_rng(0), 50_000)
    ratio = rate_ratio(rate_hz, wanted_hz)
    taps = low_pass(max(ratio.numerator, ratio.denominator))
    expected = scipy.signal.resample_poly(iq, ratio.numerator, ratio.denominator, window=taps)
    out = converted(iq, rate_hz, wanted_hz)
    assert out.size == expected.size
    assert np.sqrt(np.mean(np.abs(out - expected) ** 2)) < 1e-4


def test_equal_rates_cost_nothing():
    """The samples are not even copied."""
    iq = np.ones(5000, np.complex64)
    assert np.shares_memory(converted(iq, 48e3, 48e3), iq)
