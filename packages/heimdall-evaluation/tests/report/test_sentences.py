"""Quantities and sentences, word by word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.quantities import (
    count,
    decimal,
    distance,
    duration,
    factor,
    file_size,
    round_distance,
)
from heimdall_evaluation.report.charts import best_epoch, snr_figure
from heimdall_evaluation.report.map import MAX_DRAWN, map_figure
from heimdall_evaluation.report.page import compare, exclusion_groups, flat_rows
from hypothesis import given
from hypothesis import strategies as st

SPACE = "\N{NO-BREAK SPACE}"


@given(st.floats(1, 1e7))
def test_a_distance_is_printed_to_three_figures(metres):
    """More figures are not known."""
    number, unit = distance(metres).split(SPACE)
    said = float(number.replace(",", "")) * {"m": 1, "km": 1000}[unit]
    assert said == pytest.approx(metres, rel=0.0051)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (distance(999.6), "1.00 km"),
        (distance(float("nan")), "\N{EM DASH}"),
        (round_distance(20_000), "20 km"),
        (round_distance(500), "500 m"),
        (decimal(-0.189), "\N{MINUS SIGN}0.19"),
        (factor(0.00409), "0.0041"),
        (factor(12.345), "12.35"),
        (factor(0.0), "0.00"),
        (count(1, "session"), "1 session"),
        (count(1200, "session"), "1,200 sessions"),
        (duration(48.25), "48.2 s"),
        (duration(216.4), "3 min 36 s"),
        (duration(9000), "2 h 30 min"),
        (file_size(13_612_040), "13.6 MB"),
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
    """A method without answers is neither better nor worse."""
    mute = replace(contents.baselines[0], error_m=np.full(90, np.nan))
    found = compare(contents.evaluation, mute)
    assert found.verdict == "unknown"
    assert found.sentence == "It has no answer for any of these sessions."


def test_a_baseline_is_compared_where_it_answers(contents):
    """The centroid has no answer when no receiver heard anything; those sessions do not count."""
    error = contents.baselines[0].error_m.copy()
    error[:45] = np.nan
    found = compare(contents.evaluation, replace(contents.baselines[0], error_m=error))
    expected = np.median(contents.evaluation.error_m[45:]) / np.median(error[45:])
    assert found.n_answered == 45
    assert found.ratio.value == pytest.approx(expected)


def test_a_trend_with_snr_is_named(contents):
    """Noise that explains the error is not the network's fault."""
    evaluation = contents.evaluation
    fading = replace(evaluation, snr_db=-np.log(evaluation.error_m))
    assert "stronger signals are placed better" in snr_figure(fading)[1]


def test_thinned_sessions_are_counted(contents_of):
    """The map does not show all sessions, and its caption must say so."""
    contents = contents_of(3 * MAX_DRAWN)
    assert (
        f"({MAX_DRAWN} are drawn, at evenly spaced ranks of error)" in map_figure(contents, [0])[2]
    )


def test_the_best_epoch_is_the_one_told_or_of_least_loss(contents):
    """The marked epoch is the one whose weights were evaluated."""
    losses = [epoch.val_loss for epoch in contents.history]
    assert best_epoch(contents).epoch == int(np.argmin(losses))
    assert best_epoch(replace(contents, best_epoch=7)).epoch == 7
    assert best_epoch(replace(contents, history=())) is None


@given(st.integers(0, 10**12))
def test_a_size_is_printed_to_three_figures(n_bytes):
    """Whoever plans a download needs the magnitude, and no digit more."""
    number, unit = file_size(n_bytes).split(SPACE)
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert float(number) * scale == pytest.approx(n_bytes, rel=0.0051)


@given(st.floats(0, 1e6))
def test_a_duration_is_its_parts(seconds):
    """Hours are not printed in seconds, and no minutes are lost."""
    parts = duration(seconds).replace(SPACE, " ").split(" ")
    units = {"s": 1, "min": 60, "h": 3600}
    total = sum(float(n) * units[unit] for n, unit in zip(parts[::2], parts[1::2], strict=True))
    assert total == pytest.approx(seconds, abs=60 if "h" in parts else 0.51)


details = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, max_size=3)
)


@given(st.dictionaries(st.text("ab", min_size=1), details, max_size=4))
def test_no_detail_of_a_split_is_lost(tree):
    """Whoever doubts a split reads its report in the page alone."""

    def leaves(node):
        return sum(map(leaves, node.values())) if isinstance(node, dict) else 1

    assert len(flat_rows(tree)) == leaves(tree)


@given(st.lists(st.tuples(st.text("xyz", min_size=1), st.sampled_from("abc")), max_size=20))
def test_every_exclusion_is_in_one_group(contents, excluded):
    """Every session that was left out must be found with its reason."""
    groups = exclusion_groups(replace(contents, excluded=tuple(excluded)))
    assert sorted((id_, reason) for reason, ids in groups for id_ in ids) == sorted(excluded)
    sizes = [len(ids) for _, ids in groups]
    assert sizes == sorted(sizes, reverse=True)
