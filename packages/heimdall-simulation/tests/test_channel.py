"""Fading, echoes and detours have their statistics; interferers agree with their truth."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.catalogue.session import Station
from heimdall_data.errors import SimulationError
from heimdall_simulation import (
    MODULATIONS,
    NO_MISHAPS,
    NORTHWEST_ITALY,
    Channel,
    EchoTruth,
    Interference,
    simulate_session,
)
from heimdall_simulation.channel import (
    drawn_detour_s,
    drawn_echoes,
    drawn_fading,
    echo_response,
    fading_gain,
)
from heimdall_simulation.cramer_rao import timing_covariance_m2
from heimdall_simulation.drawing import session_truth
from heimdall_simulation.geometry import slant_range_m
from heimdall_simulation.propagation import log_distance_loss_db, propagation_delay_s
from heimdall_simulation.receiver import Reception, arrived
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
SHORT = replace(NORTHWEST_ITALY, n_samples=4096, mishaps=NO_MISHAPS)
CROWDED = replace(SHORT, interference=Interference(n_interferers=2, offset_hz=12_500.0))
EVERYTHING = replace(
    CROWDED,
    modulations=MODULATIONS,
    channel=Channel(rician_k_db=6.0, doppler_hz=20.0, n_echoes=3),
)
seeds = st.integers(0, 2**32)
few = settings(max_examples=20)


def gains(k_db, n_paths=1500, doppler_hz=50.0, n_samples=64, rate_hz=1000.0):
    """Gains of many paths, `(paths, samples)`."""
    channel = Channel(rician_k_db=k_db, doppler_hz=doppler_hz)
    rng = np.random.default_rng(1)
    fadings = [drawn_fading(rng, channel) for _ in range(n_paths)]
    return np.array([fading_gain(fading, n_samples, rate_hz) for fading in fadings])


@pytest.mark.parametrize("k_db", [-30.0, 0.0, 6.0, 15.0])
def test_envelopes_have_rices_moments(k_db):
    """E r^2 = 1 and E r^4 = (2 + 4 K + K^2) / (1 + K)^2 at mean power 1."""
    k, power = 10 ** (k_db / 10), np.abs(gains(k_db)) ** 2
    assert np.mean(power) == pytest.approx(1, abs=0.02)
    assert np.mean(power**2) == pytest.approx((2 + 4 * k + k * k) / (1 + k) ** 2, rel=0.04)


def test_scattered_waves_have_clarkes_autocorrelation():
    """J0(2 pi f_d tau) by Bessel's integral, up to beyond its first trough."""
    scattered = gains(-60.0)
    lag_s = np.arange(20) / 1000
    found = [np.mean(scattered[:, n:] * np.conj(scattered[:, : 64 - n])) for n in range(20)]
    angle = (np.arange(400) + 0.5) * np.pi / 400
    bessel = np.cos(2 * np.pi * 50 * np.outer(lag_s, np.sin(angle))).mean(axis=1)
    assert bessel.min() < -0.39
    assert np.allclose(found, bessel, atol=0.03)


@given(seeds, st.floats(-20, 20), st.floats(0, 200), st.integers(1, 3000))
def test_the_fast_gain_is_the_sum_of_its_waves(seed, k_db, doppler_hz, n_samples):
    """The sum of the waves in the truth must be the gain that was used."""
    channel = Channel(rician_k_db=k_db, doppler_hz=doppler_hz)
    fading = drawn_fading(np.random.default_rng(seed), channel)
    time_s, k = np.arange(n_samples) / RATE_HZ, 10 ** (k_db / 10)
    shifts_hz = doppler_hz * np.cos(np.array(fading.angles_rad))[:, None]
    waves = np.exp(1j * (2 * np.pi * shifts_hz * time_s + np.array(fading.phases_rad)[:, None]))
    direct = np.exp(2j * np.pi * doppler_hz * np.cos(fading.direct_angle_rad) * time_s)
    expected = np.sqrt(k / (k + 1)) * direct + waves.sum(axis=0) / np.sqrt(32 * (k + 1))
    assert np.allclose(fading_gain(fading, n_samples, RATE_HZ), expected, atol=1e-9)


