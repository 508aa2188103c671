"""The evaluation inside a report, for programs."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from heimdall_evaluation.compare.pairs import subset
from heimdall_evaluation.compare.significance import log_densities
from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.report import render_report
from heimdall_evaluation.report.embedded import embed, read_report
from heimdall_evaluation.report.sentences import about_posterior
from heimdall_models.metrics import Posteriors
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK = '<script type="application/json" id="evaluation">{}</script>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<p>something else</p>", "no evaluation"),
        (BLOCK.format("{"), "a damaged evaluation"),
        (BLOCK.format('{"format":1}'), r"a damaged evaluation \('model'\)"),
        (BLOCK.format("[" * 100_000), r"a damaged evaluation \(maximum recursion"),
        (BLOCK.format('{"format":3}'), "format 3, this version reads 2"),
    ],
)
def test_what_is_not_a_report_is_refused(text, said, tmp_path):
    """Someone will give the page of another tool, or of a later version."""
    other = tmp_path / "other.html"
    other.write_text(text)
    with pytest.raises(ReportError, match=rf"other\.html (holds|is of) {said}"):
        read_report(other)


@pytest.mark.parametrize("value", ["null", "Infinity", "1" * 400])
def test_a_damaged_report_is_named(value, contents_of, tmp_path):
    """Of two reports that are compared, the message must say which one to make again."""
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


names = st.one_of(st.sampled_from(["</script><b>", "<!--<script>"]), st.text())
metres = st.floats(1e-3, 1e7)


@given(
    st.lists(st.tuples(names, metres, metres, st.floats(-0.99, 0.99)), min_size=1, max_size=4),
    st.sampled_from([np.nan, -3.5, 0.1]),
    st.booleans(),
)
@settings(max_examples=50)
def test_a_page_gives_back_what_was_embedded(contents_of, tmp_path_factory, rows, snr_db, tilted):
    """Every column returns to the last digit, and no name ends the HTML element that it is in."""
    sources, errors, sigmas, correlation = map(list, zip(*rows, strict=True))
    contents = contents_of(n := len(rows), baselines=())
    given_ = replace(
        contents.evaluation,
        source_names=tuple(sources),
        error_m=np.array(errors),
        sigma_m=np.stack([sigmas, errors], axis=1),
        snr_db=np.full(n, snr_db),
        correlation=np.array(correlation) if tilted else None,
        trained_on=tuple(k % 2 == 0 for k in range(n)) if tilted else None,
        part="validation" if tilted else "test",
    )
    text = embed(replace(contents, evaluation=given_))
    page = tmp_path_factory.mktemp("page") / "page.html"
    page.write_text(BLOCK.format(text))
    found = read_report(page)
    assert "<" not in text
    for field in fields(given_):
        value, wanted = getattr(found.evaluation, field.name), getattr(given_, field.name)
        assert type(value) is type(wanted)
        np.testing.assert_array_equal(value, wanted)
    assert (found.name, found.receivers) == ("convnext_atto", contents.receivers)
    assert found.region == contents.region


def test_a_page_gives_back_a_mixture(contents_of, tmp_path):
    """Comparisons by likelihood need all of it, and a page of a part of the sessions theirs."""
    contents = contents_of(6, baselines=())
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), 6)
    means = contents.evaluation.truth_deg[:, None] + rng.normal(0, 0.1, (6, 3, 2))
    covariances = np.tile([1e8, 2e8, 1e7], (6, 3, 1))
    posteriors = Posteriors(weights, means, covariances)
    given_ = replace(contents.evaluation, posteriors=posteriors)
    page = tmp_path / "page.html"
    page.write_text(BLOCK.format(embed(replace(contents, evaluation=given_))))
    found = read_report(page).evaluation
    for one, other in zip(found.posteriors, posteriors, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.metrics() == given_.metrics()
    assert found.metrics()["nll_mixture"] != found.metrics()["nll"]
    some = subset(found, [4, 1])
    np.testing.assert_allclose(some.scores().nll, found.scores().nll[[4, 1]])
    np.testing.assert_allclose(log_densities(some), -some.scores().nll)
    assert "An answer has 3" in about_posterior(found)


def test_a_report_of_format_1_opens(contents_of, tmp_path):
    """Reports are kept for years; those had no mixtures."""
    contents = contents_of(3, baselines=())
    report = json.loads(embed(contents))
    assert report["sessions"].pop("posteriors") is None
    page = tmp_path / "old.html"
    page.write_text(BLOCK.format(json.dumps(report | {"format": 1})))
    assert read_report(page).evaluation.posteriors is None


def test_posteriors_of_other_sessions_are_refused(contents_of):
    """One row for each session."""
    posteriors = Posteriors(np.ones((2, 1)), np.zeros((2, 1, 2)), np.ones((2, 1, 3)))
    with pytest.raises(ReportError, match=r"posteriors has shape \(2,\), expected \(3,\)"):
        replace(contents_of(3).evaluation, posteriors=posteriors)
