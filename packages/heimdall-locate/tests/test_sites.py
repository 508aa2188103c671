"""Distances and moves on the ellipsoid, against PROJ."""

import numpy as np
import pyproj
import pytest
from heimdall_locate import LocateError, Site
from heimdall_locate.sites import cartesian_m, geodesic_m, moved_deg, offset_m
from hypothesis import assume, given
from hypothesis import strategies as st

WGS84 = pyproj.Geod(ellps="WGS84")
TO_CARTESIAN = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
LATITUDES = st.floats(-89.5, 89.5)
LONGITUDES = st.floats(-180, 180)


@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_a_geodesic_is_as_long_as_projs(latitude, longitude, other_latitude, other_longitude):
    """Delays of ground waves follow from these lengths: 30 m are 0.1 us.

    Lambert's formula fails near the antipode, where nobody is heard by a ground wave.
    """
    expected_m = WGS84.inv(longitude, latitude, other_longitude, other_latitude)[2]
    assume(expected_m < 14e6)
    found_m = geodesic_m(latitude, longitude, other_latitude, other_longitude)
    assert abs(found_m - expected_m) < 0.02 + 4e-6 * expected_m


@given(LATITUDES, LONGITUDES, st.floats(0, 360), st.floats(0, 1e7))
def test_a_move_ends_where_proj_ends(latitude, longitude, bearing_deg, distance_m):
    """Ellipses on maps are drawn with it."""
    bearing = np.radians(bearing_deg)
    moved = moved_deg(
        latitude, longitude, distance_m * np.sin(bearing), distance_m * np.cos(bearing)
    )
    there = WGS84.fwd(longitude, latitude, bearing_deg, distance_m)
    assert WGS84.inv(moved[1], moved[0], there[0], there[1])[2] < 0.01


@given(st.floats(-80, 80), LONGITUDES, st.floats(-3e5, 3e5), st.floats(-3e5, 3e5))
def test_an_offset_undoes_a_move(latitude, longitude, east_m, north_m):
    """Covariances are computed from offsets, across the antimeridian too."""
    there = moved_deg(latitude, longitude, east_m, north_m)
    back = offset_m(latitude, longitude, there)
    assert np.abs(back - [east_m, north_m]).max() < 0.05 + 1e-3 * np.hypot(east_m, north_m)


@given(LATITUDES, LONGITUDES, st.floats(-500, 20_000))
def test_cartesian_coordinates_are_projs(latitude, longitude, altitude_m):
    """Lines of sight are measured between them."""
    expected = TO_CARTESIAN.transform(longitude, latitude, altitude_m)
    assert np.abs(cartesian_m(latitude, longitude, altitude_m) - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("figures", "value"), [((91, 0), "91"), ((0, 181), "181"), ((0, 0, float("nan")), "nan")]
)
def test_a_site_off_the_earth_is_refused(figures, value):
    """A position in radians or swapped coordinates must not be computed with."""
    with pytest.raises(LocateError, match=value):
        Site("Roma", *figures)
