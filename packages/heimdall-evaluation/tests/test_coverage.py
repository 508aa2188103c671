"""Coverage against the chi-squared law and against the metrics that are logged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.coverage import (
    ONE_SIGMA_SHARE,
    at_bounds,
    coverage,
    inside,
    levels_of_truths,
    radius_sigmas,
)
from heimdall_evaluation.report.charts import about_coverage
from heimdall_models import localization_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2


@given(st.floats(0.001, 0.999))
def test_the_ellipse_of_p_holds_p_of_a_gaussian(p):
    """SciPy's chi-squared law of two degrees of freedom; one sigma holds 39 % and not 68 %."""
    assert radius_sigmas(p) ** 2 == pytest.approx(chi2.ppf(p, 2))
    assert chi2.cdf(1, 2) == pytest.approx(ONE_SIGMA_SHARE)


def test_right_sigmas_are_called_consistent(contents):
    """The synthetic sessions follow their sigmas, so the verdict has to be good."""
    sentence = about_coverage(contents.evaluation, 0.68).replace("\N{NO-BREAK SPACE}", " ")
    n_inside = inside(contents.evaluation, 0.68).sum()
    assert sentence.startswith(f"{n_inside} of 90 truths lie inside the 68 % ellipse")
    assert sentence.endswith("consistent with what the ellipse claims.")


@pytest.mark.parametrize(
    ("honesty", "verdict"), [(3.0, "surer than it should be"), (0.3, "larger than they need be")]
)
def test_a_wrong_sigma_is_called_so(contents_of, honesty, verdict):
    """Too small an ellipse misleads, too large a one wastes a search party's day."""
    assert verdict in about_coverage(contents_of(honesty=honesty).evaluation, 0.68)


@given(st.integers(1, 60), st.floats(0.2, 5))
@settings(max_examples=25)
def test_coverage_is_the_logged_metric(contents_of, n, honesty):
    """The page and MLflow must not disagree about the same sessions."""
    e = contents_of(n, honesty=honesty).evaluation
    logged = localization_metrics(e.position_deg, e.sigma_m, e.truth_deg)
    for claimed in (0.68, 0.95):
        observed = coverage(e, claimed)
        assert observed.value == pytest.approx(logged[f"coverage_{claimed * 100:.0f}"])
        assert observed.low <= observed.value <= observed.high


@given(st.floats(0.01, 0.99), st.floats(-0.99, 0.99))
def test_a_truth_lies_on_the_ellipse_of_its_level(contents, claimed, tilt):
    """The histogram of levels and the coverage must count the same sessions as inside."""
    n = len(contents.evaluation)
    e = replace(contents.evaluation, correlation=np.full(n, tilt))
    assert inside(e, claimed).tolist() == (levels_of_truths(e) <= claimed).tolist()


@given(st.lists(st.floats(2.0, 900.0), min_size=1, max_size=20), st.data())
def test_only_sigmas_at_a_bound_are_counted(others, data):
    """A sigma beyond a bound comes from times of arrival, and says what they found."""
    n_least, n_largest = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    sigmas = [1.0] * n_least + [1000.0] * n_largest + others + [0.5, 2000.0]
    sigma_m = np.stack([sigmas, np.full(len(sigmas), 30.0)], axis=1)
    assert at_bounds(sigma_m, (1.0, 1000.0)) == (n_least, n_largest)
