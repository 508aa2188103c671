"""Verdicts about thresholds: an alarm is never raised by too few sessions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.coverage import squared_sigmas
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.thresholds import check
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

honesties = st.floats(0.3, 4)
"""Size of the errors in units of what the sigmas claim."""


@pytest.fixture(scope="module")
def evaluated(contents_of):
    """Makes evaluations of sessions, each of a transmitter of its own."""

    def make(n, honesty):
        evaluation = contents_of(n, honesty=honesty).evaluation
        return replace(evaluation, source_names=tuple(map(str, range(n))))

    return make


@given(st.integers(1, 80), honesties, st.floats(0.5, 0.99), st.floats(1_000, 50_000))
@settings(max_examples=40)
def test_a_threshold_fails_only_where_chance_is_ruled_out(evaluated, n, honesty, share, limit_m):
    """Who is woken at night for nothing will not look the next time. SciPy's binomial is asked."""
    evaluation = evaluated(n, honesty)
    limits = {"min_coverage_68": share, "min_coverage_95": share}
    limits |= {"max_error_m_median": limit_m, "max_error_m_p95": limit_m}
    metrics = evaluation.metrics()
    for found in check(evaluation, limits):
        assert found.value == metrics[found.threshold[4:]]
        assert found.share.low <= found.share.value <= found.share.high
        if found.verdict == "met":
            least = found.threshold.startswith("min")
            assert found.value >= share if least else found.value <= limit_m
        else:
            chance = binom.cdf(round(found.share.value * n), n, found.needed)
            assume(abs(chance - 0.025) > 1e-9)
            assert (found.verdict == "not met") == (chance < 0.025)


@given(honesties, st.floats(0.5, 0.97))
@settings(max_examples=20)
def test_one_session_fails_no_threshold(evaluated, honesty, share):
    """The first morning after an approval, when there is one."""
    limits = {"min_coverage_95": share, "max_error_m_median": 1.0, "max_error_m_p95": 1.0}
    assert {found.verdict for found in check(evaluated(1, honesty), limits)} <= {"met", "unclear"}


def test_sessions_of_few_transmitters_fail_less_readily(evaluated):
    """Forty recordings of one hill say little about all the others."""
    apart = evaluated(80, 1.8)
    rank = np.argsort(np.argsort(squared_sigmas(apart)))  # those that miss, together
    together = replace(apart, source_names=tuple(str(k // 20) for k in rank))
    limit = {"min_coverage_95": 0.9}
    (one,), (other,) = check(apart, limit), check(together, limit)
    assert one.share.value == other.share.value
    assert (one.verdict, other.verdict) == ("not met", "unclear")


def test_an_unknown_threshold_is_named(evaluated):
    """A misspelt one would never fail."""
    with pytest.raises(EvaluationError, match="'min_coverage'; there are min_coverage_68"):
        check(evaluated(3, 1.0), {"min_coverage": 0.9})
