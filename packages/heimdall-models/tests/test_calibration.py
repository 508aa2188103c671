"""The factor on ellipses that makes them hold what they say."""

import numpy as np
import pytest
from heimdall_models import ModelError
from heimdall_models.calibration import (
    PRIOR_SESSIONS,
    best_factors,
    ellipse_factor,
    require_enough,
    shares,
    shrunk_factor,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2


@given(st.floats(0.3, 3.0), st.integers(0, 99))
def test_ellipses_of_a_wrong_size_are_corrected(variance, seed):
    """Errors of another variance than claimed: the factor is that variance."""
    squared = variance * np.random.default_rng(seed).chisquare(2, 4000)
    assert ellipse_factor(squared) == pytest.approx(variance, rel=0.15)


@given(st.integers(1, 30), st.floats(0.01, 100.0))
def test_few_sessions_leave_an_ellipse_nearly_as_it_is(n_sessions, squared):
    """One strange validation session must not make every ellipse seven times as large."""
    factor = ellipse_factor(np.full(n_sessions, squared))
    assert abs(np.log(factor)) <= 2 * n_sessions / (n_sessions + PRIOR_SESSIONS) + 1e-9


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4), st.floats(1e-6, 0.1))
def test_an_ellipse_ends_at_the_quantile_of_its_level(levels, step):
    """SciPy's distribution of squared distances in two dimensions is another's."""
    edges = chi2.ppf(levels, 2)
    for level, edge in zip(levels, edges, strict=True):
        distances = np.array([[0.0, edge * (1 - step)], [edge * (1 + step), edge * 2]])
        np.testing.assert_array_equal(shares(distances, [level]), [[1.0], [0.0]])


def test_shares_are_of_both_levels_for_every_row():
    """By hand: 68 % end at 2.28 and 95 % at 5.99."""
    distances = np.array([[1.0, 2.2, 3.0, 7.0], [2.3, 5.9, 6.1, 6.2]])
    np.testing.assert_array_equal(shares(distances), [[0.5, 0.75], [0.0, 0.5]])
    np.testing.assert_array_equal(shares(distances[0]), [0.5, 0.75])


def test_both_levels_count_for_the_best_factor():
    """By hand: misses of 0.18 and 0.05, 0.1 and 0.1, 0.02 and 0.18; ties are all kept."""
    factors = np.array([1.0, 2.0, 4.0, 8.0])
    found = np.array([[0.5, 0.9], [0.78, 0.85], [0.7, 0.77], [0.58, 0.85]])
    np.testing.assert_array_equal(best_factors(factors, found), [2.0, 4.0, 8.0])
    np.testing.assert_array_equal(best_factors(factors[:2], found[:2]), [2.0])


@pytest.mark.parametrize(("n_sessions", "expected"), [(30, 2.0), (10, 2**0.5), (90, 2**1.5)])
def test_the_middle_of_equally_good_factors_is_shrunk(n_sessions, expected):
    """By hand: 1 and 16 are as good, their geometric middle is 4, and 30 sessions count half."""
    found = np.array([[0.68, 0.95], [0.5, 0.5], [0.68, 0.95]])
    factor = shrunk_factor(np.array([1.0, 4.0, 16.0]), found, n_sessions)
    assert factor == pytest.approx(expected)


@pytest.mark.parametrize("log_variance", [-3.0, -1.9, -0.4, 0.0, 1.1, 1.9, 3.0])
def test_the_factor_is_the_variance_up_to_e_squared(log_variance):
    """Exact quantiles, so the factor is known: 970 sessions count 97 %. Beyond, it is a limit."""
    squared = np.exp(log_variance) * chi2.ppf((np.arange(970) + 0.5) / 970, 2)
    expected = 0.97 * np.clip(log_variance, -2, 2)
    assert np.log(ellipse_factor(squared)) == pytest.approx(expected, abs=0.02)


def test_thirty_finite_sessions_are_enough():
    """Fewer, or one that is not a number, would make any factor."""
    require_enough(np.zeros((30, 2)))
    for values in (np.zeros((29, 2)), np.full((30, 2), np.inf), np.full(30, np.nan), np.zeros(0)):
        with pytest.raises(ModelError, match=f"^{len(values)} sessions"):
            require_enough(values)
