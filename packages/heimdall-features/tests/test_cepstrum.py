"""MFCC against SciPy's transform."""

import numpy as np
import pytest
import scipy.fft
from heimdall_features import FeatureError, compute_mfcc
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

levels = arrays(np.float64, (3, 40, 5), elements=st.floats(-140, 20))


@given(levels)
def test_all_coefficients_lose_nothing(log_mel):
    """An orthonormal transform keeps every length."""
    mfcc = compute_mfcc(log_mel, 40)
    np.testing.assert_allclose(
        np.square(mfcc).sum(-2), np.square(log_mel).sum(-2), rtol=1e-5, atol=1e-3
    )


@given(levels, st.integers(1, 40))
def test_scipys_transform_gives_the_same(log_mel, n_mfcc):
    """An outside oracle, to float32's rounding."""
    expected = scipy.fft.dct(log_mel, type=2, norm="ortho", axis=-2)[:, :n_mfcc]
    np.testing.assert_allclose(compute_mfcc(log_mel, n_mfcc), expected, rtol=1e-5, atol=1e-4)


def test_a_flat_spectrum_has_one_coefficient():
    """By hand: 64 bands of -80 dB are -80 * sqrt(64), and no shape."""
    mfcc = compute_mfcc(np.full((64, 3), -80.0), 4)
    np.testing.assert_allclose(mfcc[0], -640.0)
    np.testing.assert_allclose(mfcc[1:], 0.0, atol=1e-4)


@pytest.mark.parametrize(
    ("log_mel", "n_mfcc", "says"),
    [
        (np.zeros((8, 2)), 9, "n_mfcc is 9; 8 bands give between 1 and 8"),
        (np.zeros(8), 4, "of shape (8,); give real levels of shape (..., n_mels, n_frames)"),
        (np.zeros((8, 2), complex), 4, "log_mel is complex128"),
        (np.full((8, 2), np.nan), 4, "log_mel holds NaN or infinite levels"),
    ],
)
def test_what_is_no_log_mel_is_refused(log_mel, n_mfcc, says):
    """A silent truncation or a NaN would reach the network."""
    with pytest.raises(FeatureError) as error:
        compute_mfcc(log_mel, n_mfcc)
    assert says in str(error.value)
