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
def test_all_coefficients_keep_the_norm(log_mel):
    """The transform is orthonormal."""
    mfcc = compute_mfcc(log_mel, 40)
    np.testing.assert_allclose(
        np.square(mfcc).sum(-2), np.square(log_mel).sum(-2), rtol=1e-5, atol=1e-3
    )


@given(levels, st.integers(1, 40))
def test_scipys_transform_gives_the_same(log_mel, n_mfcc):
    """An outside oracle, to the rounding of float32."""
    expected = scipy.fft.dct(log_mel, type=2, norm="ortho", axis=-2)[:, :n_mfcc]
    np.testing.assert_allclose(compute_mfcc(log_mel, n_mfcc), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("log_mel", "n_mfcc", "message"),
    [
        (np.zeros((8, 2)), 9, "n_mfcc is 9; 8 bands"),
        (np.zeros(8), 4, r"of shape \(8,\)"),
        (np.zeros((8, 2), complex), 4, "log_mel is complex128"),
        (np.full((8, 2), np.nan), 4, "log_mel holds NaN"),
    ],
)
def test_invalid_levels_are_rejected(log_mel, n_mfcc, message):
    """Fewer coefficients or a NaN would otherwise reach the network unnoticed."""
    with pytest.raises(FeatureError, match=message):
        compute_mfcc(log_mel, n_mfcc)


def test_thirteen_coefficients_of_float32_are_the_default():
    """As in the literature; the network computes in float32."""
    mfcc = compute_mfcc(np.zeros((40, 5)))
    assert (mfcc.shape, mfcc.dtype) == ((13, 5), np.float32)
