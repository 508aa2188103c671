"""The map's plane against PROJ, and its frame and graticule."""

from __future__ import annotations

import numpy as np
import pytest
from heimdall_evaluation.report.map import emptiest_side
from heimdall_evaluation.report.projection import Frame, graticule, outline_km, round_step, to_km
from heimdall_models import Region
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Proj

REGION = Region(44.95, 8.2, 95_000.0)


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_point_on_earth_has_a_place(latitude, longitude):
    """A network may answer anything, and the map must still be drawn."""
    assert np.isfinite(to_km(REGION, [(latitude, longitude)])).all()


@given(st.lists(st.tuples(st.floats(43, 47), st.floats(5, 11)), min_size=1, max_size=5))
def test_the_plane_is_projs_azimuthal_equidistant(position_deg):
    """Distances on the map are read off with its scale bar."""
    proj = Proj(proj="aeqd", lat_0=44.95, lon_0=8.2, ellps="WGS84")
    latitudes, longitudes = np.transpose(position_deg)
    expected = np.stack(proj(longitudes, latitudes), axis=1) / 1000
    assert to_km(REGION, position_deg) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-400, 400), st.floats(-400, 400)), min_size=1, max_size=9))
def test_a_frame_holds_its_points_in_a_shape_that_fits_a_page(points_km):
    """Transmitters along one road must not make a picture one line high."""
    frame = Frame.around(np.array(points_km), (0.5, 0.8))
    assert frame.holds(points_km).all()
    assert 0.499 <= frame.height / frame.width <= 0.801


def test_the_graticule_is_labelled_in_round_degrees():
    """Worked by hand for 150 km across northwest Italy."""
    labels = [label for label, _, _ in graticule(REGION, Frame(-75, 75, -60, 60))]
    assert {"7.5\N{DEGREE SIGN}\N{NO-BREAK SPACE}E", "45.0\N{DEGREE SIGN}\N{NO-BREAK SPACE}N"} <= {
        *labels
    }


@given(st.floats(-60, 60), st.floats(-180, 180), st.floats(10_000, 200_000))
def test_the_region_is_drawn_at_its_scale(latitude, longitude, scale_m):
    """The dashed border is where the network's units are one."""
    border = outline_km(Region(latitude, longitude, scale_m))
    assert np.abs(border).max() == pytest.approx(scale_m / 1000, rel=0.01)


@given(st.floats(1, 60), st.floats(1, 170), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_signs_of_degrees_are_letters(latitude, longitude, north, east):
    """A minus before a longitude is read as a dash."""
    region = Region(north * latitude, east * longitude, 50_000.0)
    labels = [label for label, _, _ in graticule(region, Frame(-20, 20, -20, 20))]
    assert not any(label.startswith(("-", "\N{MINUS SIGN}")) for label in labels)
    assert {label[-1] for label in labels} <= {"N" if north > 0 else "S", "E" if east > 0 else "W"}


@given(st.floats(0.01, 10))
def test_steps_are_round(wanted):
    """A grid of 0.37 degrees is hard to read."""
    step = round_step(wanted)
    assert f"{step:e}"[:8] in ("1.000000", "2.000000", "5.000000")
    assert 0.6 < step / wanted < 1.7


@given(
    st.floats(-29, 29),
    st.floats(-29, 29),
    st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), max_size=8),
)
def test_a_label_hides_as_little_as_it_can(east, north, marks):
    """A receiver's name hid the very transmitter that someone was looking for."""
    frame, size, place = Frame(-50, 50, -50, 50), np.array([20.0, 4.0]), np.array([east, north])
    points = np.array(marks).reshape(-1, 2)
    hidden = {
        side: (np.abs(points - (place + np.array([12.0, 4.0]) * side)) <= size / 2)
        .all(axis=1)
        .sum()
        for side in ((1, 0), (-1, 0), (0, -1), (0, 1))
    }
    side = emptiest_side(place, size, frame, points)
    assert hidden[side] == min(hidden.values())


def test_a_label_is_not_cut_by_the_edge():
    """Half a station's name is another name."""
    frame, size = Frame(-50, 50, -50, 50), np.array([20.0, 4.0])
    assert emptiest_side(np.array([45.0, 0.0]), size, frame, np.zeros((0, 2))) == (-1, 0)
