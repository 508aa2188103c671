"""Baselines: what a network must beat."""

import numpy as np
import pytest
from heimdall_models import ModelError, error_m
from heimdall_models.baselines.constant import power_weighted_centroid
from hypothesis import given
from hypothesis import strategies as st

RECEIVERS = np.array([[45.044, 7.672], [44.395, 8.956], [45.478, 9.123]])
levels = st.lists(st.floats(-150, 0), min_size=3, max_size=3)


@given(levels, st.floats(-60, 60))
def test_a_common_offset_does_not_move_the_centroid(levels_db, offset_db):
    """Transmit power is unknown; and weights are positive, so it stays among the receivers."""
    present = [[True, True, True]]
    before = power_weighted_centroid([levels_db], present, RECEIVERS)
    assert (RECEIVERS.min(axis=0) - 0.01 < before).all()
    assert (before < RECEIVERS.max(axis=0) + 0.01).all()
    after = power_weighted_centroid([np.add(levels_db, offset_db)], present, RECEIVERS)
    assert error_m(before, after)[0] < 1e-3


@given(levels, st.integers(0, 2))
def test_one_receiver_alone_is_the_answer(levels_db, up):
    """An absent receiver's level, whatever fills its place, weighs nothing."""
    centroid = power_weighted_centroid([levels_db], [np.arange(3) == up], RECEIVERS)
    assert error_m(centroid, RECEIVERS[[up]])[0] < 1e-3


@given(st.floats(-150, 0))
def test_equal_levels_give_the_middle(level_db):
    """The mean of the receivers, but for the Earth's curve."""
    centroid = power_weighted_centroid([[level_db] * 3], [[True] * 3], RECEIVERS)
    assert centroid[0] == pytest.approx(RECEIVERS.mean(axis=0), abs=0.01)


@pytest.mark.parametrize(
    ("levels_db", "present", "message"),
    [
        ([[-80.0] * 3], [[False] * 3], "session 0 has no receiver"),
        ([[-80.0, np.nan, -80.0]], [[True] * 3], "a receiver that is present is not finite"),
        ([[-80.0] * 2], [[True] * 2], r"levels \(1, 2\) and present \(1, 2\)"),
    ],
)
def test_sessions_without_a_level_are_refused(levels_db, present, message):
    """Silence has no position; the caller must decide, not a NaN."""
    with pytest.raises(ModelError, match=message):
        power_weighted_centroid(levels_db, present, RECEIVERS)
