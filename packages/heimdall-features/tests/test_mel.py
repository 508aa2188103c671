"""The bands: their edges, and that each of them contains a bin."""

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import band_edges_hz, bin_frequencies_hz, filter_bank
from heimdall_features.testing import feature_configs
from hypothesis import assume, given
from hypothesis import strategies as st


@given(feature_configs())
def test_every_band_hears_something(config):
    """A band without a bin would be constant: the predecessor had 4 of 128."""
    assert (filter_bank(config).sum(axis=0) > 0).all()


@given(feature_configs("two-sided"))
def test_bands_mirror_at_the_carrier_and_widen_away_from_it(config):
    """Neither side is preferred, and the resolution is finest for narrow-band signals."""
    edges_hz, tolerance_hz = band_edges_hz(config), 1e-6 * config.sample_rate_hz
    np.testing.assert_allclose(edges_hz, -edges_hz[::-1], atol=tolerance_hz)
    widths_hz = np.diff(edges_hz)
    assert (np.diff(widths_hz[widths_hz.size // 2 :]) >= -1e-3 * tolerance_hz).all()


@given(feature_configs("two-sided"))
def test_the_weights_of_a_bin_add_up_to_one(config):
    """Between the outer peaks, so that the bands' powers add up to the signal's."""
    assume(config.mel_norm == "peak")
    edges_hz, offsets_hz = band_edges_hz(config), bin_frequencies_hz(config)
    inner = (offsets_hz >= edges_hz[1]) & (offsets_hz <= edges_hz[-2])
    np.testing.assert_allclose(filter_bank(config)[inner].sum(axis=1), 1.0, rtol=1e-6)


@given(st.sampled_from([12e3, 48e3, 192e3, 200e3, 2.4e6]) | st.floats(8e3, 1e7))
def test_the_default_configuration_has_no_silent_band_at_any_rate(rate_hz):
    """The contract's receivers sample at 12 kHz to 200 kHz and more."""
    bank = filter_bank(FeatureConfig(receivers=("A",), sample_rate_hz=rate_hz))
    assert bank.shape == (2048, 128)
    assert (bank.sum(axis=0) > 0).all()


def test_htk_edges_agree_with_the_book():
    """By hand: 1000 Hz is 999.986 mel in O'Shaughnessy's formula."""
    config = SpectrumConfig(
        spectrum="one-sided", mel_scale="htk", n_mels=1, sample_rate_hz=2e3, hop_length=64, n_fft=64
    )
    middle_mel = 2595 * np.log10(1 + 1000 / 700) / 2
    np.testing.assert_allclose(
        band_edges_hz(config), [0, 700 * (10 ** (middle_mel / 2595) - 1), 1000], atol=1e-9
    )


def test_the_radio_scale_is_htks_where_htk_has_no_silent_band():
    """Our own scale is only used where the usual one fails."""
    radio, htk = (SpectrumConfig(mel_scale=scale, n_mels=64) for scale in ("radio", "htk"))
    np.testing.assert_array_equal(band_edges_hz(radio), band_edges_hz(htk))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            SpectrumConfig(spectrum="one-sided", mel_scale="slaney", sample_rate_hz=192e3),
            r"of 128 holds no FFT bin.*raise n_fft \(now 2048\)",
        ),
        (SpectrumConfig(n_fft=64, hop_length=32, n_mels=200), "of 200 holds no FFT bin"),
    ],
)
def test_silent_bands_are_rejected(config, message):
    """The predecessor's settings had some; no scale has more bands than bins."""
    with pytest.raises(FeatureError, match=message):
        filter_bank(config)
