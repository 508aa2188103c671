"""The path follows Friis near by, the log-distance law far away, and the speed of light."""

import numpy as np
from heimdall_simulation.propagation import (
    free_space_loss_db,
    log_distance_loss_db,
    propagation_delay_s,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(2.0, 5.0), st.floats(100, 5000))
def test_the_slope_beyond_the_reference_is_the_exponent(exponent, reference_m):
    """A regression returns the parameter of the law."""
    distance_m = np.geomspace(1.1 * reference_m, 200 * reference_m, 30)
    loss_db = log_distance_loss_db(distance_m, 145e6, exponent=exponent, reference_m=reference_m)
    slope = np.polyfit(np.log10(distance_m), loss_db, 1)[0]
    assert np.isclose(slope, 10 * exponent)


@given(st.floats(100, 5000))
def test_the_loss_has_no_step_at_the_reference(reference_m):
    """A network could learn a step, a ring on the map."""
    around_m = reference_m * np.array([1 - 1e-9, 1 + 1e-9])
    below_db, above_db = log_distance_loss_db(
        around_m, 145e6, exponent=3.5, reference_m=reference_m
    )
    assert abs(above_db - below_db) < 1e-6


@given(st.floats(1, 1000), st.floats(1, 3000))
def test_free_space_loss_agrees_with_radio_handbooks(distance_km, frequency_mhz):
    """32.45 dB + 20 log f/MHz + 20 log d/km, as in ITU-R P.525."""
    handbook_db = 32.45 + 20 * np.log10(frequency_mhz) + 20 * np.log10(distance_km)
    assert abs(free_space_loss_db(1e3 * distance_km, 1e6 * frequency_mhz) - handbook_db) < 0.01


def test_light_takes_a_millisecond_for_300_km():
    """By hand: 299.792458 km."""
    assert propagation_delay_s(299_792.458) == 1e-3
