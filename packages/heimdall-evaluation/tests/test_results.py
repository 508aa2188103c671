"""What is refused before anything is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.errors import ReportError


def test_an_array_of_another_length_is_named(contents):
    """Rows that do not belong together would make a plausible, wrong report."""
    with pytest.raises(ReportError, match=r"error_m has shape \(3,\), expected \(90,\)"):
        replace(contents.evaluation, error_m=np.ones(3))


def test_a_nan_is_named_by_its_session(contents):
    """Left in, it would turn every median on the page into a dash."""
    error = contents.evaluation.error_m.copy()
    error[4] = np.nan
    with pytest.raises(ReportError, match=r"error_m of session '00000004-.*' is nan; leave"):
        replace(contents.evaluation, error_m=error)


def test_a_sigma_of_zero_is_refused(contents):
    """No ellipse can be drawn of it, and every truth would be infinitely many sigmas away."""
    sigma = contents.evaluation.sigma_m.copy()
    sigma[2, 1] = 0
    with pytest.raises(ReportError, match=r"sigma_m of session '00000002-.*is positive"):
        replace(contents.evaluation, sigma_m=sigma)


def test_a_baseline_of_other_sessions_is_refused(contents):
    """A comparison on different sessions is none."""
    short = replace(contents.baselines[0], error_m=np.ones(7))
    with pytest.raises(ReportError, match=r"'mean position': error_m has shape \(7,\)"):
        replace(contents, baselines=(short,))
