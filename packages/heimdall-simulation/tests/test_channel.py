"""Fading has Rice's moments and Clarke's autocorrelation; echoes come when they should."""

import math
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.errors import DataError, SimulationError
from heimdall_simulation import MODULATIONS, NORTHWEST_ITALY, Channel, EchoTruth
from heimdall_simulation.channel import (
    drawn_detour_s,
    drawn_echoes,
    drawn_fading,
    echo_response,
    fading_gain,
)
from heimdall_simulation.drawing import session_truth
from heimdall_simulation.receiver import Reception, arrived

RATE_HZ = 48_000.0


def gains(k_db, n_paths=1500, doppler_hz=50.0, n_samples=64, rate_hz=1000.0):
    """Of many paths, `(paths, samples)`."""
    channel = Channel(rician_k_db=k_db, doppler_hz=doppler_hz)
    rng = np.random.default_rng(1)
    fadings = [drawn_fading(rng, channel) for _ in range(n_paths)]
    return np.array([fading_gain(fading, n_samples, rate_hz) for fading in fadings])


@pytest.mark.parametrize("k_db", [-30.0, 0.0, 6.0, 15.0])
def test_envelopes_have_rices_moments(k_db):
    """E r^2 = 1 and E r^4 = (2 + 4 K + K^2) / (1 + K)^2: Rice, at mean power 1."""
    k, power = 10 ** (k_db / 10), np.abs(gains(k_db)) ** 2
    assert np.mean(power) == pytest.approx(1, abs=0.02)
    assert np.mean(power**2) == pytest.approx((2 + 4 * k + k * k) / (1 + k) ** 2, rel=0.04)


def test_scattered_waves_have_clarkes_autocorrelation():
    """J0(2 pi f_d tau), by Bessel's integral, first zero and first trough included."""
    scattered = gains(-60.0)
    lag_s = np.arange(20) / 1000
    found = [np.mean(scattered[:, n:] * np.conj(scattered[:, : 64 - n])) for n in range(20)]
    angle = (np.arange(400) + 0.5) * np.pi / 400
    bessel = np.cos(2 * np.pi * 50 * np.outer(lag_s, np.sin(angle))).mean(axis=1)
    assert bessel.min() < -0.39
    assert np.allclose(found, bessel, atol=0.03)


def test_the_fast_gain_is_the_sum_of_its_waves():
    """The truth names the waves; whoever adds them up must get what was used."""
    fading = drawn_fading(np.random.default_rng(5), Channel(rician_k_db=3.0, doppler_hz=80.0))
    time_s, k = np.arange(5000) / RATE_HZ, 10**0.3
    waves = [
        np.exp(1j * (2 * np.pi * 80.0 * np.cos(angle) * time_s + phase))
        for angle, phase in zip(fading.angles_rad, fading.phases_rad, strict=True)
    ]
    direct = np.exp(2j * np.pi * 80.0 * np.cos(fading.direct_angle_rad) * time_s)
    expected = np.sqrt(k / (k + 1)) * direct + np.sum(waves, axis=0) / np.sqrt(32 * (k + 1))
    assert np.allclose(fading_gain(fading, 5000, RATE_HZ), expected, atol=1e-9)


def test_correlation_finds_an_echo_between_two_samples():
    """7.3 samples late and 6 dB down: a delay rounded to samples would be 90 m wrong."""
    rng, n_samples = np.random.default_rng(2), 16_384
    frequency = np.fft.fftfreq(n_samples)
    noise = rng.standard_normal(n_samples) + 1j * rng.standard_normal(n_samples)
    spectrum = np.where(np.abs(frequency) < 0.45, np.fft.fft(noise), 0)
    echo = EchoTruth(excess_s=7.3 / RATE_HZ, gain_db=-6.0, phase_rad=1.0)
    plain = Reception(
        delay_s=1e-4, frequency_offset_hz=0, phase_rad=0, signal_dbfs=-90, noise_dbfs=-90
    )
    alone, both = (
        arrived(spectrum, made, n_samples, RATE_HZ)
        for made in (plain, replace(plain, echoes=(echo,)))
    )
    cross = np.fft.fft(both - alone) * np.conj(np.fft.fft(alone))
    lags = np.arange(5, 10, 0.01)
    heights = np.exp(2j * np.pi * np.outer(lags, frequency)) @ cross
    peak = np.argmax(np.abs(heights))
    energy = np.sum(np.abs(np.fft.fft(alone)) ** 2)
    assert lags[peak] == pytest.approx(7.3, abs=0.011)
    assert heights[peak] / energy == pytest.approx(10**-0.3 * np.exp(1j), abs=1e-3)