@settings(max_examples=10)
@given(st.floats(5, 10), st.floats(0, 2 * np.pi))
def test_correlation_finds_an_echo_between_two_samples(late, phase_rad):
    """A delay rounded to samples would be wrong by up to 3 km."""
    rng, n_samples = np.random.default_rng(2), 16_384
    frequency = np.fft.fftfreq(n_samples)
    noise = rng.standard_normal(n_samples) + 1j * rng.standard_normal(n_samples)
    spectrum = np.where(np.abs(frequency) < 0.45, np.fft.fft(noise), 0)
    echo = EchoTruth(excess_s=late / RATE_HZ, gain_db=-6.0, phase_rad=phase_rad)
    plain = Reception(
        delay_s=1e-4, frequency_offset_hz=0, phase_rad=0, signal_dbfs=-90, noise_dbfs=-90
    )
    alone, both = (
        arrived(spectrum, made, n_samples, RATE_HZ)
        for made in (plain, replace(plain, echoes=(echo,)))
    )
    cross = np.fft.fft(both - alone) * np.conj(np.fft.fft(alone))
    lags = late + np.arange(-1, 1.005, 0.01)
    heights = np.exp(2j * np.pi * np.outer(lags, frequency)) @ cross
    energy = np.sum(np.abs(np.fft.fft(alone)) ** 2)
    assert np.argmax(np.abs(heights)) == 100
    assert heights[100] / energy == pytest.approx(10**-0.3 * np.exp(1j * phase_rad), abs=1e-3)


@given(seeds, st.integers(0, 10), st.floats(1e-9, 1e-3))
def test_echoes_are_in_order_and_within_the_longest_delay(seed, n_echoes, delay_spread_s):
    """The guard of a recording is computed from the longest delay."""
    channel = Channel(n_echoes=n_echoes, delay_spread_s=delay_spread_s)
    excess_s = [echo.excess_s for echo in drawn_echoes(np.random.default_rng(seed), channel)]
    assert len(excess_s) == n_echoes
    assert excess_s == sorted(excess_s)
    assert all(0 <= excess <= channel.longest_echo_s for excess in excess_s)


def test_echoes_have_the_given_profile():
    """Exponential over delay, cut off at five spreads, and together of the given power."""
    channel = Channel(n_echoes=4, delay_spread_s=10e-6, echoes_db=-3.0)
    rng = np.random.default_rng(3)
    drawn = [drawn_echoes(rng, channel) for _ in range(3000)]
    excess_s = np.array([[echo.excess_s for echo in echoes] for echoes in drawn])
    power = np.array([[10 ** (echo.gain_db / 10) for echo in echoes] for echoes in drawn])
    cut = 5 * math.exp(-5) / (1 - math.exp(-5))
    assert excess_s.mean() == pytest.approx(10e-6 * (1 - cut), rel=0.03)
    assert power.sum(axis=1).mean() == pytest.approx(10**-0.3, rel=0.04)


@given(st.floats(-40, 10), st.floats(0, 2 * np.pi))
def test_an_echo_without_delay_only_changes_gain_and_phase(gain_db, phase_rad):
    """With opposite phase it cancels the direct path, so a level alone can mislead."""
    echo = EchoTruth(excess_s=0.0, gain_db=gain_db, phase_rad=phase_rad)
    expected = 10 ** (gain_db / 20) * np.exp(1j * phase_rad)
    assert np.allclose(echo_response((echo,), 16, RATE_HZ), expected)


@few
@given(seeds, seeds)
def test_a_detour_changes_nothing_but_the_delay(index, seed):
    """The levels stay, so only a clock can show a detour."""
    blocked = replace(NORTHWEST_ITALY, channel=Channel(blocked_share=1.0, detour_s=2e-6))
    straight = session_truth(index, seed, NORTHWEST_ITALY)
    for there, plain in zip(
        session_truth(index, seed, blocked).receptions, straight.receptions, strict=True
    ):
        assert there.detour_s > 0
        assert replace(there, detour_s=0.0) == plain


def test_detours_have_the_given_share_and_length():
    """One in four paths is blocked; mean and deviation of the detours are 2 us."""
    channel = Channel(blocked_share=0.25, detour_s=2e-6)
    rng = np.random.default_rng(7)
    detours_s = np.array([drawn_detour_s(rng, channel) for _ in range(8_000)])
    blocked = detours_s[detours_s > 0]
    assert blocked.size / detours_s.size == pytest.approx(0.25, abs=0.03)
    assert blocked.mean() == pytest.approx(2e-6, rel=0.1)
    assert blocked.std() == pytest.approx(2e-6, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rician_k_db": float("nan")}, "rician_k_db is nan"),
        ({"doppler_hz": -1.0}, "doppler_hz is -1.0; give 0 or more"),
        ({"n_echoes": -2}, "n_echoes is -2"),
        ({"delay_spread_s": 5.0}, "delay_spread_s is 5.0; .* at most 0.001"),
        ({"delay_spread_s": 0.0}, "delay_spread_s is 0.0; give more than 0"),
        ({"blocked_share": 1.1}, "blocked_share is 1.1"),
        ({"detour_s": 1.0}, "detour_s is 1.0"),
    ],
)
def test_invalid_channels_are_rejected(wrong, message):
    """Microseconds given as seconds are a likely mistake."""
    with pytest.raises(SimulationError, match=message):
        Channel(**wrong)


