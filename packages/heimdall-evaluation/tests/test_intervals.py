"""Laws of the intervals, and figures that others have published."""

from __future__ import annotations

import numpy as np
import pytest
from heimdall_evaluation.intervals import (
    bootstrap,
    exact_share,
    rank_correlation,
    ratio_of_medians,
    share,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr

errors = st.lists(st.floats(1.0, 1e6), min_size=2, max_size=40)


@given(errors, st.floats(0.01, 100))
@settings(max_examples=10)
def test_a_constant_factor_is_found_without_doubt(values, factor):
    """If every error is half the baseline's, no resampling can say otherwise."""
    baseline = np.array(values)
    found = ratio_of_medians(baseline * factor, baseline, [str(k) for k in range(len(values))])
    assert [found.value, found.low, found.high] == pytest.approx([factor] * 3)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_share_lies_in_its_interval(hits):
    """An interval without the observed share would be absurd to print beside it."""
    found = share(np.array(hits), [str(k) for k in range(len(hits))])
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.lists(st.booleans(), min_size=6, max_size=60))
def test_repeating_each_session_does_not_narrow_the_interval(hits):
    """Ten recordings of one site in one night are hardly more than one."""
    once = share(np.array(hits), [str(k) for k in range(len(hits))])
    ten_times = share(np.repeat(hits, 10), [str(k) for k in range(len(hits)) for _ in range(10)])
    independent = share(np.repeat(hits, 10), [str(k) for k in range(10 * len(hits))])
    width = once.high - once.low
    if 0 < once.value < 1:
        assert ten_times.high - ten_times.low == pytest.approx(width, rel=0.15)
        assert independent.high - independent.low < width


def test_wilsons_interval_is_the_published_one():
    """R. G. Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 and 15 of 148."""
    for inside, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = share(np.arange(n) < inside, [str(k) for k in range(n)])
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_bootstrapped_mean_has_the_width_of_the_standard_error():
    """The resampling agrees with the textbook where the textbook has a formula."""
    values = np.random.default_rng(3).normal(size=400)
    found = bootstrap(lambda rows: float(values[rows].mean()), [str(k) for k in range(400)])
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert found.high - found.low == pytest.approx(expected, rel=0.08)


@given(errors)
@settings(max_examples=20)
def test_one_transmitter_gives_no_interval(values):
    """There is nothing to resample, and a width of zero would claim certainty."""
    found = ratio_of_medians(np.array(values), np.full(len(values), 2.0), ["a"] * len(values))
    assert found.value == np.median(values) / 2
    assert not found.known


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_rank_correlation_is_scipys_with_ties(pairs):
    """Errors of one transmitter often tie, so the ranks of ties matter."""
    x, y = np.transpose(pairs).astype(float)
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    found = rank_correlation(x, y, ["a"] * len(x))
    assert found.value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize(("interval", "method"), [(share, "wilson"), (exact_share, "exact")])
@given(st.integers(1, 300), st.floats(0, 1))
def test_a_share_of_independent_sessions_has_scipys_interval(interval, method, n, level):
    """Where no two sessions are of one transmitter, the intervals are the textbook's."""
    n_hits = round(level * n)
    found = interval(np.arange(n) < n_hits, [str(k) for k in range(n)])
    low, high = binomtest(n_hits, n).proportion_ci(method=method)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
