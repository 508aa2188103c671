"""Statistics do not depend on how the data were divided."""

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
    """Processes finish in any order; a model must not depend on it."""
    parts = [NormalizationStats.of([tensor]) for tensor in features]
    chance.shuffle(parts)
    cut = chance.randrange(len(parts))
    groups = [group for group in (parts[:cut], parts[cut:]) if group]
    merged = [functools.reduce(NormalizationStats.merge, group) for group in groups]
    assert functools.reduce(NormalizationStats.merge, merged) == NormalizationStats.of(features)


@given(tensors)
def test_json_keeps_every_bit(features):
    """Statistics are saved with the model and merged further after a restart."""
    stats = NormalizationStats.of(features)
    assert NormalizationStats.from_json(stats.to_json()) == stats


@given(st.integers(-(2**62), 2**62), st.integers(2**62, 2**70))
def test_sums_beyond_63_bits_are_merged_exactly(total, square):
    """A large data set exceeds NumPy's integers, which would wrap or be rounded."""
    stats = stored(counts=[2**60], sums=[[total]], squares=[[square**2]])
    doubled = stats.merge(stats)
    assert doubled.sums == ((2 * total,),)
    assert doubled.squares == ((2 * square**2,),)


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
    """A constant band must not divide by zero."""
    stats = NormalizationStats.of(features)
    assert np.isfinite(normalize_features(features[0], stats)).all()
    assert np.isfinite(normalize_per_sample(features[0])).all()


def test_the_training_set_has_mean_zero_and_deviation_one():
    """This is the purpose of normalising."""
    features = np.random.default_rng(0).normal(-80, 9, (50, 3, 8, 32)).astype(np.float32)
    stats = NormalizationStats.of(features)
    normal = np.stack([normalize_features(tensor, stats) for tensor in features])
    assert stats.mean.shape == stats.std.shape == (3, 8, 1)
    assert stats.mean.dtype == stats.std.dtype == normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean((0, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 3)), 1, atol=1e-4)


def test_a_missing_receiver_does_not_shift_its_mean():
    """It is missing from a tenth of the sessions, and the fill is not a level."""
    features = np.random.default_rng(0).normal(-80, 5, (40, 2, 4, 16)).astype(np.float32)
    heard = NormalizationStats.of(features[10:])
    features[:10, 1] = -140.0
    np.testing.assert_array_equal(NormalizationStats.of(features).mean[1], heard.mean[1])


def test_a_receiver_that_is_always_missing_is_zero():
    """Its fill must not reach the network as -140 standard deviations."""
    features = np.full((1, 1, 4, 16), -140.0, np.float32)
    stats = NormalizationStats.of(features)
    np.testing.assert_array_equal(normalize_features(features[0], stats), 0.0)


def test_normalising_each_sample_removes_level_differences():
    """The reason why it is not the default: two receivers 30 dB apart become alike."""
    shape = np.random.default_rng(0).normal(0, 3, (1, 8, 32))
    near_and_far = np.concatenate([shape - 60, shape - 90])
    one, other = normalize_per_sample(near_and_far)
    np.testing.assert_allclose(one, other, atol=1e-5)
    stats = NormalizationStats.of([near_and_far, near_and_far[::-1]])
    kept = normalize_features(near_and_far, stats)
    assert (kept[0] - kept[1]).mean() > 1.5


