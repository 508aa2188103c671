"""Frames and columns use every sample, and no frame twice."""

import itertools

import numpy as np
import pytest
from heimdall_features import FeatureError
from heimdall_features.frames import FramePlan
from hypothesis import assume, given
from hypothesis import strategies as st


@st.composite
def plans(draw):
    """Recordings from one frame to many, with any hop up to a frame."""
    n_fft = 2 * draw(st.integers(2, 40))
    n_samples = n_fft + draw(st.integers(0, 2000))
    return FramePlan(n_samples, n_fft, draw(st.integers(1, n_fft)), draw(st.integers(1, 40)))


def starts(plan, first=0, stop=None):
    """Start of each frame, in order."""
    runs = plan.runs(first, plan.n_frames if stop is None else stop)
    return [sample + i * plan.hop_length for sample, count in runs for i in range(count)]


@given(plans())
def test_every_sample_is_in_a_frame(plan):
    """No signal is lost, least of all at the end."""
    seen = np.zeros(plan.n_samples, bool)
    for start in starts(plan):
        seen[start : start + plan.n_fft] = True
    assert seen.all()


@given(plans())
def test_frames_are_in_order_and_inside(plan):
    """A stream cannot be read backwards, nor past its end."""
    found = starts(plan)
    assert len(found) == plan.n_frames
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, plan.last)


@given(plans(), st.data())
def test_every_frame_is_in_one_column(plan, data):
    """For any division into blocks, each column gets all of its frames."""
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, plan.n_frames - 1)), max_size=5)))
    edges = [0, *[cut for cut in cuts if cut < plan.n_frames], plan.n_frames]
    frames_in = np.zeros(plan.n_columns, int)
    for first, stop in itertools.pairwise(edges):
        for column, start, end in plan.columns(first, stop):
            assert plan.column_start(column) <= start < end <= plan.column_start(column + 1)
            frames_in[column] += end - start
    assert frames_in.sum() == plan.n_frames
    assert frames_in.max() - frames_in.min() <= 1
    assert frames_in.min() >= 1


@given(plans(), st.integers(0, 50), st.integers(1, 50))
def test_a_block_has_the_same_frames_as_the_whole(plan, first, count):
    """For blocks of any size."""
    stop = min(first + count, plan.n_frames)
    assume(first < stop)
    assert starts(plan, first, stop) == starts(plan)[first:stop]


def test_a_second_at_48_khz_has_91_frames():
    """By hand: (48000 - 2048) / 512 = 89.75, so 90 regular frames and a last one."""
    plan = FramePlan(48_000, 2048, 512, 32)
    assert (plan.n_regular, plan.n_frames, plan.last) == (90, 91, 45_952)
    assert list(plan.columns(0, 7)) == [(0, 0, 2), (1, 2, 5), (2, 5, 7)]


def test_one_frame_fills_every_column():
    """By hand: the shortest recording gives the same frame 32 times."""
    assert starts(FramePlan(2048, 2048, 512, 32)) == [0] * 32


@pytest.mark.parametrize(
    ("n_samples", "n_columns", "message"),
    [
        (2047, 32, "2047 samples are less than one frame of n_fft=2048; record for longer"),
        (4096, 0, "n_frames is 0; ask for at least 1 column"),
    ],
)
def test_too_few_samples_or_columns_are_rejected(n_samples, n_columns, message):
    """Half a frame would be another spectrum."""
    with pytest.raises(FeatureError, match=message):
        FramePlan(n_samples, 2048, 512, n_columns)
