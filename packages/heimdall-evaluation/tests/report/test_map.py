"""Tilted ellipses, as they are drawn and as they are counted; the choice of sessions."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.coverage import shares_inside, squared_sigmas
from heimdall_evaluation.report import render_report
from heimdall_evaluation.report.map import (
    MAX_DRAWN,
    choose_by_rank,
    drawn_sessions,
    ellipse_axes,
)
from heimdall_evaluation.results import BaselineResult
from heimdall_models.metrics import offset_east_north_m
from hypothesis import given, settings
from hypothesis import strategies as st

SIGMA = st.floats(0.1, 1e4)


@given(SIGMA, SIGMA, st.floats(-0.999, 0.999))
def test_the_drawn_axes_are_those_of_the_covariance(east, north, tilt):
    """NumPy's eigenvalues, and the matrix put together again from axes and angle."""
    half_axes, turned_deg = ellipse_axes(np.array([[east, north]]), np.array([tilt]))
    wanted = np.array([[east**2, tilt * east * north], [tilt * east * north, north**2]])
    assert np.sort(half_axes[0] ** 2) == pytest.approx(
        np.linalg.eigvalsh(wanted), rel=1e-6, abs=1e-6 * wanted.max()
    )
    cosine, sine = np.cos(np.radians(turned_deg[0])), np.sin(np.radians(turned_deg[0]))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    found = turn @ np.diag(half_axes[0] ** 2) @ turn.T
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6 * wanted.max())


@given(st.floats(-0.99, 0.99))
def test_the_distance_in_sigmas_is_that_of_the_covariance(contents, tilt):
    """The same offset is near in one direction and far in the other: Mahalanobis' distance."""
    e = replace(contents.evaluation, correlation=np.full(90, tilt))
    offset_m = offset_east_north_m(e.position_deg, e.truth_deg)
    covariance = np.stack([np.diag(s) @ [[1, tilt], [tilt, 1]] @ np.diag(s) for s in e.sigma_m])
    expected = np.einsum("ni,nij,nj->n", offset_m, np.linalg.inv(covariance), offset_m)
    assert squared_sigmas(e) == pytest.approx(expected)


def test_a_baselines_coverage_counts_its_answers_alone():
    """Sessions that a method does not answer must not count as outside its ellipse."""
    truth_deg = np.array([[45.0, 8.0]] * 4)
    position_deg = truth_deg + np.array([[0, 0], [0, 0], [1, 0], [np.nan, np.nan]])
    method = BaselineResult(
        name="m",
        explanation="",
        error_m=np.array([0.0, 0.0, 111e3, np.nan]),
        position_deg=position_deg,
        sigma_m=np.full((4, 2), 1000.0),
    )
    assert shares_inside(method, truth_deg) == pytest.approx((2 / 3, 2 / 3))
    assert shares_inside(replace(method, sigma_m=None), truth_deg) is None
    assert shares_inside(replace(method, error_m=np.full(4, np.nan)), truth_deg) is None


def test_the_map_shows_another_method_where_it_is_asked_to(contents, tmp_path):
    """Two ways of using the same recordings, side by side."""
    first, *others = contents.baselines
    known = replace(first, position_deg=contents.evaluation.truth_deg + 0.1)
    both = replace(contents, baselines=(known, *others), map_baseline=first.name)
    words = f"{first.name}, of the numbered sessions"
    assert words in render_report(both, tmp_path / "a.html").read_text(encoding="utf-8")
    plain = render_report(contents, tmp_path / "b.html").read_text(encoding="utf-8")
    assert words not in plain


@given(SIGMA, SIGMA)
def test_an_upright_ellipse_has_its_axes_east_and_north(east, north):
    """East is across, also where north is the longer axis."""
    half_axes, turned_deg = ellipse_axes(np.array([[east, north]]), np.zeros(1))
    assert half_axes.tolist() == [[east, north]]
    assert turned_deg.tolist() == [0.0]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_close_ups_run_from_the_best_to_the_worst(contents_of, n, seed):
    """A choice of good sessions alone would mislead."""
    errors = np.random.default_rng(seed).lognormal(8, 1, n)
    evaluation = replace(contents_of(n).evaluation, error_m=errors)
    chosen = choose_by_rank(evaluation)
    assert len(set(chosen)) == len(chosen) == min(n, 12)
    assert np.all(np.diff(errors[chosen]) >= 0)
    if n > 1:
        assert (errors[chosen[0]], errors[chosen[-1]]) <= (np.median(errors), errors.max())


@given(st.integers(1, 3 * MAX_DRAWN))
@settings(max_examples=15)
def test_as_many_sessions_are_drawn_as_a_map_bears(contents_of, n):
    """Three thousand lines hide each other; the best and the worst are among those drawn."""
    evaluation = contents_of(n).evaluation
    drawn = drawn_sessions(evaluation, [0])
    assert len(drawn) - min(n, MAX_DRAWN) in (0, 1)
    assert {0, int(np.argmin(evaluation.error_m)), int(np.argmax(evaluation.error_m))} <= set(drawn)
