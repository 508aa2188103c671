"""Errors of delays that no noise explains."""

import numpy as np
import pytest
from heimdall_features.coherent_error import Scatter, coherent_variance
from heimdall_features.testing import noise
from hypothesis import given, settings
from hypothesis import strategies as st

N_SAMPLES = 16_000
WEIGHT = np.ones(N_SAMPLES, np.float32)
OMEGA = 2 * np.pi * np.fft.fftfreq(N_SAMPLES)
few = settings(max_examples=10)
seeds = st.integers(0, 1000)


def waveform(seed):
    """Gaussian noise over half of the band."""
    return noise(np.random.default_rng(seed), N_SAMPLES, 0.5).astype(np.complex64)


def scatter(model, residual, noise_power=1e-4):
    """Scatter of a receiver of a waveform without noise."""
    return Scatter.of(model, residual.astype(np.complex64), WEIGHT, noise_power, 0.0)


@few
@given(seeds, st.floats(1e-3, 1e3), st.floats(0, 6.28))
def test_level_and_phase_of_a_receiver_do_not_matter(seed, level, phase):
    """Gains differ by tens of dB between receivers."""
    model, rng = waveform(seed), np.random.default_rng((seed, 1))
    residual = 0.01 * noise(rng, N_SAMPLES)
    gain = np.complex64(level * np.exp(1j * phase))
    one, other = scatter(model, residual), scatter(gain * model, gain * residual, 1e-4 * level**2)
    assert other.tilt == pytest.approx(one.tilt, rel=0.01, abs=1e-12)
    assert other.noise == pytest.approx(one.noise, rel=0.01)
    assert other.between_blocks == pytest.approx(one.between_blocks, rel=0.01)


@few
@given(seeds, st.floats(-0.02, 0.02))
def test_an_amplitude_that_rises_over_frequency_is_a_tilt(seed, tilt):
    """In samples, as the delay of which it is the other quadrature."""
    model = waveform(seed)
    residual = np.fft.ifft(np.fft.fft(model) * tilt * OMEGA)
    assert np.sqrt(scatter(model, residual).tilt) == pytest.approx(abs(tilt), rel=0.02, abs=1e-5)


def test_all_views_of_noise_agree_with_theory():
    """A view that sees more than noise in noise would widen every sigma."""
    rng, model = np.random.default_rng(8), waveform(8)
    found = [scatter(model, 0.01 * noise(rng, N_SAMPLES)) for _ in range(60)]
    for name in ("tilt", "between_blocks"):
        ratio = np.mean([getattr(one, name) for one in found]) / found[0].noise
        assert 0.6 < ratio < 1.5
    # What differs from block to block is not counted between bands.
    assert np.mean([one.between_bands for one in found]) < found[0].noise


@few
@given(st.lists(st.floats(0.0, 2.0), min_size=2, max_size=7), st.floats(1e-6, 1e6))
def test_noise_alone_adds_nothing(ratios, noise_variance):
    """Chance up to twice the expected variance is not a coherent error."""
    found = [Scatter(noise_variance, r * noise_variance, noise_variance, 0.0) for r in ratios]
    assert not coherent_variance(found).any()


@few
@given(st.integers(2, 7), st.integers(0, 6), st.floats(100, 1e6))
def test_a_receiver_with_an_error_of_its_own_is_the_least_certain(n, number, ratio):
    """One bad site must not be weighted as much as the good ones."""
    found = [Scatter(1.0, 1.0, 1.0, 0.0)] * n
    found[number % n] = Scatter(1.0, ratio, 1.0, 0.0)
    variance = coherent_variance(found)
    assert variance.argmax() == number % n
    assert variance.max() >= ratio - 1
