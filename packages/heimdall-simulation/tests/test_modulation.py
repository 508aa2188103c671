"""Each modulation has the spectrum and the envelope of the textbook."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_simulation import MODULATIONS, NORTHWEST_ITALY, simulate_truths
from heimdall_simulation.modulation import (
    PACKET_FORMATS,
    am_baseband,
    carson_bandwidth_hz,
    channel_width_hz,
    fm_baseband,
    packet_baseband,
    ssb_baseband,
)
from heimdall_simulation.voice import modulating_signal
from heimdall_simulation.waveforms import waveform
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
TONE = np.cos(2 * np.pi * 1000 * np.arange(4800) / RATE_HZ)
seeds = st.integers(0, 2**32)
deviations_hz = st.floats(2500, 5000)
depths = st.floats(0.01, 1.0)


def voice(seed):
    """A quarter of a second of speech."""
    return modulating_signal(np.random.default_rng(seed), 12_000, RATE_HZ)


def power_by_hz(signal):
    """Power and frequency of each bin."""
    return np.abs(np.fft.fft(signal)) ** 2, np.fft.fftfreq(len(signal), 1 / RATE_HZ)


def packets_of(seed, packets, n_samples=48_000, first_within_s=1.0):
    """Bursts from a generator of this seed."""
    rng = np.random.default_rng(seed)
    return packet_baseband(rng, packets, n_samples, RATE_HZ, first_within_s=first_within_s)


@given(seeds, deviations_hz)
def test_fm_has_a_constant_envelope_within_carsons_bandwidth(seed, deviation_hz):
    """Levels depend on the path and not on the speaker; the rule holds 98 % of the power."""
    signal = fm_baseband(voice(seed), deviation_hz, RATE_HZ)
    power, frequency_hz = power_by_hz(signal)
    inside = np.abs(frequency_hz) <= carson_bandwidth_hz(deviation_hz, 3000) / 2
    assert np.allclose(np.abs(signal), 1, atol=1e-12)
    assert power[inside].sum() > 0.98 * power.sum()


@given(seeds, deviations_hz)
def test_an_fm_discriminator_returns_the_voice(seed, deviation_hz):
    """The frequency follows the voice, in hertz."""
    said, signal = voice(seed), fm_baseband(voice(seed), deviation_hz, RATE_HZ)
    found_hz = np.angle(np.roll(signal, -1) / signal) / (2 * np.pi) * RATE_HZ
    said_hz = deviation_hz * (said + np.roll(said, -1)) / 2
    assert np.abs(found_hz - said_hz).max() < 0.02 * deviation_hz


def test_an_fm_tone_has_bessels_sidebands():
    """In the textbook, the carrier vanishes at modulation index 2.405."""
    spectrum = np.abs(np.fft.fft(fm_baseband(TONE, 2404.8, RATE_HZ))) / 4800
    assert spectrum[0] < 1e-4
    assert abs(spectrum[100] - 0.5191) < 1e-4


@given(depths)
def test_am_has_the_depth_and_the_sidebands_of_the_textbook(depth):
    """Depth is (largest - least) / (largest + least); both sidebands have half its square."""
    envelope = np.abs(am_baseband(TONE, depth))
    power, frequency_hz = power_by_hz(am_baseband(TONE, depth))
    assert np.ptp(envelope) / (envelope.max() + envelope.min()) == pytest.approx(depth)
    assert power[frequency_hz != 0].sum() / power[0] == pytest.approx(depth**2 / 2)


@given(seeds, st.booleans())
def test_ssb_has_one_sideband_and_no_carrier(seed, upper):
    """A product detector, the real part, returns the voice."""
    signal = ssb_baseband(voice(seed), upper=upper)
    power, frequency_hz = power_by_hz(signal)
    wanted = frequency_hz > 0 if upper else frequency_hz < 0
    assert power[~wanted].sum() < 1e-12 * power[wanted].sum()
    assert np.allclose(signal.real, voice(seed), atol=1e-9)


@pytest.mark.parametrize(("bandwidth_time", "share"), [(0.2, 0.79), (0.25, 0.86), (0.5, 1.04)])
def test_gfsk_has_the_bandwidth_of_murota_and_hirade(bandwidth_time, share):
    """Their 99 % bandwidths over the bit rate, table of 1981: an outside oracle."""
    endless = replace(
        PACKET_FORMATS["gfsk"], bandwidth_time=bandwidth_time, burst_s=9.9, every_s=10.0
    )
    power, frequency_hz = power_by_hz(packets_of(1, endless, 480_000, 10.0))
    order = np.argsort(np.abs(frequency_hz))
    inside = np.searchsorted(np.cumsum(power[order]), 0.99 * power.sum())
    assert 2 * np.abs(frequency_hz[order][inside]) / 9600 == pytest.approx(share, abs=0.03)


def test_four_levels_are_sent():
    """DMR's deviations, 648 Hz and 1944 Hz, appear where a symbol is repeated."""
    signal = packets_of(1, replace(PACKET_FORMATS["4fsk"], burst_s=0.9, every_s=1.0))
    sent = np.flatnonzero(np.abs(signal) > 0.999)
    found_hz = np.angle(signal[sent[1:]] / signal[sent[1:] - 1]) * RATE_HZ / (2 * np.pi)
    density, edges = np.histogram(found_hz, bins=np.arange(-2430, 2431, 162.0))
    peaks_hz = ((edges[:-1] + edges[1:]) / 2)[density > 1.8 * np.median(density)]
    for level_hz in (-1944, -648, 648, 1944):
        assert np.abs(peaks_hz - level_hz).min() < 100


