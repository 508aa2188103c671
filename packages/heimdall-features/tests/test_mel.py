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


def test_bins_are_in_the_order_of_the_fft():
    """By hand: eight samples at 8 Hz, both sides of the carrier or one."""
    both = SpectrumConfig(sample_rate_hz=8, n_fft=8, hop_length=8)
    one = SpectrumConfig(sample_rate_hz=8, n_fft=8, hop_length=8, spectrum="envelope")
    assert bin_frequencies_hz(both).tolist() == [0, 1, 2, 3, -4, -3, -2, -1]
    assert bin_frequencies_hz(one).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scale", ["radio", "htk", "slaney"])
@given(st.floats(0, 5e3), st.floats(6e3, 24e3))
def test_bands_start_and_end_where_they_are_told_to(scale, low_hz, high_hz):
    """Interference outside the limits must not be heard."""
    limits = {"f_min_hz": low_hz, "f_max_hz": high_hz, "n_mels": 20}
    edges_hz = band_edges_hz(SpectrumConfig(spectrum="one-sided", mel_scale=scale, **limits))
    np.testing.assert_allclose(edges_hz[[0, -1]], [low_hz, high_hz], atol=1e-6)
    assert (np.diff(edges_hz) > 0).all()


@pytest.mark.parametrize(
    ("first_mel", "last_mel"), [(0, 12), (3, 15), (0, 42), (3, 42), (14, 42), (15, 42), (21, 42)]
)
def test_slaneys_scale_is_linear_to_1_khz_and_then_logarithmic(first_mel, last_mel):
    """By hand: 200 Hz in three mels; 15 mels to 1 kHz; 27 more to 6.4 kHz."""
    hz = {mel: 1000 * 6.4 ** ((mel - 15) / 27) if mel > 15 else 200 * mel / 3 for mel in range(43)}
    config = SpectrumConfig(
        spectrum="one-sided",
        mel_scale="slaney",
        f_min_hz=hz[first_mel],
        f_max_hz=hz[last_mel],
        n_mels=last_mel - first_mel - 1,
    )
    expected_hz = [hz[mel] for mel in range(first_mel, last_mel + 1)]
    np.testing.assert_allclose(band_edges_hz(config), expected_hz, rtol=1e-9, atol=1e-9)


def test_htks_scale_is_kept_where_the_radio_scale_departs_from_it():
    """A model that was trained on HTK's bands must go on with them."""
    htk, radio = (
        SpectrumConfig(mel_scale=scale, sample_rate_hz=192e3) for scale in ("htk", "radio")
    )
    mels = 2595 * np.log10(1 + 96_000 / 700) * np.linspace(-1, 1, 130)
    expected_hz = np.copysign(700 * (10 ** (np.abs(mels) / 2595) - 1), mels)
    np.testing.assert_allclose(band_edges_hz(htk), expected_hz, rtol=1e-9, atol=1e-9)
    assert np.diff(band_edges_hz(radio)).min() > 1.2 * np.diff(expected_hz).min()


@given(st.sampled_from([512, 1024, 2048]), st.sampled_from([192e3, 1e6, 2.4e6]))
def test_the_radio_scale_is_as_curved_as_the_fft_allows(n_fft, rate_hz):
    """Its narrowest band is as wide as a bin: a linear scale would waste bands far out."""
    config = SpectrumConfig(n_fft=n_fft, sample_rate_hz=rate_hz, n_mels=n_fft // 16)
    assert np.diff(band_edges_hz(config)).min() == pytest.approx(rate_hz / n_fft, rel=1e-9)


@pytest.mark.parametrize("spectrum", ["two-sided", "one-sided"])
def test_slaneys_norm_makes_the_area_of_every_band_one(spectrum):
    """A flat spectrum then has one level in all bands, in power per hertz."""
    config = SpectrumConfig(n_fft=1 << 14, n_mels=10, mel_norm="slaney", spectrum=spectrum)
    areas = filter_bank(config).sum(axis=0) * config.sample_rate_hz / config.n_fft
    np.testing.assert_allclose(areas, 1.0, rtol=1e-3)


def test_a_filter_bank_cannot_be_changed():
    """It is shared by all who have the same configuration."""
    with pytest.raises(ValueError, match="read-only"):
        filter_bank(SpectrumConfig())[0] = 1.0
