"""Laws of the intervals, and figures that others have published."""

from __future__ import annotations

import numpy as np
import pytest
from heimdall_evaluation.intervals import bootstrap, rank_correlation, ratio_of_medians, share
from hypothesis import given, settings
from hypothesis import strategies as st

errors = st.lists(st.floats(1.0, 1e6), min_size=2, max_size=40)


@given(errors, st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_a_constant_factor_is_found_without_doubt(values, factor):
    """If every error is half the baseline's, no resampling can say otherwise."""
    baseline = np.array(values)
    found = ratio_of_medians(baseline * factor, baseline, [str(k) for k in range(len(values))])
    assert [found.value, found.low, found.high] == pytest.approx([factor] * 3)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_share_lies_in_its_interval(hits):
    """An interval that leaves out what was seen would be absurd to print beside it."""
    found = share(np.array(hits), [str(k) for k in range(len(hits))])
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.lists(st.booleans(), min_size=6, max_size=60))
def test_repeating_each_session_does_not_make_us_surer(hits):
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


def test_one_transmitter_gives_no_interval():
    """There is nothing to resample, and a width of zero would claim certainty."""
    found = ratio_of_medians(np.ones(5), np.full(5, 2.0), ["a"] * 5)
    assert found.value == 0.5
    assert not found.known


def test_rank_correlation_follows_ranks_and_shares_ties():
    """Worked by hand: ranks 0, 1, 2, 3 against 0, 1.5, 1.5, 3."""
    found = rank_correlation(
        np.array([1.0, 10, 100, 1000]), np.array([1.0, 2, 2, 3]), ["a", "b", "c", "d"]
    )
    assert found.value == pytest.approx(4.5 / np.sqrt(5 * 4.5))
