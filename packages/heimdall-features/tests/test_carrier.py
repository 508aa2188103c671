"""Carrier offsets are found for any delay."""

import numpy as np
import pytest
from heimdall_features.clock import carrier_offsets_hz
from heimdall_features.testing import noise
from hypothesis import given, settings
from hypothesis import strategies as st

few = settings(max_examples=15)
any_offset = st.floats(-900, 900)


@pytest.fixture(scope="session")
def two_receivers(transmitted):
    """Make one second of a transmission at two receivers, the second late and off frequency."""

    def make(offset_hz, delay_s, snr_db, bandwidth=1.0):
        heard = transmitted(
            (0.0, delay_s),
            (0.0, offset_hz),
            snr_db=snr_db,
            n_samples=48_000,
            bandwidth=bandwidth,
        )
        return [recording.iq for recording in heard.values()]

    return make


def offset_between(signals):
    """Offset of the last receiver from the one before it, in Hz."""
    return np.diff(carrier_offsets_hz(signals, 48_000.0, 1000.0))[-1]


@few
@given(any_offset, st.floats(-500e-6, 500e-6), st.sampled_from([1.0, 0.25]))
def test_an_offset_is_found_to_a_third_of_the_resolution(two_receivers, offset, delay, bandwidth):
    """One second resolves 1 Hz; over a column of 31 ms a third of it turns by a hundredth."""
    assert abs(offset_between(two_receivers(offset, delay, 30.0, bandwidth)) - offset) < 0.33


@few
@given(any_offset)
def test_noise_as_strong_as_the_signal_does_not_hide_it(two_receivers, offset_hz):
    """Far receivers hear the signal hardly above their noise."""
    assert abs(offset_between(two_receivers(offset_hz, 100e-6, 0.0)) - offset_hz) < 0.5


@few
@given(any_offset)
def test_a_receiver_that_hears_nothing_is_not_the_reference(two_receivers, offset_hz):
    """Its offsets are random and would spoil those of all others."""
    deaf = noise(np.random.default_rng(9), 48_000).astype(np.complex64)
    signals = [deaf, *two_receivers(offset_hz, 0.0, 30.0)]
    assert abs(offset_between(signals) - offset_hz) < 0.33
    assert 0.0 in carrier_offsets_hz(signals, 48_000.0, 1000.0)[1:]


def test_a_spur_at_each_receivers_centre_is_not_taken_for_the_signal(two_receivers):
    """Every direct-conversion receiver has one, which would suggest that there is no offset."""
    signals = [iq + np.complex64(3.0) for iq in two_receivers(77.0, 0.0, 20.0)]
    assert abs(offset_between(signals) - 77.0) < 0.33