def power_of(recording, frequency_hz, width_hz=9000.0):
    """Power in a channel at this frequency, relative to full scale."""
    i, q = np.load(io.BytesIO(recording.payload)).astype(np.float64) / 32767
    spectrum = np.abs(np.fft.fft((i + 1j * q) * np.hanning(len(i)))) ** 2
    away_hz = np.abs(np.fft.fftfreq(len(i), 1 / 48_000) - frequency_hz)
    return spectrum[away_hz < width_hz].sum() / (len(i) ** 2 * 3 / 8)


def test_an_interferer_has_the_level_of_its_truth_at_each_receiver():
    """Seven levels of one transmitter, each by its own path; the source is far weaker."""
    others = Interference(n_interferers=1, offset_hz=12_500.0, radiated_dbm=(60.0, 60.0))
    weak = replace(SHORT, radiated_dbm=(-60.0, -60.0), interference=others)
    session = simulate_session(2, 5, weak)
    (other,) = session.truth.interferers
    n_checked = 0
    for recording in session.new_session.measurements:
        there = other.at(recording.station.name)
        if there.snr_db > 20 and there.signal_dbfs < -3:
            found = 10 * np.log10(power_of(recording, there.frequency_offset_hz))
            assert abs(found - there.signal_dbfs) < 0.6
            n_checked += 1
    assert n_checked >= 4


@few
@given(seeds)
def test_an_interferers_link_budget_follows_from_its_position(seed):
    """Distance, delay and loss are computed again from position and altitude."""
    for other in session_truth(0, seed, CROWDED).interferers:
        for there in other.receptions:
            distance_m = slant_range_m(
                other.source.position_deg,
                other.source.altitude_m,
                there.station.position_deg,
                there.station.altitude_m,
            )
            loss_db = log_distance_loss_db(
                distance_m, other.source.frequency_hz, exponent=3.2, reference_m=1000.0
            )
            lost_db = loss_db + there.shadowing_db + there.fading_db
            assert there.signal_dbm == pytest.approx(other.source.radiated_dbm - lost_db)
            # Through air, which is 300 N-units slower than vacuum.
            assert there.delay_s == pytest.approx(1.0003 * propagation_delay_s(distance_m))


@few
@given(seeds)
def test_a_receiver_has_one_clock_and_one_mixer_for_all(seed):
    """The offset between two transmitters is the same at every receiver."""
    truth = session_truth(0, seed, CROWDED)
    for other in truth.interferers:
        pairs = [(other.at(mine.station.name), mine) for mine in truth.receptions]
        apart_hz = [there.frequency_offset_hz - mine.frequency_offset_hz for there, mine in pairs]
        assert np.ptp(apart_hz) < 1e-6
        assert abs(abs(apart_hz[0]) - 12_500) < 1500
        assert all(there.clock_error_s == mine.clock_error_s for there, mine in pairs)


@few
@given(seeds)
def test_the_timing_bound_is_positive_definite_with_all_nuisances(seed):
    """Whatever modulation is sent."""
    covariance = timing_covariance_m2(session_truth(seed, 5, EVERYTHING), EVERYTHING)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)


@few
@given(seeds)
def test_nuisances_do_not_change_the_source_or_its_levels(seed):
    """They have their own seeds, so runs are comparable session by session."""
    plain, full = (session_truth(3, seed, scenario) for scenario in (SHORT, EVERYTHING))
    assert full.source.position_deg == plain.source.position_deg
    assert [r.signal_dbm for r in full.receptions] == [r.signal_dbm for r in plain.receptions]


@given(st.floats(40, 55), st.floats(55, 70), st.floats(-10, 10), st.floats(10, 30))
def test_the_guard_is_longer_than_any_delay(south, north, west, east):
    """No delay may wrap around; a wide region needs more than Italy's north-west."""
    europe = replace(
        SHORT,
        stations=(Station("A", south, west, 20.0), Station("B", north, east, 20.0)),
        latitude_deg=(south, north),
        longitude_deg=(west, east),
    )
    delays_s = [r.delay_s for i in range(5) for r in session_truth(i, 5, europe).receptions]
    assert europe.guard_s > max(delays_s)
    assert europe.guard_s >= SHORT.guard_s == 2e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_interferers": -1}, "n_interferers is -1; give 0 or more"),
        ({"offset_hz": -1.0}, "offset_hz is -1.0; give 0 or more"),
        ({"radiated_dbm": (5.0, 1.0)}, r"radiated_dbm is \(5.0, 1.0\)"),
    ],
)
def test_invalid_interference_is_rejected(wrong, message):
    """The error gives the setting's name and value."""
    with pytest.raises(SimulationError, match=message):
        Interference(**wrong)
