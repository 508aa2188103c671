"""The bounds are reached by efficient estimators."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_truths
from heimdall_simulation.cramer_rao import (
    delay_information,
    level_covariance_m2,
    timing_covariance_m2,
)
from heimdall_simulation.drawing import session_truth
from hypothesis import given, settings
from hypothesis import strategies as st

SOUND = replace(NORTHWEST_ITALY, mishaps=NO_MISHAPS, n_samples=4096)
BOUNDS = (level_covariance_m2, timing_covariance_m2)
seeds = st.integers(0, 10**6)
few = settings(max_examples=20)


def root_trace_m(covariance_m2):
    """Bound on the root mean square error."""
    return float(np.sqrt(np.trace(covariance_m2)))


@few
@given(seeds)
def test_another_receiver_never_increases_the_bound(seed):
    """It can only add information."""
    truth = session_truth(0, seed, SOUND)
    fewer = replace(truth, receptions=truth.receptions[:-1])
    for bound in BOUNDS:
        assert root_trace_m(bound(truth, SOUND)) <= root_trace_m(bound(fewer, SOUND)) * (1 + 1e-9)


@few
@given(seeds, st.integers(0, 6))
def test_the_order_of_receivers_does_not_matter(seed, first):
    """Differences are taken relative to one receiver, which must not be special."""
    truth = session_truth(0, seed, SOUND)
    turned = replace(truth, receptions=truth.receptions[first:] + truth.receptions[:first])
    for bound in BOUNDS:
        assert np.allclose(bound(truth, SOUND), bound(turned, SOUND), rtol=1e-6)


@few
@given(seeds, st.floats(30, 60), st.floats(1, 5))
def test_the_bound_is_proportional_to_the_deviation_of_levels(seed, sigma_db, factor):
    """While shadowing limits it and noise does not."""
    truth = session_truth(0, seed, SOUND)
    one = root_trace_m(level_covariance_m2(truth, SOUND, sigma_db=sigma_db))
    more = root_trace_m(level_covariance_m2(truth, SOUND, sigma_db=factor * sigma_db))
    assert np.isclose(more, factor * one, rtol=1e-2)


def test_two_receivers_have_the_bound_of_knapp_and_carter():
    """The classical case: 2 (2 pi f)^2 C / (1 - C) per bin, with the squared coherence C."""
    frequency_hz = np.arange(-100.0, 101.0) * 20
    shape = np.exp(-((frequency_hz / 1000) ** 2))
    snr = np.outer(shape, (3.0, 0.5))
    coherence = snr[:, 0] * snr[:, 1] / ((1 + snr[:, 0]) * (1 + snr[:, 1]))
    weight = coherence / (1 - coherence)
    # The spectrum is even, so the unknown phase has no effect.
    expected = np.sum(2 * (2 * np.pi * frequency_hz) ** 2 * weight)
    assert np.isclose(delay_information(snr, frequency_hz)[0, 0], expected)


def test_correlation_reaches_the_bound_on_a_delay():
    """Cross-correlation at equal, high SNR is efficient: its deviation is that of the bound."""
    rng, n_samples, snr = np.random.default_rng(1), 512, 30.0
    frequency = np.fft.fftfreq(n_samples)
    sent = np.where(np.abs(frequency) < 0.15, n_samples * np.exp(2j * np.pi * rng.random(512)), 0)
    sent *= np.sqrt(n_samples / np.sum(np.abs(sent) ** 2)) * np.sqrt(n_samples)
    in_bins = np.abs(sent) ** 2 / n_samples * snr
    bound = 1 / np.sqrt(delay_information(np.stack([in_bins, in_bins], axis=1), frequency)[0, 0])
    grid = np.linspace(-0.2, 0.2, 401)
    towards = np.exp(2j * np.pi * np.outer(grid, frequency))
    lags = []
    for _ in range(600):
        noise = rng.standard_normal((2, 2, n_samples)) * np.sqrt(n_samples / 2)
        one, two = sent * np.sqrt(snr) + noise[0] + 1j * noise[1]
        lags.append(grid[np.argmax(np.abs(towards @ (one * np.conj(two))))])
    assert 0.9 < np.std(lags) / bound < 1.15


def test_timing_is_hundreds_of_times_more_precise_than_levels():
    """Metres to a few hundred, compared with tens of kilometres."""
    truths = list(simulate_truths(30, 5, SOUND))
    levels_m, timing_m = (
        np.median([root_trace_m(bound(truth, SOUND)) for truth in truths]) for bound in BOUNDS
    )
    assert 30 < timing_m < 1000
    assert 15_000 < levels_m < 80_000


@pytest.mark.parametrize("bound", BOUNDS)
def test_two_receivers_are_too_few(bound):
    """They give a singular matrix, whose error would explain nothing."""
    truth = session_truth(3, 1, SOUND)
    with pytest.raises(DataError, match=r"session 3 has 2 receivers; .* need at least 3"):
        bound(replace(truth, receptions=truth.receptions[:2]), SOUND)