@settings(max_examples=30)
@given(seeds, st.sampled_from(list(PACKET_FORMATS)))
def test_bursts_have_their_length_interval_and_ramps(seed, name):
    """A burst without ramps would disturb the whole band."""
    packets = PACKET_FORMATS[name]
    envelope = np.abs(packets_of(seed, packets))
    begins = np.flatnonzero((envelope[1:] > 0) & (envelope[:-1] == 0))
    ends = np.flatnonzero((envelope[1:] == 0) & (envelope[:-1] > 0))
    ends = ends[ends > begins[0]]  # the first and the last burst may be cut off
    whole = begins[: len(ends)]
    assert np.diff(begins) / RATE_HZ == pytest.approx(packets.every_s, abs=2.1 / RATE_HZ)
    assert (ends - whole) / RATE_HZ == pytest.approx(packets.burst_s, abs=3 / RATE_HZ)
    assert np.abs(np.diff(envelope)).max() < 2 / (packets.ramp_s * RATE_HZ)


@settings(max_examples=20)
@given(seeds, st.sampled_from(MODULATIONS))
def test_a_waveform_has_power_one_within_its_channel(seed, name):
    """Levels in the truth are mean powers, and the channel sets a receiver's filter."""
    scenario = replace(NORTHWEST_ITALY, modulations=(name,))
    (truth,) = simulate_truths(1, seed, scenario)
    sent = waveform(truth, scenario)
    power, frequency_hz = power_by_hz(sent)
    inside = np.abs(frequency_hz) <= channel_width_hz(name, scenario.deviation_hz[1]) / 2
    assert truth.source.modulation == name
    assert np.mean(np.abs(sent[: scenario.n_samples]) ** 2) == pytest.approx(1)
    assert power[inside].sum() > 0.98 * power.sum()


def test_all_modulations_are_equally_frequent():
    """They are drawn from their own branch of seeds, so nothing else changes."""
    scenario = replace(NORTHWEST_ITALY, modulations=MODULATIONS)
    mixed, plain = (list(simulate_truths(600, 4, s)) for s in (scenario, NORTHWEST_ITALY))
    names = [truth.source.modulation for truth in mixed]
    assert all(60 < names.count(name) < 140 for name in MODULATIONS)
    assert [t.receptions for t in mixed] == [t.receptions for t in plain]
