"""Carrier offsets, found whatever the delay."""

import numpy as np
from heimdall_features.clock import carrier_offsets_hz
from heimdall_features.testing import delayed, noise
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 48_000.0
few = settings(max_examples=15)


def heard(offset_hz, delay_s, snr_db, bandwidth=1.0, n_samples=48_000):
    """One transmission at two receivers, the second off frequency and late."""
    rng = np.random.default_rng(0)
    signal, time_s = noise(rng, n_samples, bandwidth), np.arange(n_samples) / RATE_HZ
    other = delayed(signal, delay_s, RATE_HZ) * np.exp(2j * np.pi * offset_hz * time_s)
    level = 10 ** (-snr_db / 20)
    both = (signal + level * noise(rng, n_samples), other + level * noise(rng, n_samples))
    return [iq.astype(np.complex64) for iq in both]


@few
@given(st.floats(-900, 900), st.floats(-500e-6, 500e-6), st.sampled_from([1.0, 0.25]))
def test_an_offset_is_found_to_a_third_of_the_recordings_resolution(offset_hz, delay_s, bandwidth):
    """One second resolves one hertz; over a column of 31 ms a third turns a hundredth."""
    found = carrier_offsets_hz(heard(offset_hz, delay_s, 30.0, bandwidth), RATE_HZ, 1000.0)
    assert abs((found[1] - found[0]) - offset_hz) < 0.33


@few
@given(st.floats(-900, 900))
def test_noise_as_strong_as_the_signal_does_not_hide_it(offset_hz):
    """Far receivers are hardly above their noise."""
    found = carrier_offsets_hz(heard(offset_hz, 100e-6, 0.0), RATE_HZ, 1000.0)
    assert abs((found[1] - found[0]) - offset_hz) < 0.5


def test_a_receiver_that_hears_nothing_is_not_the_reference():
    """Its offsets are chance, and would spoil those of all others."""
    signals = heard(123.0, 0.0, 30.0)
    deaf = noise(np.random.default_rng(9), 48_000).astype(np.complex64)
    found = carrier_offsets_hz([deaf, *signals], RATE_HZ, 1000.0)
    assert abs(found[2] - found[1] - 123.0) < 0.33
    assert 0.0 in found[1:]


def test_a_spur_at_each_receivers_centre_does_not_pass_for_the_signal():
    """Every direct-conversion receiver has one, and it says that there is no offset."""
    signals = [iq + np.complex64(3.0) for iq in heard(77.0, 0.0, 20.0)]
    found = carrier_offsets_hz(signals, RATE_HZ, 1000.0)
    assert abs(found[1] - found[0] - 77.0) < 0.33
