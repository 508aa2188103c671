"""Statistics that are the same however the data were shared out."""

import functools
import json
import random

import numpy as np
import pytest
from heimdall_features import FeatureError, NormalizationStats, normalize_features
from heimdall_features.normalization import normalize_per_sample
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

tensors = st.lists(
    arrays(np.float32, (2, 4, 8), elements=st.floats(-140, 30, width=32)), min_size=1, max_size=6
)


@given(tensors, st.randoms(use_true_random=False))
def test_any_order_and_grouping_gives_the_same_bits(features, chance: random.Random):
    """Processes finish in any order; a model must not depend on which was first."""
    parts = [NormalizationStats.of([tensor]) for tensor in features]
    chance.shuffle(parts)
    cut = chance.randrange(len(parts))
    groups = [group for group in (parts[:cut], parts[cut:]) if group]
    merged = [functools.reduce(NormalizationStats.merge, group) for group in groups]
    assert functools.reduce(NormalizationStats.merge, merged) == NormalizationStats.of(features)


@given(tensors)
def test_json_keeps_every_bit(features):
    """The statistics are saved with the model, and merged on after a restart."""
    stats = NormalizationStats.of(features)
    assert NormalizationStats.from_json(stats.to_json()) == stats


@given(st.integers(1, 30), st.floats(-1000, 1000))
def test_numpys_two_passes_give_the_same(n_samples, offset):
    """An outside oracle in double precision, also far from zero, where sums of squares fail."""
    rng = np.random.default_rng(n_samples)
    features = np.clip(rng.normal(offset, 5, (n_samples, 3, 5, 16)), -1020, 1020)
    features = features.astype(np.float32)
    stats = NormalizationStats.of(features)
    across = np.asarray(features, np.float64)
    np.testing.assert_allclose(stats.mean[..., 0], across.mean((0, 3)), atol=2e-4)
    np.testing.assert_allclose(stats.std[..., 0], across.std((0, 3)), atol=2e-4)


@given(tensors)
def test_normalised_features_are_finite(features):
    """A band that never varies must not divide by zero."""
    stats = NormalizationStats.of(features)
    assert np.isfinite(normalize_features(features[0], stats)).all()
    assert np.isfinite(normalize_per_sample(features[0])).all()


def test_the_training_set_has_mean_nought_and_deviation_one():
    """That is what normalising means."""
    features = np.random.default_rng(0).normal(-80, 9, (50, 3, 8, 32)).astype(np.float32)
    stats = NormalizationStats.of(features)
    normal = np.stack([normalize_features(tensor, stats) for tensor in features])
    assert stats.mean.shape == stats.std.shape == (3, 8, 1)
    assert stats.mean.dtype == stats.std.dtype == normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean((0, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 3)), 1, atol=1e-4)


def test_a_receiver_that_was_down_does_not_shift_its_mean():
    """A tenth of the sessions lack one: its floor is no level."""
    rng = np.random.default_rng(0)
    features = rng.normal(-80, 5, (40, 2, 4, 16)).astype(np.float32)
    heard = NormalizationStats.of(features[10:])
    features[:10, 1] = -140.0
    np.testing.assert_array_equal(NormalizationStats.of(features).mean[1], heard.mean[1])


def test_a_receiver_that_was_always_down_reads_nought():
    """Its fill must not reach the network as -140 standard deviations."""
    features = np.full((1, 1, 4, 16), -140.0, np.float32)
    stats = NormalizationStats.of(features)
    np.testing.assert_array_equal(normalize_features(features[0], stats), 0.0)


def test_normalising_a_sample_by_itself_erases_what_carries_the_position():
    """Why it is not the default: two receivers 30 dB apart become alike."""
    shape = np.random.default_rng(0).normal(0, 3, (1, 8, 32))
    near_and_far = np.concatenate([shape - 60, shape - 90])
    one, other = normalize_per_sample(near_and_far)
    np.testing.assert_allclose(one, other, atol=1e-5)
    stats = NormalizationStats.of([near_and_far, near_and_far[::-1]])
    kept = normalize_features(near_and_far, stats)
    assert (kept[0] - kept[1]).mean() > 1.5


def stored(**changed):
    """Two frames of four steps each, as a file has them, but for what is changed."""
    whole = {"counts": [2], "sums": [[8]], "squares": [[32]], "fills": [[0, 0]]}
    return NormalizationStats.from_json(json.dumps(whole | changed))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: NormalizationStats.of([]), "no features to take the statistics of"),
        (lambda: NormalizationStats.of([np.zeros((4, 8))]), "not (4, 8)"),
        (lambda: NormalizationStats.of([np.full((1, 2, 3), np.nan)]), "a level of nan dB"),
        (lambda: NormalizationStats.of([np.zeros((1, 2, 0))]), "of shape (1, 2, 0)"),
        (lambda: NormalizationStats.of([np.zeros((1, 2, 3), int)]), "features are int64"),
        (
            lambda: NormalizationStats.of([np.zeros((1, 2, 3)), np.zeros((2, 2, 3))]),
            "statistics of shape (1, 2) and (2, 2) are of different features",
        ),
        (lambda: NormalizationStats.from_json("[]"), "statistics are JSON, not '[]'"),
        (lambda: NormalizationStats.from_json("{"), "statistics are JSON, not '{'"),
        (lambda: stored(sums=[[1.5]]), "the statistics hold 1.5; they are sums of whole steps"),
        (lambda: stored(counts=[float("nan")]), "the statistics hold nan"),
        (lambda: stored(squares=[[10**100]]), "the statistics hold 1000"),
        (lambda: stored(sums=[[4, 4]]), "rows of the statistics differ in length: [1, 2]"),
        (lambda: stored(counts=[-5]), "sums that no levels add up to"),
        (lambda: stored(squares=[[7]]), "sums that no levels add up to"),
        (
            lambda: NormalizationStats.from_json('{"counts":[],"sums":[],"squares":[],"fills":[]}'),
            "tables of the statistics differ in length",
        ),
        (
            lambda: normalize_features(
                np.zeros((1, 5, 3)), NormalizationStats.of([np.zeros((1, 2, 3))])
            ),
            "features of shape (1, 5, 3) do not fit statistics of (receivers, n_mels) = (1, 2)",
        ),
    ],
)
def test_what_has_no_statistics_is_refused(call, says):
    """Broadcasting would otherwise make something of almost anything."""
    with pytest.raises(FeatureError) as error:
        call()
    assert says in str(error.value)
