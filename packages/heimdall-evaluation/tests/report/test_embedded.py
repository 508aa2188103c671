"""What a report says to programs: the evaluation, as it was."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.report import render_report
from heimdall_evaluation.report.embedded import embed, read_report
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_report_gives_back_the_evaluation_it_was_made_of(contents, tmp_path):
    """A comparison of two reports must be one of the two models, to the last digit."""
    given = replace(
        contents.evaluation,
        snr_db=np.where(np.arange(90) % 7, contents.evaluation.snr_db, np.nan),
        correlation=np.linspace(-0.9, 0.9, 90),
        trained_on=tuple(k % 5 == 0 for k in range(90)),
        part="validation",
    )
    page = render_report(replace(contents, evaluation=given), tmp_path / "report.html")
    found = read_report(page)
    for name in ("truth_deg", "position_deg", "sigma_m", "error_m", "correlation", "n_present"):
        np.testing.assert_array_equal(getattr(found.evaluation, name), getattr(given, name))
    np.testing.assert_array_equal(found.evaluation.snr_db, given.snr_db)
    for name in ("session_ids", "source_names", "part", "trained_on"):
        assert getattr(found.evaluation, name) == getattr(given, name)
    assert (found.receivers, found.region) == (contents.receivers, contents.region)
    assert found.name == "convnext_atto"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<p>something else</p>", r"other\.html holds no evaluation"),
        (
            '<script type="application/json" id="evaluation">{</script>',
            "holds a damaged evaluation",
        ),
        (
            '<script type="application/json" id="evaluation">{"format":2}</script>',
            "is of format 2, this version reads 1; make it again",
        ),
        (
            '<script type="application/json" id="evaluation">{"format":1}</script>',
            r"holds a damaged evaluation \('model'\)",
        ),
        (
            f'<script type="application/json" id="evaluation">{"[" * 100_000}</script>',
            r"other\.html holds a damaged evaluation \(maximum recursion",
        ),
    ],
)
def test_what_is_no_report_is_refused(text, said, tmp_path):
    """Someone will give the page of another tool, or of a version to come."""
    other = tmp_path / "other.html"
    other.write_text(text)
    with pytest.raises(ReportError, match=said):
        read_report(other)


@pytest.mark.parametrize("value", ["null", "Infinity", "1" * 400])
def test_a_report_with_a_figure_that_is_none_is_named(value, contents_of, tmp_path):
    """Of two reports that are compared, one is told to be made again: which?"""
    page = render_report(contents_of(3), tmp_path / "damaged.html")
    whole = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r'"error_m":\[[^,]*', f'"error_m":[{value}', whole), encoding="utf-8")
    with pytest.raises(ReportError, match=r"damaged\.html holds a damaged evaluation"):
        read_report(page)


def test_a_report_that_cannot_be_read_is_named(tmp_path):
    """A wrong path is the commonest mistake there is."""
    with pytest.raises(ReportError, match=r"missing\.html: No such"):
        read_report(tmp_path / "missing.html")
    (tmp_path / "binary.html").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="it is not text"):
        read_report(tmp_path / "binary.html")


@given(
    st.lists(
        st.one_of(st.sampled_from(["</script><b>", "<!--<script>"]), st.text()),
        min_size=1,
        max_size=4,
    ),
    st.floats(1e-3, 1e7),
    st.sampled_from([np.nan, -3.5, 0.1]),
)
@settings(max_examples=50, deadline=None)
def test_a_page_gives_back_what_was_embedded(contents_of, tmp_path_factory, names, error_m, snr_db):
    """To the last digit; and no name ends the element that it is in."""
    evaluation = replace(
        plain := contents_of(len(names)).evaluation,
        source_names=tuple(names),
        error_m=np.full(len(names), error_m),
        snr_db=np.full(len(names), snr_db),
    )
    text = embed(replace(contents_of(len(names)), evaluation=evaluation, baselines=()))
    page = tmp_path_factory.mktemp("page") / "page.html"
    page.write_text(f'<script type="application/json" id="evaluation">{text}</script>')
    found = read_report(page).evaluation
    assert "<" not in text
    assert found.source_names == tuple(names)
    np.testing.assert_array_equal(found.error_m, evaluation.error_m)
    np.testing.assert_array_equal(found.snr_db, evaluation.snr_db)
    np.testing.assert_array_equal(found.position_deg, plain.position_deg)
