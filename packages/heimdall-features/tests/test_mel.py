"""The bands: where they are, and that each of them hears something."""

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError
from heimdall_features.config import SpectrumConfig
from heimdall_features.mel import band_edges_hz, bin_frequencies_hz, filter_bank
from heimdall_features.testing import feature_configs
from hypothesis import given


@given(feature_configs())
def test_every_band_hears_something(config):
    """A band without a bin is constant for ever: the predecessor had 4 of 128."""
    assert (filter_bank(config).sum(axis=0) > 0).all()


@given(feature_configs("two-sided"))
def test_the_two_sides_mirror_each_other(config):
    """Nothing favours one side of the carrier over the other."""
    edges_hz = band_edges_hz(config)
    np.testing.assert_allclose(edges_hz, -edges_hz[::-1], atol=1e-6 * config.sample_rate_hz)


@given(feature_configs("two-sided"))
def test_bands_widen_away_from_the_carrier(config):
    """The resolution is finest where narrow-band signals live."""
    widths_hz = np.diff(band_edges_hz(config))
    upper = widths_hz[widths_hz.size // 2 :]
    assert (np.diff(upper) >= -1e-9 * config.sample_rate_hz).all()


@given(feature_configs("two-sided"))
def test_between_the_outer_peaks_the_bands_share_every_bin_out_in_full(config):
    """So the band levels add up to the signal's power, and none is counted twice."""
    if config.mel_norm == "slaney":
        return
    edges_hz, offsets_hz = band_edges_hz(config), bin_frequencies_hz(config)
    inner = (offsets_hz >= edges_hz[1]) & (offsets_hz <= edges_hz[-2])
    np.testing.assert_allclose(filter_bank(config)[inner].sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("rate_hz", [12e3, 48e3, 192e3, 200e3, 2.4e6])
def test_the_default_configuration_has_no_silent_band_at_the_usual_rates(rate_hz):
    """The contract's receivers sample at these rates."""
    bank = filter_bank(FeatureConfig(receivers=("A",), sample_rate_hz=rate_hz))
    assert bank.shape == (2048, 128)
    assert (bank.sum(axis=0) > 0).all()


def test_htk_edges_follow_the_book():
    """By hand: 1000 Hz is 999.986 mel in O'Shaughnessy's formula."""
    config = SpectrumConfig(
        spectrum="one-sided", mel_scale="htk", n_mels=1, sample_rate_hz=2e3, hop_length=64, n_fft=64
    )
    middle_mel = 2595 * np.log10(1 + 1000 / 700) / 2
    np.testing.assert_allclose(
        band_edges_hz(config), [0, 700 * (10 ** (middle_mel / 2595) - 1), 1000], atol=1e-9
    )


def test_the_radio_scale_is_htks_where_that_has_no_silent_band():
    """A scale of our own is only used where the usual one fails."""
    radio = SpectrumConfig(mel_scale="radio", n_mels=64)
    htk = SpectrumConfig(mel_scale="htk", n_mels=64)
    np.testing.assert_array_equal(band_edges_hz(radio), band_edges_hz(htk))


def test_a_silent_band_is_refused_with_the_remedy():
    """The predecessor's own settings: 128 bands of 2,048 points at 192 kHz."""
    config = SpectrumConfig(spectrum="one-sided", mel_scale="slaney", sample_rate_hz=192e3)
    with pytest.raises(FeatureError) as error:
        filter_bank(config)
    assert "holds no FFT bin" in str(error.value)
    assert "raise n_fft (now 2048), lower n_mels, or use mel_scale='radio'" in str(error.value)


def test_more_bands_than_bins_are_refused_on_any_scale():
    """No scale can make bins."""
    with pytest.raises(FeatureError, match="of 200 holds no FFT bin"):
        filter_bank(SpectrumConfig(n_fft=64, hop_length=32, n_mels=200))
