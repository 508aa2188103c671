"""Augmentation of features keeps the position."""

import numpy as np
import pytest
from heimdall_features import Augmentation, FeatureError, augment_features
from hypothesis import given
from hypothesis import strategies as st

SHAPE = (3, 128, 32)
OFF = {
    "gain_db": 0,
    "max_shift_frames": 0,
    "n_time_masks": 0,
    "n_band_masks": 0,
    "drop_probability": 0.0,
}
seeds = st.integers(0, 2**32 - 1)


def sample(seed=0):
    """Levels of three receivers, far above the floor."""
    return np.random.default_rng(seed).normal(-70, 8, SHAPE).clip(-120, 0).astype(np.float32)


def augmented(seed, **changes):
    """The sample with only these nuisances."""
    return augment_features(sample(), np.random.default_rng(seed), Augmentation(**OFF | changes))


@given(seeds)
def test_level_differences_between_receivers_stay(seed):
    """They depend on the position: independent gains would move the transmitter."""
    features, louder = sample(), augmented(seed, gain_db=6.0)
    np.testing.assert_allclose(louder[0] - louder[1], features[0] - features[1], atol=1e-4)
    assert np.abs(louder - features).max() <= 6.0001


@given(seeds)
def test_all_receivers_lose_the_same_columns_and_bands(seed):
    """A pause or a neighbouring signal affects every receiver."""
    masked = augmented(seed, n_time_masks=1, n_band_masks=1) == -140
    assert (masked == masked[:1]).all()
    assert masked[0].all(axis=0).sum() <= 4
    assert masked[0].all(axis=1).sum() <= 8


@given(seeds)
def test_all_receivers_are_rotated_together(seed):
    """A shift of one receiver against another would look like a time difference."""
    turned = augmented(seed, max_shift_frames=31)
    assert any(np.array_equal(turned, np.roll(sample(), shift, axis=2)) for shift in range(32))


@given(seeds, st.floats(0, 1))
def test_one_receiver_always_stays(seed, probability):
    """A session without any receiver teaches nothing."""
    out = augmented(seed, drop_probability=probability)
    assert (out > -140).any(axis=(1, 2)).any()


@given(seeds)
def test_a_missing_receiver_stays_missing(seed):
    """A gain on the fill would look like a level."""
    features = sample()
    features[1] = -140.0
    out = augment_features(features, np.random.default_rng(seed))
    assert (out[1] == -140).all()
    assert (out[[0, 2]] > -140).any()


@given(seeds)
def test_the_generator_determines_the_result(seed):
    """The same seed gives the same sample, and the input, which may be cached, is unchanged."""
    features = sample()
    first, again = (augment_features(features, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(features, sample())
    assert (first.shape, first.dtype) == (SHAPE, np.float32)


def test_calibration_errors_have_the_given_deviation():
    """A station's gain is known to a dB or so."""
    gains = [(augmented(seed, calibration_db=1.5) - sample())[:, 0, 0] for seed in range(2000)]
    np.testing.assert_allclose(np.std(gains, axis=0), 1.5, rtol=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gain_db": -1.0}, "gain_db is -1.0"),
        ({"drop_probability": 1.5}, "drop_probability is 1.5"),
        ({"fill_db": float("nan")}, "fill_db is nan"),
    ],
)
def test_invalid_limits_are_rejected(wrong, message):
    """The error gives the setting's name and value."""
    with pytest.raises(FeatureError, match=message):
        Augmentation(**wrong)


def test_other_arrays_than_features_are_rejected():
    """IQ passed by mistake would otherwise be masked and shifted."""
    with pytest.raises(FeatureError, match=r"features are complex64 of shape \(2, 3, 4\)"):
        augment_features(np.zeros((2, 3, 4), np.complex64), np.random.default_rng(0))
