"""What is refused before anything is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.errors import ReportError
from hypothesis import assume, given
from hypothesis import strategies as st

PAIRS = ["truth_deg", "position_deg", "sigma_m"]
SINGLES = ["error_m", "n_present", "snr_db", "correlation"]


@given(st.sampled_from(PAIRS + SINGLES), st.integers(0, 120), st.booleans())
def test_a_column_of_another_shape_is_named(contents, name, n, flat):
    """Rows that do not belong together would make a plausible, wrong report."""
    shape = (n,) if flat else (n, 2)
    assume(shape != ((90, 2) if name in PAIRS else (90,)))
    with pytest.raises(ReportError, match=rf"{name} has shape \({n},( 2)?\), expected \(90,"):
        replace(contents.evaluation, **{name: np.zeros(shape)})


@given(
    st.sampled_from([*PAIRS, "error_m"]),
    st.integers(0, 89),
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0]),
)
def test_a_value_that_cannot_be_drawn_is_named_by_its_session(contents, name, row, value):
    """A NaN would turn every median on the page into a dash; no ellipse has a sigma of zero."""
    assume(name == "sigma_m" or not np.isfinite(value))
    column = getattr(contents.evaluation, name).copy()
    column[row, ...] = value
    with pytest.raises(ReportError, match=rf"{name} of session '{row:08x}-"):
        replace(contents.evaluation, **{name: column})


@given(st.floats().filter(lambda tilt: not abs(tilt) < 1), st.integers(0, 89))
def test_a_correlation_outside_its_range_is_refused(contents, tilt, row):
    """An ellipse without area would be drawn as a line."""
    correlation = np.zeros(90)
    correlation[row] = tilt
    with pytest.raises(ReportError, match="is not between -1 and 1"):
        replace(contents.evaluation, correlation=correlation)


def test_a_baseline_of_other_sessions_is_refused(contents):
    """Methods can only be compared on the same sessions."""
    short = replace(contents.baselines[0], error_m=np.ones(7))
    with pytest.raises(ReportError, match=r"'mean position': error_m has shape \(7,\)"):
        replace(contents, baselines=(short,))
