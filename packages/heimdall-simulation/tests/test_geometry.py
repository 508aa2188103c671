"""Positions become metres as in surveying."""

import numpy as np
from heimdall_simulation.geometry import (
    earth_centred_m,
    east_north_m,
    slant_range_m,
    surface_distance_m,
)
from hypothesis import given
from hypothesis import strategies as st

latitudes = st.floats(44.3, 45.6)
longitudes = st.floats(7.1, 9.3)
heights = st.floats(0, 1000)


@given(latitudes, longitudes, heights, latitudes, longitudes, heights)
def test_a_slant_range_is_the_same_both_ways(lat_a, lon_a, height_a, lat_b, lon_b, height_b):
    """Delays and losses depend on it."""
    there = slant_range_m((lat_a, lon_a), height_a, (lat_b, lon_b), height_b)
    back = slant_range_m((lat_b, lon_b), height_b, (lat_a, lon_a), height_a)
    assert there == back


def test_geocentric_coordinates_agree_with_the_epsg_example():
    """The worked example of EPSG Guidance Note 7-2, to its precision of a millimetre."""
    position_deg = (53 + 48 / 60 + 33.820 / 3600, 2 + 7 / 60 + 46.380 / 3600)
    expected = (3771793.968, 140253.342, 5124304.349)
    assert np.allclose(earth_centred_m(position_deg, 73.0), expected, rtol=0, atol=2e-3)


@given(st.floats(-89, 89), st.floats(-180, 180))
def test_degrees_have_the_length_of_the_ellipsoid(latitude, longitude):
    """By the radii of curvature in the meridian and the prime vertical, for a hundredth each."""
    sine, eccentricity2 = np.sin(np.radians(latitude)), 0.00669437999014
    prime_m = 6_378_137 / np.sqrt(1 - eccentricity2 * sine**2)
    meridian_m = prime_m * (1 - eccentricity2) / (1 - eccentricity2 * sine**2)
    expected_m = np.radians(0.01) * np.array([prime_m * np.cos(np.radians(latitude)), meridian_m])
    origin = np.array([latitude, longitude])
    (_, north_m), (east_m, _) = east_north_m(origin + 0.01 * np.eye(2), origin)
    assert np.allclose([east_m, north_m], expected_m, rtol=2e-4, atol=0.1)


@given(latitudes, longitudes, heights, heights)
def test_altitude_lengthens_a_short_path_by_pythagoras(latitude, longitude, low_m, high_m):
    """Coazze is 450 m above the plain: over 1 km the path is 97 m longer."""
    here, there = (latitude, longitude), (latitude + 0.009, longitude)
    level_m = float(slant_range_m(here, 0.0, there, 0.0))
    sloping_m = slant_range_m(here, low_m, there, high_m)
    assert abs(sloping_m - np.hypot(level_m, high_m - low_m)) < 0.5


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(-89, 89), st.floats(-180, 180))
def test_the_way_along_the_ellipsoid_bends_as_the_ellipsoid_does(lat_a, lon_a, lat_b, lon_b):
    """Schur: an arc that bends more has a shorter chord. Radii are from 6,335 km to 6,400 km."""
    here, there = (lat_a, lon_a), (lat_b, lon_b)
    chord_m = float(slant_range_m(here, 0.0, there, 0.0))
    along_m = float(surface_distance_m(here, there))
    tightest_m, widest_m = 6_335e3, 6_400e3
    half = np.minimum(along_m / (2 * tightest_m), np.pi / 2)
    assert 2 * tightest_m * np.sin(half) <= chord_m + 1e-6
    assert chord_m <= 2 * widest_m * np.sin(along_m / (2 * widest_m)) + 1e-6


def test_the_way_along_the_ellipsoid_agrees_with_surveyors():
    """Flinders Peak to Buninyong: 54,972.271 m in the manual of Australia's datum (ICSM)."""
    flinders = (-(37 + 57 / 60 + 3.7203 / 3600), 144 + 25 / 60 + 29.5244 / 3600)
    buninyong = (-(37 + 39 / 60 + 10.1561 / 3600), 143 + 55 / 60 + 35.3839 / 3600)
    assert abs(surface_distance_m(flinders, buninyong) - 54_972.271) < 1e-3
