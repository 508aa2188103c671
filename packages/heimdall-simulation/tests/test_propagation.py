"""Losses follow Friis and the log-distance law; delays follow the kind of wave."""

import numpy as np
import pytest
from heimdall_data.errors import DataError
from heimdall_simulation import Propagation
from heimdall_simulation.propagation import (
    EARTH_RADIUS_M,
    LOWEST_REFLECTION_M,
    flat_earth_m,
    free_space_loss_db,
    log_distance_loss_db,
    man_made_noise_db,
    propagation_delay_s,
    sky_path_m,
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


@given(st.floats(0, 2e7), st.floats(LOWEST_REFLECTION_M, 1e6))
def test_a_sky_wave_is_later_than_the_slowest_ground_wave(distance_m, height_m):
    """Both may reach a receiver; the ground wave then comes first, everywhere on the earth."""
    slowest_s = Propagation(wave="ground_wave", slowness=(0, 5e-3)).longest_delay_s(distance_m)
    assert propagation_delay_s(sky_path_m(distance_m, height_m)) >= slowest_s


@given(st.floats(0, 3.5e6), st.floats(100e3, 500e3), st.floats(1, 100e3))
def test_a_higher_mirror_makes_a_longer_path(distance_m, height_m, more_m):
    """The height of one hop may be learnt from its delay."""
    one_hop_m = 2 * EARTH_RADIUS_M * np.arccos(EARTH_RADIUS_M / (EARTH_RADIUS_M + height_m))
    distance_m = min(distance_m, one_hop_m)
    assert sky_path_m(distance_m, height_m + more_m) > sky_path_m(distance_m, height_m)


def test_sky_waves_have_the_lengths_that_geometry_gives():
    """Straight up and down; and two hops where one would cut the earth, each half as far."""
    assert sky_path_m(0.0, 300e3) == 600e3
    assert sky_path_m(6_000e3, 300e3) == 2 * sky_path_m(3_000e3, 300e3)
    flat_m = 2 * np.hypot(50e3, 300e3)
    assert flat_m < sky_path_m(100e3, 300e3) < 1.001 * flat_m


@pytest.mark.parametrize(
    ("frequency_hz", "wave"),
    [(77.5e3, "ground_wave"), (2.9e6, "ground_wave"), (7e6, "sky_wave"), (145e6, "line_of_sight")],
)
def test_the_frequency_says_which_wave_carries(frequency_hz, wave):
    """Users know their frequency better than their propagation."""
    assert Propagation.usual_at(frequency_hz).wave == wave


def test_empirical_laws_have_the_values_of_their_recommendations():
    """ITU-R P.372: 67.2 dB at 1 MHz and 27.7 dB less at 10 MHz; ITU-R P.368: 80 km at 1 MHz."""
    assert man_made_noise_db(1e6) == 67.2
    assert man_made_noise_db(10e6) == pytest.approx(39.5)
    assert flat_earth_m(1e6) == 80e3
    assert flat_earth_m(8e6) == pytest.approx(40e3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"wave": "meteor"}, "wave is 'meteor'"),
        ({"slowness": (0.002, 0.001)}, r"slowness is \(0.002, 0.001\)"),
        ({"slowness": (0.0, 0.1)}, r"slowness is \(0.0, 0.1\)"),
        ({"slowness": (-0.1, 0.0)}, r"slowness is \(-0.1, 0.0\)"),
        ({"virtual_height_m": (2e5, 3e5)}, "for a line_of_sight"),
        ({"wave": "sky_wave"}, "virtual_height_m None"),
        ({"wave": "sky_wave", "virtual_height_m": (1e4, 3e5)}, r"\(10000.0, 300000.0\)"),
        ({"wave": "ground_wave", "height_sigma_m": 1e3}, "height_sigma_m 1000.0"),
    ],
)
def test_impossible_waves_are_rejected(wrong, message):
    """A setting that is silently ignored would be believed."""
    with pytest.raises(DataError, match=message):
        Propagation(**wrong)
