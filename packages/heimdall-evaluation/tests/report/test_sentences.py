"""Quantities and sentences, word by word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.report.charts import best_epoch
from heimdall_evaluation.report.map import MAX_DRAWN, choose_by_rank, drawn_sessions
from heimdall_evaluation.report.quantities import (
    count,
    decimal,
    distance,
    duration,
    factor,
    file_size,
    round_distance,
)
from heimdall_evaluation.report.sentences import about_map, about_snr, headline
from heimdall_evaluation.report.tables import compare
from hypothesis import given
from hypothesis import strategies as st

SPACE = "\N{NO-BREAK SPACE}"


@given(st.floats(1, 1e7))
def test_a_distance_is_printed_to_three_figures(metres):
    """No more than is known, no less than is wanted."""
    number, unit = distance(metres).split(SPACE)
    said = float(number.replace(",", "")) * {"m": 1, "km": 1000}[unit]
    assert said == pytest.approx(metres, rel=0.0051)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (distance(7.26), "7.26 m"),
        (distance(999.6), "1.00 km"),
        (distance(12_345), "12.3 km"),
        (distance(float("nan")), "\N{EM DASH}"),
        (round_distance(20_000), "20 km"),
        (round_distance(500), "500 m"),
        (decimal(-0.189), "\N{MINUS SIGN}0.19"),
        (factor(0.00409), "0.0041"),
        (factor(0.049), "0.049"),
        (factor(12.345), "12.35"),
        (factor(0.0), "0.00"),
        (count(1, "session"), "1 session"),
        (count(1200, "session"), "1,200 sessions"),
        (duration(48.25), "48.2 s"),
        (duration(216.4), "3 min 36 s"),
        (duration(9000), "2 h 30 min"),
        (file_size(13_612_040), "13.6 MB"),
        (file_size(812), "812 B"),
    ],
)
def test_quantities_read_as_people_write_them(said, expected):
    """The page is read by people who will not divide by a thousand."""
    assert said.replace(SPACE, " ") == expected


def test_the_comparison_follows_the_interval(contents):
    """Better and worse are claims; they need the whole interval on one side."""
    evaluation = contents.evaluation
    like = replace(contents.baselines[0], error_m=evaluation.error_m * 2)
    assert compare(evaluation, like).verdict == "better"
    assert compare(evaluation, replace(like, error_m=evaluation.error_m / 2)).verdict == "worse"
    same = compare(evaluation, replace(like, error_m=evaluation.error_m[::-1].copy()))
    assert same.verdict == "no difference"
    assert "The network is not better as far as 90" in same.sentence


def test_a_baseline_without_answers_is_not_beaten(contents):
    """Silence is no error, and no victory either."""
    mute = replace(contents.baselines[0], error_m=np.full(90, np.nan))
    found = compare(contents.evaluation, mute)
    assert found.verdict == "unknown"
    assert found.sentence == "It has no answer for any of these sessions."


def test_a_baseline_is_compared_where_it_answers(contents):
    """The centroid has none when no receiver heard anything; the network is not excused there."""
    error = contents.baselines[0].error_m.copy()
    error[:45] = np.nan
    found = compare(contents.evaluation, replace(contents.baselines[0], error_m=error))
    expected = np.median(contents.evaluation.error_m[45:]) / np.median(error[45:])
    assert found.n_answered == 45
    assert found.ratio.value == pytest.approx(expected)


def test_the_headline_counts_sessions_and_transmitters(contents):
    """Ninety sessions of one site would be another result than of thirty."""
    words = headline(contents.evaluation).replace(SPACE, " ")
    assert words.startswith("Half of the 90 held-out sessions of 30 transmitters are placed within")


def test_a_trend_with_snr_is_named(contents):
    """Noise that explains the error is not the network's fault."""
    evaluation = contents.evaluation
    fading = replace(evaluation, snr_db=-np.log(evaluation.error_m))
    assert "stronger signals are placed better" in about_snr(fading)


def test_close_ups_run_from_the_best_to_the_worst(contents):
    """A choice of good ones would be a lie."""
    chosen = choose_by_rank(contents.evaluation)
    order = np.argsort(contents.evaluation.error_m)
    assert chosen[0] == order[0]
    assert chosen[-1] == order[-1]
    assert len(set(chosen)) == 12


def test_more_sessions_than_a_map_bears_are_thinned_and_counted(contents_of):
    """Three thousand lines are a blot, and four hundred are not all."""
    contents = contents_of(3 * MAX_DRAWN)
    assert len(drawn_sessions(contents.evaluation, [0])) in (MAX_DRAWN, MAX_DRAWN + 1)
    assert f"({MAX_DRAWN} are drawn, at evenly spaced ranks of error)" in about_map(contents)


def test_the_best_epoch_is_the_one_told_or_of_least_loss(contents):
    """The marked epoch is the one whose weights were evaluated."""
    losses = [epoch.val_loss for epoch in contents.history]
    assert best_epoch(contents).epoch == int(np.argmin(losses))
    assert best_epoch(replace(contents, best_epoch=7)).epoch == 7
    assert best_epoch(replace(contents, history=())) is None