def test_echoes_have_the_profile_that_was_asked_for():
    """Exponential over delay, cut at five spreads; together as strong as stated."""
    channel = Channel(n_echoes=4, delay_spread_s=10e-6, echoes_db=-3.0)
    rng = np.random.default_rng(3)
    drawn = [drawn_echoes(rng, channel) for _ in range(3000)]
    excess_s = np.array([[echo.excess_s for echo in echoes] for echoes in drawn])
    power = np.array([[10 ** (echo.gain_db / 10) for echo in echoes] for echoes in drawn])
    cut = 5 * math.exp(-5) / (1 - math.exp(-5))
    assert excess_s.mean() == pytest.approx(10e-6 * (1 - cut), rel=0.03)
    assert 0 <= excess_s.min() < excess_s.max() <= channel.longest_echo_s
    assert np.all(np.diff(excess_s) >= 0)
    assert power.sum(axis=1).mean() == pytest.approx(10**-0.3, rel=0.04)


def test_an_echo_of_no_delay_and_opposite_phase_cancels():
    """Why a level alone may mislead: half a wavelength decides."""
    echo = EchoTruth(excess_s=0.0, gain_db=0.0, phase_rad=math.pi)
    assert np.allclose(echo_response((echo,), 16, RATE_HZ), -1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rician_k_db": float("nan")}, "rician_k_db is nan"),
        ({"doppler_hz": -1.0}, "doppler_hz is -1.0; give 0 or more"),
        ({"n_echoes": -2}, "-2 echoes"),
        ({"delay_spread_s": 5.0}, r"delay_spread_s is 5.0; .* up to 0.001"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(wrong, said):
    """Microseconds given as seconds are the likely slip."""
    with pytest.raises(DataError, match=said):
        Channel(**wrong)


def test_a_scenario_refuses_what_it_cannot_make():
    """Names of modulations are data; a typing mistake must not become FM."""
    with pytest.raises(DataError, match=r"\['ssb'\]: give one or more of " + MODULATIONS[0]):
        replace(NORTHWEST_ITALY, modulations=("ssb",))
    with pytest.raises(DataError, match="1024 samples are less than one gfsk burst"):
        replace(NORTHWEST_ITALY, modulations=("gfsk",), n_samples=1024)


def test_a_detour_makes_everything_late_and_nothing_else():
    """What arrives by a detour keeps its level: only a clock can tell, and never alone."""
    blocked = replace(NORTHWEST_ITALY, channel=Channel(blocked_share=1.0, detour_s=2e-6))
    straight = session_truth(3, 5, NORTHWEST_ITALY)
    for there, plain in zip(
        session_truth(3, 5, blocked).receptions, straight.receptions, strict=True
    ):
        assert there.detour_s > 0
        assert replace(there, detour_s=0.0) == plain


def test_detours_are_as_frequent_and_as_long_as_asked_for():
    """One in four is blocked, by 2 us in the mean, which is also its deviation."""
    channel = Channel(blocked_share=0.25, detour_s=2e-6)
    rng = np.random.default_rng(7)
    detours_s = np.array([drawn_detour_s(rng, channel) for _ in range(8_000)])
    blocked = detours_s[detours_s > 0]
    assert blocked.size / detours_s.size == pytest.approx(0.25, abs=0.03)
    assert blocked.mean() == pytest.approx(2e-6, rel=0.1)
    assert blocked.std() == pytest.approx(2e-6, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"blocked_share": 1.1}, "blocked_share is 1.1"), ({"detour_s": 1.0}, "detour_s is 1.0")],
)
def test_impossible_detours_are_refused(wrong, message):
    """A detour of a second is three times around the Moon."""
    with pytest.raises(SimulationError, match=message):
        Channel(**wrong)
