"""Ellipses on the globe, and their polygons for maps in degrees."""

import math

import numpy as np
import pytest
from heimdall_locate import Ellipse
from heimdall_locate.outlines import ellipse_outline, polygon
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj import Geod

WGS84 = Geod(ellps="WGS84")
latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
axes = st.floats(1, 3e7)
bearings = st.floats(0, 180)


def area_m2(rings):
    """Area of rings of longitudes and latitudes, positive if they run counterclockwise."""
    return sum(WGS84.polygon_area_perimeter(*np.transpose(ring))[0] for ring in rings)


@given(latitudes, longitudes, st.floats(1, 50_000), st.floats(0.05, 1), bearings)
def test_polygon_has_the_area_of_its_ellipse(latitude, longitude, major, share, bearing):
    """An ellipse drawn too small or turned inside out is a wrong claim."""
    assume(abs(latitude) < 89)
    ellipse = Ellipse(major, share * major, bearing)
    rings = polygon(ellipse_outline(latitude, longitude, ellipse))
    # A polygon of 72 corners is 0.13 % smaller than its ellipse.
    expected = math.pi * major**2 * share * (72 / math.tau * math.sin(math.tau / 72))
    assert area_m2(rings) == pytest.approx(expected, rel=2e-3)


@given(latitudes, longitudes, axes, st.floats(0.01, 1), bearings)
def test_any_ellipse_is_valid_geojson(latitude, longitude, major, share, bearing):
    """An answer that nothing is known must be drawn too, without an exception."""
    rings = polygon(ellipse_outline(latitude, longitude, Ellipse(major, share * major, bearing)))
    for ring in rings:
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        x, y = np.transpose(ring)
        assert np.abs(x).max() <= 180 + 1e-9
        assert np.abs(y).max() <= 90 + 1e-9
        x, y = x - x[0], y - y[0]
        assert (np.diff(x) * (y[1:] + y[:-1])).sum() < 0, "counterclockwise"


@given(longitudes, st.floats(1_000, 500_000), st.sampled_from([-1, 1]))
def test_a_shape_around_a_pole_holds_it(longitude, radius, side):
    """Its rings are closed along the pole, or the shape would be a band beside it."""
    rings = polygon(ellipse_outline(side * 89.999, longitude, Ellipse(radius, radius, 0.0)))
    assert side * max(side * y for ring in rings for _, y in ring) == side * 90
    assert {abs(x) for ring in rings for x, y in ring if abs(y) == 90} >= {180}


def test_a_shape_across_the_antimeridian_is_cut_there():
    """RFC 7946, section 3.1.9: uncut, it is drawn around the whole world."""
    rings = polygon(ellipse_outline(-17.5, 179.7, Ellipse(110_000, 40_000, 75.0)))
    assert len(rings) == 2
    for ring in rings:
        assert np.ptp([x for x, _ in ring]) < 5
        assert 180 in {abs(x) for x, _ in ring}
