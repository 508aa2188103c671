"""The factor on ellipses that makes them hold what they say."""

import numpy as np
import pytest
from heimdall_models.calibration import PRIOR_SESSIONS, ellipse_factor
from hypothesis import given
from hypothesis import strategies as st


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
