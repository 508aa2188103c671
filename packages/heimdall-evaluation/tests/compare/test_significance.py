"""The paired test, against chance, against SciPy, and against a test that counts sessions."""

from __future__ import annotations

import numpy as np
import pytest
from heimdall_evaluation.compare.significance import (
    FEWEST_SOURCES,
    log_densities,
    outcome,
    sign_change_p,
)
from heimdall_evaluation.results import Evaluation
from heimdall_models import localization_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test


def evaluation(error_m, sources, sigma_m=1000.0):
    """Sessions whose estimates are so far north of the truth."""
    n = len(error_m)
    truth = np.tile([45.0, 8.0], (n, 1))
    position = truth + np.stack([np.asarray(error_m) / 111_130, np.zeros(n)], axis=1)
    return Evaluation(
        session_ids=tuple(str(k) for k in range(n)),
        source_names=tuple(sources),
        truth_deg=truth,
        position_deg=position,
        sigma_m=np.full((n, 2), float(sigma_m)),
        error_m=np.asarray(error_m, dtype=float),
        n_present=np.full(n, 3),
    )


def clustered(rng, n_sources=20, each=10):
    """Differences without a mean, alike within a transmitter; and whose they are."""
    sources = np.repeat(np.arange(n_sources), each)
    alike = rng.normal(size=n_sources)[sources]
    return alike + 0.3 * rng.normal(size=len(sources)), [str(k) for k in sources]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12))
def test_who_is_called_first_does_not_matter(differences):
    """A is not better because it was typed first."""
    sources = [str(k // 2) for k in range(len(differences))]
    values = np.array(differences)
    assert sign_change_p(values, sources) == sign_change_p(-values, sources)


def test_where_nothing_differs_one_in_twenty_is_called_significant():
    """That is what p means, although sessions of a transmitter are alike."""
    rng = np.random.default_rng(8)
    found = [sign_change_p(*clustered(rng)) for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.10


def test_a_test_that_counts_sessions_would_call_every_second_one_significant():
    """Why a transmitter is one observation; the test above can fail."""
    rng = np.random.default_rng(8)
    found = [sign_change_p(clustered(rng)[0], [str(k) for k in range(200)]) for _ in range(100)]
    assert np.mean(np.array(found) < 0.05) > 0.4


def test_a_model_that_is_better_everywhere_is_called_better():
    """The ratio is the factor between the errors, whichever model is first."""
    rng = np.random.default_rng(2)
    error = rng.lognormal(8, 1, 60)
    sources = [str(k // 3) for k in range(60)]
    a, b = evaluation(error, sources), evaluation(error * rng.uniform(0.4, 0.6, 60), sources)
    found = outcome(a, b)
    assert found.verdict == "B"
    assert found.error_ratio.p < 0.001
    assert found.error_ratio.difference.holds(0.5)
    back = outcome(b, a)
    assert back.verdict == "A"
    product = found.error_ratio.difference.value * back.error_ratio.difference.value
    assert product == pytest.approx(1)


def test_a_few_transmitters_cannot_tell():
    """Two hundred sessions of five sites are five observations."""
    sources = [str(k % (FEWEST_SOURCES - 1)) for k in range(200)]
    a, b = evaluation(np.full(200, 2000.0), sources), evaluation(np.full(200, 1.0), sources)
    assert outcome(a, b).verdict == "unknown"


def test_a_wrong_ellipse_costs_where_errors_are_the_same():
    """An ellipse says how far to search, so it must be right too."""
    error, sources = np.linspace(500, 1500, 40), [str(k) for k in range(40)]
    right, small = (evaluation(error, sources, sigma) for sigma in (1000.0, 100.0))
    found = outcome(right, small)
    assert found.verdict == "no difference"
    assert found.nll_verdict == "A"


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8))
def test_with_one_session_a_transmitter_it_is_scipys_permutation_test(differences):
    """An outside oracle, where both ask the same question."""
    values = np.array(differences, dtype=float)
    every = permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).null_distribution
    expected = np.mean(np.abs(every) >= abs(values.sum()))
    assert sign_change_p(values, [str(k) for k in range(len(values))]) == expected


@given(st.lists(st.floats(0.1, 1e5), min_size=6, max_size=20))
@settings(max_examples=10)
def test_a_model_beside_itself_is_not_better(errors):
    """All outcomes are as large as the observed one."""
    same = evaluation(errors, [str(k) for k in range(len(errors))])
    found = outcome(same, same)
    assert (found.verdict, found.nll_verdict) == ("no difference", "no difference")
    assert (found.error_ratio.p, found.error_ratio.difference.value) == (1, 1)


@given(st.lists(st.floats(0.1, 1e5), min_size=1, max_size=20), st.floats(1, 1e5))
def test_the_density_is_that_of_the_logged_metric(errors, sigma_m):
    """One figure must not have two definitions."""
    one = evaluation(errors, ["a"] * len(errors), sigma_m)
    logged = localization_metrics(one.position_deg, one.sigma_m, one.truth_deg)
    assert -log_densities(one).mean() == pytest.approx(logged["nll"])
