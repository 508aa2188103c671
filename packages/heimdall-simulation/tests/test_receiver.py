"""A receiver delays, shifts, adds noise and converts, each with the documented precision."""

import io

import numpy as np
from heimdall_simulation.modulation import fm_baseband
from heimdall_simulation.receiver import (
    FULL_SCALE,
    Reception,
    delayed,
    npy_payload,
    phasor,
    received,
    thermal_noise_dbm,
)
from heimdall_simulation.voice import modulating_signal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

RATE_HZ = 48_000.0
N_SAMPLES = 12_000
SILENT_DBFS = -400.0


def spectrum_of(seed):
    """Spectrum of a modulated carrier."""
    voice = modulating_signal(np.random.default_rng(seed), N_SAMPLES, RATE_HZ)
    return np.fft.fft(fm_baseband(voice, 4000.0, RATE_HZ))


def iq_of(reception, seed=0):
    """Output of the receiver, with full scale 1."""
    raw = received(
        np.random.default_rng(seed),
        spectrum_of(1),
        reception,
        n_samples=N_SAMPLES,
        sample_rate_hz=RATE_HZ,
    )
    return (raw[0] + 1j * raw[1]) / FULL_SCALE


def reception(**changes):
    """A plain reception at 60 dB SNR, with changes."""
    still = {
        "delay_s": 0.0,
        "frequency_offset_hz": 0.0,
        "phase_rad": 0.0,
        "signal_dbfs": -20.0,
        "noise_dbfs": -80.0,
    }
    return Reception(**(still | changes))


@given(st.integers(0, 2**32), st.integers(-60, 60))
def test_a_delay_of_whole_samples_is_a_shift(seed, n_late):
    """Without interpolation it must be exact."""
    signal = np.fft.ifft(spectrum_of(seed))
    assert np.allclose(delayed(spectrum_of(seed), n_late), np.roll(signal, n_late), atol=1e-9)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_two_delays_add_up(first, second):
    """Fractions of a sample are as precise as whole samples."""
    twice = delayed(np.fft.fft(delayed(spectrum_of(3), first)), second)
    assert np.allclose(twice, delayed(spectrum_of(3), first + second), atol=1e-6)


@given(st.integers(1, 50_000), st.floats(-0.5, 0.5), st.floats(-4, 4))
def test_the_fast_phasor_equals_the_plain_one(n_samples, cycles_per_sample, phase_rad):
    """The outer product must not cost precision."""
    plain = np.exp(1j * (2 * np.pi * cycles_per_sample * np.arange(n_samples) + phase_rad))
    assert np.allclose(phasor(n_samples, cycles_per_sample, phase_rad), plain, atol=1e-9)


@settings(max_examples=20)
@given(st.floats(0, 6e-4), st.floats(0, 6e-4))
def test_correlation_finds_the_delay_between_two_receivers(delay_a_s, delay_b_s):
    """The basis of timing: a hundredth of a sample is 60 m of path."""
    one, two = (
        iq_of(reception(delay_s=delay_s), seed=n)
        for n, delay_s in enumerate((delay_a_s, delay_b_s))
    )
    assert abs(lag_s(two, one) - (delay_b_s - delay_a_s)) < 0.02 / RATE_HZ


def lag_s(late, early):
    """Peak of the cross-correlation, by a parabola on a fine grid."""
    cross = np.fft.fft(late) * np.conj(np.fft.fft(early))
    frequency = np.fft.fftfreq(len(late))
    coarse = int(np.argmax(np.abs(np.fft.ifft(cross))))
    fine = np.linspace(-1, 1, 201)
    in_band = np.abs(frequency) < 0.2
    aligned = cross[in_band] * np.exp(2j * np.pi * frequency[in_band] * coarse)
    heights = np.abs(np.exp(2j * np.pi * np.outer(fine, frequency[in_band])) @ aligned)
    whole = coarse - len(late) if coarse > len(late) / 2 else coarse
    top = int(np.clip(np.argmax(heights), 1, len(fine) - 2))
    before, at, after = heights[top - 1 : top + 2]
    vertex = (before - after) / (before - 2 * at + after) / 2
    return (whole + fine[top] + 0.01 * vertex) / RATE_HZ


@settings(max_examples=20)
@given(st.floats(-500, 500))
def test_the_carrier_has_the_given_offset(offset_hz):
    """Two receivers of one waveform differ only by their oscillators."""
    still, moved = iq_of(reception()), iq_of(reception(frequency_offset_hz=offset_hz))
    turn = np.unwrap(np.angle(moved * np.conj(still)))
    slope = np.polyfit(np.arange(N_SAMPLES) / RATE_HZ, turn, 1)[0]
    assert abs(slope / (2 * np.pi) - offset_hz) < 0.05


@settings(max_examples=20)
@given(st.floats(-60, -3), st.floats(-80, -20))
def test_levels_are_as_given(signal_dbfs, noise_dbfs):
    """Signal and noise have the power of the link budget."""
    signal = iq_of(reception(signal_dbfs=signal_dbfs, noise_dbfs=SILENT_DBFS))
    noise = iq_of(reception(signal_dbfs=SILENT_DBFS, noise_dbfs=noise_dbfs))
    assert abs(10 * np.log10(np.mean(np.abs(signal) ** 2)) - signal_dbfs) < 0.1
    assert abs(10 * np.log10(np.mean(np.abs(noise) ** 2)) - noise_dbfs) < 0.3


def test_noise_is_white_and_its_two_parts_are_independent():
    """Thermal noise has no preferred frequency or phase."""
    noise = iq_of(reception(signal_dbfs=SILENT_DBFS, noise_dbfs=-40))
    power = np.abs(np.fft.fft(noise)) ** 2
    bands = power.reshape(8, -1).mean(axis=1)
    assert np.all(np.abs(10 * np.log10(bands / power.mean())) < 0.6)
    assert abs(np.corrcoef(noise.real, noise.imag)[0, 1]) < 0.05


def test_a_signal_beyond_full_scale_saturates_and_does_not_wrap():
    """Wrapping would turn the strongest signal into noise."""
    loud = iq_of(reception(signal_dbfs=10.0))
    assert np.abs(loud.real).max() == 1.0
    assert np.mean(np.sign(loud.real) == np.sign(iq_of(reception()).real)) > 0.99


def test_thermal_noise_is_minus_174_dbm_in_a_hertz():
    """The value that every radio engineer knows."""
    assert abs(thermal_noise_dbm(1.0, 0.0) + 174) < 0.03
    assert abs(thermal_noise_dbm(48_000.0, 8.0) + 119.2) < 0.1


@given(arrays(np.int16, st.tuples(st.just(2), st.integers(0, 100))))
def test_others_can_read_a_payload(iq):
    """The contract's format: NumPy without pickle, I and Q in rows."""
    assert np.array_equal(np.load(io.BytesIO(npy_payload(iq)), allow_pickle=False), iq)
