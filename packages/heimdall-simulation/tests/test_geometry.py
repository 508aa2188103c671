"""Positions become metres as surveyors compute them."""

import numpy as np
from heimdall_simulation.geometry import earth_centred_m, east_north_m, slant_range_m
from hypothesis import given
from hypothesis import strategies as st

latitudes = st.floats(44.3, 45.6)
longitudes = st.floats(7.1, 9.3)
heights = st.floats(0, 1000)


@given(latitudes, longitudes, heights, latitudes, longitudes, heights)
def test_a_slant_range_is_the_same_both_ways(lat_a, lon_a, height_a, lat_b, lon_b, height_b):
    """A path has one length; delays and losses depend on it."""
    there = slant_range_m((lat_a, lon_a), height_a, (lat_b, lon_b), height_b)
    back = slant_range_m((lat_b, lon_b), height_b, (lat_a, lon_a), height_a)
    assert there == back


def test_geocentric_coordinates_are_those_of_the_epsg_example():
    """Someone else's worked example, of EPSG Guidance Note 7-2, to the millimetre it gives."""
    position_deg = (53 + 48 / 60 + 33.820 / 3600, 2 + 7 / 60 + 46.380 / 3600)
    expected = (3771793.968, 140253.342, 5124304.349)
    assert np.allclose(earth_centred_m(position_deg, 73.0), expected, rtol=0, atol=2e-3)


def test_a_degree_of_latitude_is_as_long_as_the_ellipsoid_makes_it_here():
    """111.13 km at 45 degrees north: a sphere of the mean radius would say 111.19."""
    place_m = east_north_m([(44.95, 8.0), (45.05, 8.0)], (45.0, 8.0))
    assert abs((place_m[1] - place_m[0])[1] - 11_113.2) < 0.5


def test_altitude_lengthens_a_short_path():
    """Coazze is 450 m above Torino's plain: over 1 km that is 97 m of path."""
    assert abs(slant_range_m((45.0, 7.3), 700, (45.009, 7.3), 250) - np.hypot(1000.2, 450)) < 0.5
