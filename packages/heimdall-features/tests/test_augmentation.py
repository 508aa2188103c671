"""Augmentation that keeps the label true."""

import numpy as np
import pytest
from heimdall_features import Augmentation, FeatureError, augment_features
from hypothesis import given
from hypothesis import strategies as st

SHAPE = (3, 128, 32)
OFF = {"gain_db": 0, "max_shift_frames": 0, "n_time_masks": 0, "n_band_masks": 0}
ONLY_GAIN = Augmentation(**{**OFF, "gain_db": 6.0, "drop_probability": 0.0})
seeds = st.integers(0, 2**32 - 1)


def sample(seed=0):
    """Levels of three receivers, far above the floor."""
    return np.random.default_rng(seed).normal(-70, 8, SHAPE).clip(-120, 0).astype(np.float32)


@given(seeds)
def test_the_differences_between_receivers_stay(seed):
    """They carry the position: an independent gain would move the transmitter."""
    features = sample()
    louder = augment_features(features, np.random.default_rng(seed), ONLY_GAIN)
    np.testing.assert_allclose(louder[0] - louder[1], features[0] - features[1], atol=1e-4)
    assert np.abs(louder - features).max() <= 6.0001


@given(seeds)
def test_all_receivers_lose_the_same_columns_and_bands(seed):
    """A pause or a neighbouring signal is heard, or not, everywhere."""
    masks = Augmentation(drop_probability=0.0)
    masked = augment_features(sample(), np.random.default_rng(seed), masks) == -140
    assert (masked == masked[:1]).all()
    assert masked[0].all(axis=0).sum() <= 4
    assert masked[0].all(axis=1).sum() <= 8


@given(seeds)
def test_columns_turn_around_together(seed):
    """A shift of one receiver against another would be a difference of arrival time."""
    turning = Augmentation(**{**OFF, "max_shift_frames": 31, "drop_probability": 0.0})
    turned = augment_features(sample(), np.random.default_rng(seed), turning)
    assert any(np.array_equal(turned, np.roll(sample(), shift, axis=2)) for shift in range(32))


@given(seeds, st.floats(0, 1))
def test_one_receiver_always_stays(seed, probability):
    """Of a session that nobody heard there is nothing to learn."""
    dropping = Augmentation(**OFF, drop_probability=probability)
    out = augment_features(sample(), np.random.default_rng(seed), dropping)
    assert (out > -140).any(axis=(1, 2)).any()


@given(seeds)
def test_a_missing_receiver_stays_missing(seed):
    """Gain on a fill would invent a level."""
    features = sample()
    features[1] = -140.0
    out = augment_features(features, np.random.default_rng(seed))
    assert (out[1] == -140).all()
    assert (out[[0, 2]] > -140).any()


@given(seeds)
def test_the_same_seed_gives_the_same_sample(seed):
    """Every draw comes from the generator that was handed in."""
    first = augment_features(sample(), np.random.default_rng(seed))
    np.testing.assert_array_equal(first, augment_features(sample(), np.random.default_rng(seed)))
    assert first.shape == SHAPE
    assert first.dtype == np.float32


def test_the_sample_itself_is_left_alone():
    """It may be in a cache."""
    features = sample()
    augment_features(features, np.random.default_rng(0))
    np.testing.assert_array_equal(features, sample())


def test_calibration_errors_are_as_large_as_stated():
    """A station's gain is known to a dB or so, and differs by that alone."""
    rng = np.random.default_rng(0)
    calibrated = Augmentation(**OFF, drop_probability=0.0, calibration_db=1.5)
    gains = [(augment_features(sample(), rng, calibrated) - sample())[:, 0, 0] for _ in range(2000)]
    np.testing.assert_allclose(np.std(gains, axis=0), 1.5, rtol=0.1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gain_db": -1.0}, "gain_db is -1.0; it must be finite and not negative"),
        ({"drop_probability": 1.5}, "drop_probability is 1.5; it is at most 1"),
        ({"fill_db": float("nan")}, "fill_db is nan"),
    ],
)
def test_what_is_no_nuisance_is_refused(wrong, says):
    """The message is all an operator sees."""
    with pytest.raises(FeatureError) as error:
        Augmentation(**wrong)
    assert says in str(error.value)


def test_what_are_no_features_are_refused():
    """IQ given by mistake would be masked and shifted without a word."""
    with pytest.raises(FeatureError, match=r"features are complex64 of shape \(2, 3, 4\)"):
        augment_features(np.zeros((2, 3, 4), np.complex64), np.random.default_rng(0))
