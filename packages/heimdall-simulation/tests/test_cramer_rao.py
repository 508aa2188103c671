"""Bounds are bounds: estimators that should reach them do, and none goes below."""

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


def root_trace_m(covariance_m2):
    """The bound on the root mean square error."""
    return float(np.sqrt(np.trace(covariance_m2)))


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_another_receiver_never_hurts(seed):
    """Information only adds up."""
    truth = session_truth(0, seed, SOUND)
    fewer = replace(truth, receptions=truth.receptions[:-1])
    for bound in (level_covariance_m2, timing_covariance_m2):
        assert root_trace_m(bound(truth, SOUND)) <= root_trace_m(bound(fewer, SOUND)) * (1 + 1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_no_receiver_is_special(seed, first):
    """Differences are taken against one receiver; which one must not matter."""
    truth = session_truth(0, seed, SOUND)
    turned = replace(truth, receptions=truth.receptions[first:] + truth.receptions[:first])
    for bound in (level_covariance_m2, timing_covariance_m2):
        assert np.allclose(bound(truth, SOUND), bound(turned, SOUND), rtol=1e-6)


def test_twice_the_spread_of_levels_is_twice_the_error():
    """Where levels are limited by shadowing, the bound is proportional to it."""
    truth = session_truth(3, 1, SOUND)
    single, double = (level_covariance_m2(truth, SOUND, sigma_db=s) for s in (30.0, 60.0))
    assert np.isclose(root_trace_m(double), 2 * root_trace_m(single), rtol=1e-3)


def test_two_receivers_have_the_bound_of_knapp_and_carter():
    """The classical case: 2 (2 pi f)^2 C / (1 - C) in each bin, C the squared coherence."""
    frequency_hz = np.arange(-100.0, 101.0) * 20
    shape = np.exp(-((frequency_hz / 1000) ** 2))
    snr = np.outer(shape, (3.0, 0.5))
    coherence = snr[:, 0] * snr[:, 1] / ((1 + snr[:, 0]) * (1 + snr[:, 1]))
    weight = coherence / (1 - coherence)
    # The spectrum is even, so the unknown phase costs nothing.
    expected = np.sum(2 * (2 * np.pi * frequency_hz) ** 2 * weight)
    assert np.isclose(delay_information(snr, frequency_hz)[0, 0], expected)


def test_correlation_reaches_the_bound_on_a_delay():
    """Cross-correlation at equal, high SNR is efficient: its spread is the bound's."""
    rng, n_samples, snr = np.random.default_rng(1), 512, 30.0
    frequency = np.fft.fftfreq(n_samples)
    sent = np.where(np.abs(frequency) < 0.15, n_samples * np.exp(2j * np.pi * rng.random(512)), 0)
    sent *= np.sqrt(n_samples / np.sum(np.abs(sent) ** 2)) * np.sqrt(n_samples)
    in_bins = np.abs(sent) ** 2 / n_samples * snr
    bound = 1 / np.sqrt(delay_information(np.stack([in_bins, in_bins], axis=1), frequency)[0, 0])
    grid = np.linspace(-0.2, 0.2, 401)
    towards = np.exp(2j * np.pi * np.outer(grid, frequency))
    heights = [np.abs(towards @ noisy_cross(rng, sent * np.sqrt(snr))) for _ in range(600)]
    lags = grid[np.argmax(heights, axis=1)]
    assert 0.9 < np.std(lags) / bound < 1.15


def noisy_cross(rng, sent):
    """The cross spectrum of two copies in independent noise."""
    noise = rng.standard_normal((2, 2, len(sent))) * np.sqrt(len(sent) / 2)
    one, two = sent + noise[0] + 1j * noise[1]
    return one * np.conj(two)


def test_timing_is_hundreds_of_times_sharper_than_levels():
    """Why a later model listens to time: metres to a few hundred, against tens of kilometres."""
    truths = list(simulate_truths(30, 5, SOUND))
    timing_m = np.median([root_trace_m(timing_covariance_m2(t, SOUND)) for t in truths])
    levels_m = np.median([root_trace_m(level_covariance_m2(t, SOUND)) for t in truths])
    assert 30 < timing_m < 1000
    assert 15_000 < levels_m < 80_000


def test_two_receivers_are_too_few():
    """Two hyperbola ends make no fix, and a singular matrix is no message."""
    truth = session_truth(3, 1, SOUND)
    with pytest.raises(DataError, match=r"session 3 has 2 receivers; .* need at least 3"):
        timing_covariance_m2(replace(truth, receptions=truth.receptions[:2]), SOUND)
