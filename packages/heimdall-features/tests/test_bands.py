"""The filter bank in tiles is the filter bank, and decibels are decibels."""

import numpy as np
from heimdall_features.mel import filter_bank
from heimdall_features.spectrum import band_powers, decibels
from heimdall_features.testing import feature_configs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


@given(feature_configs(), st.integers(1, 5))
def test_tiles_give_what_the_whole_bank_gives(config, n):
    """Leaving out zeros must leave out nothing else."""
    n_bins = config.n_fft if config.spectrum == "two-sided" else config.n_fft // 2 + 1
    squares = np.random.default_rng(n).random((n, 2 * n_bins)).astype(np.float32)
    powers = squares.reshape(n, n_bins, 2).sum(-1)
    expected = powers.astype(np.float64) @ filter_bank(config)
    np.testing.assert_allclose(band_powers(squares, config), expected, rtol=1e-5)


@given(arrays(np.float32, 20, elements=st.floats(0, 2**20, width=32)), st.floats(-200, 0))
def test_numpys_logarithm_gives_the_same_decibels(powers, floor_db):
    """An outside oracle in double precision; zero reads as the floor."""
    with np.errstate(divide="ignore"):
        expected = np.maximum(10 * np.log10(powers.astype(np.float64)), floor_db)
    np.testing.assert_allclose(decibels(powers, floor_db), expected, atol=1e-4)
