"""Each modulation has the spectrum and the envelope that its textbook gives it."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_simulation import MODULATIONS, NORTHWEST_ITALY, simulate_truths
from heimdall_simulation.modulation import am_baseband, channel_width_hz, ssb_baseband
from heimdall_simulation.packets import PACKET_FORMATS, packet_baseband
from heimdall_simulation.voice import modulating_signal
from heimdall_simulation.waveforms import waveform

RATE_HZ = 48_000.0
N_SAMPLES = 48_000


def power_by_hz(signal):
    """Power and frequency of each bin."""
    return np.abs(np.fft.fft(signal)) ** 2, np.fft.fftfreq(len(signal), 1 / RATE_HZ)


def tone():
    """1 kHz at full modulation."""
    return np.cos(2 * np.pi * 1000 * np.arange(N_SAMPLES) / RATE_HZ)


def test_am_depth_is_what_an_oscilloscope_reads():
    """(largest - least) / (largest + least) of the envelope."""
    envelope = np.abs(am_baseband(tone(), 0.6))
    depth = (envelope.max() - envelope.min()) / (envelope.max() + envelope.min())
    assert depth == pytest.approx(0.6)


def test_am_sidebands_hold_the_textbooks_share():
    """Half the depth squared, both together, against the carrier."""
    power, frequency_hz = power_by_hz(am_baseband(tone(), 0.6))
    assert power[frequency_hz != 0].sum() / power[0] == pytest.approx(0.6**2 / 2)


@pytest.mark.parametrize("upper", [True, False])
def test_ssb_suppresses_the_other_sideband_and_the_carrier(upper):
    """60 dB is a very good transmitter; ours is ideal."""
    voice = modulating_signal(np.random.default_rng(3), N_SAMPLES, RATE_HZ)
    power, frequency_hz = power_by_hz(ssb_baseband(voice, upper=upper))
    wanted = frequency_hz > 0 if upper else frequency_hz < 0
    assert power[~wanted].sum() < 1e-12 * power[wanted].sum()


def test_ssb_is_received_by_a_product_detector():
    """The real part is the voice: nothing was lost with the other sideband."""
    voice = modulating_signal(np.random.default_rng(3), N_SAMPLES, RATE_HZ)
    assert np.allclose(ssb_baseband(voice, upper=True).real, voice, atol=1e-9)


@pytest.mark.parametrize(("bandwidth_time", "share"), [(0.2, 0.79), (0.25, 0.86), (0.5, 1.04)])
def test_gfsk_occupies_what_murota_and_hirade_published(bandwidth_time, share):
    """Their 99 % bandwidths over the bit rate, table of 1981: an oracle not of our making."""
    endless = replace(
        PACKET_FORMATS["gfsk"], bandwidth_time=bandwidth_time, burst_s=9.9, every_s=10.0
    )
    signal = packet_baseband(
        np.random.default_rng(1), endless, 480_000, RATE_HZ, first_within_s=10.0
    )
    power, frequency_hz = power_by_hz(signal)
    order = np.argsort(np.abs(frequency_hz))
    inside = np.searchsorted(np.cumsum(power[order]), 0.99 * power.sum())
    assert 2 * np.abs(frequency_hz[order][inside]) / 9600 == pytest.approx(share, abs=0.03)


def test_four_levels_are_sent():
    """DMR's deviations, 648 Hz and 1944 Hz: seen where a symbol follows its like."""
    packets = replace(PACKET_FORMATS["4fsk"], burst_s=0.9, every_s=1.0)
    signal = packet_baseband(
        np.random.default_rng(1), packets, N_SAMPLES, RATE_HZ, first_within_s=1.0
    )
    sent = np.flatnonzero(np.abs(signal) > 0.999)
    found_hz = np.angle(signal[sent[1:]] / signal[sent[1:] - 1]) * RATE_HZ / (2 * np.pi)
    density, edges = np.histogram(found_hz, bins=np.arange(-2430, 2431, 162.0))
    peaks_hz = ((edges[:-1] + edges[1:]) / 2)[density > 1.8 * np.median(density)]
    for level_hz in (-1944, -648, 648, 1944):
        assert np.abs(peaks_hz - level_hz).min() < 100


@pytest.mark.parametrize("name", PACKET_FORMATS)
def test_bursts_are_on_for_their_share_of_time_and_ramp(name):
    """A burst that switched on at once would splatter over the band."""
    packets = PACKET_FORMATS[name]
    signal = packet_baseband(
        np.random.default_rng(2), packets, N_SAMPLES, RATE_HZ, first_within_s=1.0
    )
    envelope = np.abs(signal)
    begins = np.flatnonzero((envelope[1:] > 0) & (envelope[:-1] == 0))
    assert np.diff(begins) / RATE_HZ == pytest.approx(packets.every_s, abs=2.1 / RATE_HZ)
    on = np.sum(envelope > 0) / len(begins) / RATE_HZ
    assert on == pytest.approx(packets.burst_s, abs=3 / RATE_HZ)
    assert np.abs(np.diff(envelope)).max() < 2 / (packets.ramp_s * RATE_HZ)


@pytest.mark.parametrize("name", MODULATIONS)
def test_a_waveform_has_power_one_within_its_channel(name):
    """Levels in the truth are mean powers; a receiver's filter is set by the channel."""
    scenario = replace(NORTHWEST_ITALY, modulations=(name,))
    (truth,) = simulate_truths(1, 4, scenario)
    sent = waveform(truth, scenario)
    power, frequency_hz = power_by_hz(sent)
    inside = np.abs(frequency_hz) <= channel_width_hz(name, scenario.deviation_hz[1]) / 2
    assert truth.source.modulation == name
    assert np.mean(np.abs(sent[: scenario.n_samples]) ** 2) == pytest.approx(1)
    assert power[inside].sum() > 0.98 * power.sum()


def test_every_modulation_comes_as_often_as_the_others():
    """Drawn for the source, from its own branch of seeds: nothing else moves."""
    scenario = replace(NORTHWEST_ITALY, modulations=MODULATIONS)
    mixed, plain = (list(simulate_truths(600, 4, s)) for s in (scenario, NORTHWEST_ITALY))
    names = [truth.source.modulation for truth in mixed]
    assert all(60 < names.count(name) < 140 for name in MODULATIONS)
    assert [t.receptions for t in mixed] == [t.receptions for t in plain]
