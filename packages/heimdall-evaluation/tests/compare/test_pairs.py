"""What is compared with what, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.compare.pairs import paired, subset
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.results import Evaluation, ModelResult
from heimdall_export.serving.metadata import Receiver
from heimdall_models import Region
from hypothesis import assume, given
from hypothesis import strategies as st

HERE = Region(45.0, 8.0, 90_000.0)


def side(name="a", ids=range(6), receivers=("Torino", "Genova"), region=HERE, seen=None):
    """A model that was asked about these sessions."""
    n = len(ids)
    truth = np.stack([45 + 0.01 * np.array(ids), np.full(n, 8.0)], axis=1)
    return ModelResult(
        name=name,
        receivers=tuple(Receiver(one, 45.0, 8.0) for one in receivers),
        region=region,
        evaluation=Evaluation(
            session_ids=tuple(str(k) for k in ids),
            source_names=tuple(f"site {k}" for k in ids),
            truth_deg=truth,
            position_deg=truth,
            sigma_m=np.ones((n, 2)),
            error_m=np.array(ids, dtype=float),
            n_present=np.full(n, 2),
            correlation=np.linspace(-0.5, 0.5, n),
            snr_db=np.arange(n) * 1.0,
            trained_on=None if seen is None else tuple(k in seen for k in ids),
        ),
    )


def test_sessions_that_either_was_trained_on_are_told_apart():
    """They make the errors of that model look smaller than they are."""
    pair = paired(side(seen={1}), side("b", seen={4}))
    assert [pair.a.evaluation.session_ids[k] for k in pair.seen] == ["1", "4"]
    assert pair.unseen.a.evaluation.session_ids == ("0", "2", "3", "5")
    assert paired(side(seen=set()), side("b")).unseen is None
    assert paired(side(seen=range(6)), side("b")).unseen is None


def test_more_receivers_may_be_compared_with_fewer():
    """This shows what another receiver is worth."""
    more = side("b", receivers=("Genova", "Torino", "Milano"))
    assert len(paired(side(), more).a.evaluation) == 6


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (side("b", receivers=("Torino", "Milano")), "Torino, Genova and b has Torino, Milano"),
        (side("b", region=Region(47.0, 8.0, 90_000.0)), "a and b have centres 222 km apart"),
        (side("b", ids=[8, 9]), "a and b have no session in common"),
    ],
)
def test_a_comparison_without_meaning_is_refused(other, said):
    """Any figure of it would be believed."""
    with pytest.raises(EvaluationError, match=said):
        paired(side(), other)


def test_a_transmitter_that_moved_in_between_is_named():
    """A correction of the catalogue changes every error that was reported before it."""
    moved = side("b")
    truth = moved.evaluation.truth_deg + np.array([0, 0.01])
    moved = replace(moved, evaluation=replace(moved.evaluation, truth_deg=truth))
    with pytest.raises(EvaluationError, match=r"of session 0 was 78\d m elsewhere when b was"):
        paired(side(), moved)


ids = st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True)


@given(ids, ids)
def test_only_sessions_of_both_are_compared_in_one_order(first, second):
    """A model must not look better because it was asked about easier ones."""
    common = [k for k in first if k in second]
    assume(common)
    pair = paired(side(ids=first), side("b", ids=second))
    assert pair.a.evaluation.session_ids == tuple(map(str, common))
    assert pair.b.evaluation.session_ids == tuple(map(str, common))
    np.testing.assert_array_equal(pair.b.evaluation.error_m, common)
    assert pair.n_left_out == len(set(first) ^ set(second))


@given(st.lists(st.integers(0, 5), max_size=8))
def test_a_subset_keeps_every_column_together(rows):
    """A column that stays behind would give each session another's ellipse."""
    given_ = side(seen={1}).evaluation
    picked = subset(given_, rows)
    for name in ("error_m", "correlation", "snr_db", "n_present", "truth_deg"):
        np.testing.assert_array_equal(getattr(picked, name), getattr(given_, name)[rows])
    assert picked.source_names == tuple(f"site {k}" for k in rows)
    assert picked.trained_on == tuple(k == 1 for k in rows)
    assert picked.part == given_.part
