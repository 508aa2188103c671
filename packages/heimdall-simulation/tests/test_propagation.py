"""The path obeys Friis near by, the log-distance law far off, and the speed of light."""

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
    """The law's own parameter comes back from a regression on what it gives."""
    distance_m = np.geomspace(1.1 * reference_m, 200 * reference_m, 30)
    loss_db = log_distance_loss_db(distance_m, 145e6, exponent=exponent, reference_m=reference_m)
    slope = np.polyfit(np.log10(distance_m), loss_db, 1)[0]
    assert np.isclose(slope, 10 * exponent)


@given(st.floats(100, 5000))
def test_the_loss_has_no_step_at_the_reference(reference_m):
    """A step would be a ring on the map that a network could learn."""
    around_m = reference_m * np.array([1 - 1e-9, 1 + 1e-9])
    below_db, above_db = log_distance_loss_db(
        around_m, 145e6, exponent=3.5, reference_m=reference_m
    )
    assert abs(above_db - below_db) < 1e-6


def test_free_space_loss_is_what_radio_handbooks_print():
    """32.45 dB + 20 log f/MHz + 20 log d/km, as in ITU-R P.525."""
    handbook_db = 32.45 + 20 * np.log10(145) + 20 * np.log10(50)
    assert abs(free_space_loss_db(50e3, 145e6) - handbook_db) < 0.01


def test_light_takes_a_millisecond_for_300_km():
    """Worked by hand: 299.792458 km."""
    assert propagation_delay_s(299_792.458) == 1e-3
