"""The outcome of a comparison in words: no more than the sessions show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from heimdall_evaluation.compare.significance import Outcome, Paired
from heimdall_evaluation.compare.wording import about_errors, about_nll, headline
from heimdall_evaluation.intervals import Interval

SPACE = "\N{NO-BREAK SPACE}"
CLEAR = Outcome(
    n_sessions=90,
    n_sources=30,
    error_ratio=Paired(difference=Interval(0.8, 0.7, 0.9), p=0.0002),
    nll=Paired(difference=Interval(0.31, 0.1, 0.5), p=0.02),
)


def test_a_clear_difference_has_a_side_a_size_and_a_p():
    """All three, because each without the others misleads."""
    assert headline(CLEAR) == "B is better: B's errors are 0.80 times A's."
    wanted = (
        "Of 90 sessions of 30 transmitters: 0.80 (95 % interval 0.70 to 0.90) times, p < 0.001."
    )
    assert about_errors(CLEAR).replace(SPACE, " ") == wanted
    assert "p = 0.02; A's positions and ellipses" in about_nll(CLEAR)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error_ratio": Paired(difference=Interval(0.8, 0.6, 1.1), p=0.3)}, "No difference is"),
        ({"n_sources": 5}, "Not known: 5 transmitters"),
    ],
)
def test_what_cannot_be_told_is_not_told(changes, said):
    """A factor of 0.8 alone would be believed."""
    assert headline(replace(CLEAR, **changes)).replace(SPACE, " ").startswith(said)