def stored(**changed):
    """Stored statistics of two frames with four steps each, with changes."""
    whole = {"counts": [2], "sums": [[8]], "squares": [[32]], "fills": [[0, 0]]}
    return NormalizationStats.from_json(json.dumps(whole | changed))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "0 tensors"),
        ([np.zeros((4, 8))], r"shape \(4, 8\)"),
        ([np.full((1, 2, 3), np.nan)], "a level of nan dB"),
        ([np.zeros((1, 2, 0))], r"of shape \(1, 2, 0\)"),
        ([np.zeros((1, 2, 3), int)], "features are int64"),
        ([np.zeros((1, 2, 3)), np.zeros((2, 2, 3))], r"of shape \(1, 2\) and \(2, 2\)"),
    ],
)
def test_invalid_features_are_rejected(features, message):
    """Broadcasting would otherwise accept almost anything."""
    with pytest.raises(FeatureError, match=message):
        NormalizationStats.of(features)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sums": 3}, "JSON, not"),
        ({"sums": [[1.5]]}, "hold 1.5"),
        ({"counts": [float("nan")]}, "hold nan"),
        ({"squares": [[10**100]]}, "hold 1000"),
        ({"sums": [[4, 4]]}, r"\[1, 2\] bands"),
        ({"counts": [], "sums": [], "squares": [], "fills": []}, r"\[0\] receivers"),
        ({"fills": [[0, 0, 0]]}, r"\[1\] bands"),
        ({"counts": [-5]}, "no -5 levels"),
        ({"squares": [[7]]}, r"no 2 levels have the sums \(8,\)"),
    ],
)
def test_invalid_statistics_are_rejected(changed, message):
    """A damaged file must not shift every feature."""
    with pytest.raises(FeatureError, match=message):
        stored(**changed)


@pytest.mark.parametrize("text", ["[]", "{"])
def test_invalid_json_is_rejected(text):
    """A damaged file gives a clear error."""
    with pytest.raises(FeatureError, match="statistics are JSON, not"):
        NormalizationStats.from_json(text)


def test_features_of_another_shape_are_rejected():
    """Other bands have other statistics."""
    with pytest.raises(FeatureError, match=r"shape \(1, 5, 3\) do not fit .* = \(1, 1\)"):
        normalize_features(np.zeros((1, 5, 3)), stored())


def test_sums_and_fills_are_those_counted_by_hand():
    """The second receiver is missing from one of two samples; steps are 2**16 a dB."""
    step = 2.0**-16
    heard = np.array([[[1, 2, 3]], [[-4, 5, 6]]]) * step
    partly = np.array([[[7, 8, 9]], [[-3, -3, -3]]]) * step
    assert NormalizationStats.of([heard, partly]) == NormalizationStats(
        counts=(6, 3), sums=((30,), (7,)), squares=((208,), (77,)), fills=((0, 0), (3, -9))
    )
    absent = NormalizationStats.of([partly])
    assert (absent.mean[1].item(), absent.std[1].item()) == (np.float32(-3 * step), 1.0)


def test_long_recordings_of_the_largest_levels_do_not_overflow():
    """Squares of 63 bits are reached after two thousand frames."""
    levels = np.where(np.arange(5000) % 2, 1023.0, -1022.0).reshape(1, 1, 5000)
    stats = NormalizationStats.of([levels])
    assert stats.sums == ((2500 << 16,),)
    assert stats.squares == ((2500 * (1023**2 + 1022**2) << 32,),)


@given(
    arrays(
        np.float32,
        st.sampled_from([(2, 3, 4), (5, 2, 3, 4)]),
        elements=st.floats(-140, 30, width=32),
    )
)
def test_each_channel_of_each_sample_has_its_own_mean_and_deviation(levels):
    """NumPy's, in double precision; also of a batch."""
    levels[..., 0, :, :] = -77.0
    normal = normalize_per_sample(levels)
    assert (normal.dtype, normal.shape) == (np.float32, levels.shape)
    assert not normal[..., 0, :, :].any()
    channels = zip(levels.reshape(-1, 12).astype(float), normal.reshape(-1, 12), strict=True)
    for channel, scaled in channels:
        deviation = channel.std()
        if deviation > 1.001e-3:
            np.testing.assert_allclose(scaled, (channel - channel.mean()) / deviation, atol=1e-5)


def test_a_batch_is_normalised_as_its_samples_are():
    """Training normalises batches, a service one sample."""
    batch = np.random.default_rng(0).normal(-80, 9, (4, 2, 3, 8))
    stats = NormalizationStats.of(batch)
    together = normalize_features(batch, stats)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, [normalize_features(one, stats) for one in batch])
    with pytest.raises(FeatureError, match=r"of shape \(4, 2, 3, 8\)"):
        NormalizationStats.of([batch])


def test_statistics_are_compact_and_cannot_be_changed_in_place():
    """They are cached, and stand in every model file."""
    stats = stored()
    assert stats.to_json() == '{"counts":[2],"sums":[[8]],"squares":[[32]],"fills":[[0,0]]}'
    for values in (stats.mean, stats.std):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0.0
