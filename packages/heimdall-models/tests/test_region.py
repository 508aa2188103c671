"""The tangent plane: exact both ways, and refused where it means nothing."""

import re

import numpy as np
import pytest
from heimdall_models import ModelError, Region
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

centres = st.builds(
    Region,
    latitude_deg=st.floats(-85, 85),
    longitude_deg=st.floats(-180, 180),
    scale_m=st.floats(1e3, 5e5),
)
units = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(np.array)


@given(centres, units)
def test_there_and_back_is_the_same_point(region, point):
    """Training goes one way and serving the other; a millimetre lost is lost twice."""
    returned = region.to_plane(region.to_degrees(point))
    assert np.abs(returned - point).max() * region.scale_m < 1e-6


@given(centres, units)
def test_the_plane_is_proj_s_orthographic_one(region, point):
    """PROJ has the same projection on the ellipsoid, written by others."""
    proj = Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step "
        f"+proj=ortho +ellps=WGS84 +lat_0={region.latitude_deg!r} +lon_0={region.longitude_deg!r}"
    )
    position = region.to_degrees(point)
    metres = np.array(proj.transform(*position[::-1]))
    assert np.abs(metres - point * region.scale_m).max() < 1e-5


@given(st.floats(-60, 60), st.floats(-180, 180), st.lists(units, min_size=1, max_size=9))
def test_a_region_around_points_holds_them(latitude, longitude, offsets):
    """A target outside of it would have no bound; no region reaches around the Earth (Fiji)."""
    points = np.array([[latitude, longitude]]) + np.array(offsets)
    points[:, 1] = (points[:, 1] + 180) % 360 - 180
    region = Region.around(points[:, 0], points[:, 1], margin=0.01)
    assert np.abs(region.to_plane(points)).max() <= 1
    assert region.scale_m < 1.2e5


@given(st.floats(-60, 60), st.floats(-170, 170), st.floats(1e3, 3e5), st.floats(0.01, 1))
def test_east_is_first_and_north_second(latitude, longitude, scale_m, step):
    """Swapped axes train just as well and put every ellipse on its side."""
    region = Region(latitude, longitude, scale_m)
    assert region.to_degrees([step, 0])[1] > longitude
    assert region.to_degrees([0, step])[0] > latitude


@given(centres)
def test_json_brings_back_the_same_region(region):
    """The model file and the checkpoint carry the region as text."""
    assert Region.from_json(region.to_json()) == region


@given(centres, st.floats(6.4e6, 1e9), st.floats(0, 7))
def test_beyond_the_limb_there_is_no_position(region, away_m, azimuth):
    """A plausible position for an impossible output would be a lie."""
    point = away_m / region.scale_m * np.array([np.sin(azimuth), np.cos(azimuth)])
    assert np.isnan(region.to_degrees(point)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region(89.0, 0.0, 1e4), "latitude 89.0000: too near a pole"),
        (lambda: Region(0.0, 181.0, 1e4), "longitude_deg=181.0"),
        (lambda: Region(0.0, 0.0, 9e5), "scale 900000 m: a plane serves .* split a larger area"),
        (lambda: Region(float("nan"), 0.0, 1e4), "latitude_deg=nan"),
        (lambda: Region.around([], []), "at least one; got 0 and 0"),
        (lambda: Region.around([0.0, 1.0], [0.0]), "got 2 and 1"),
        (lambda: Region.around([0.0, 60.0], [0.0, 0.0]), r"is \d+ km from the region's centre"),
        (lambda: Region.around([95.0], [0.0]), r"\(95.0000, 0.0000\) is not a latitude"),
        (lambda: Region.around([88.0], [0.0]), "near a pole"),
        (lambda: Region(0.0, 0.0, 1e4).to_plane([1.0, 2.0, 3.0]), r"got \(3,\)"),
        *(
            (lambda text=text: Region.from_json(text), "is not a region")
            for text in (
                "{",
                '{"latitude_deg": 1}',
                '{"latitude_deg": "a", "longitude_deg": 0, "scale_m": 9}',
                f'{{"latitude_deg": 1{"0" * 400}, "longitude_deg": 0, "scale_m": 9}}',
                "[" * 10**5,
                "9" * 5000,
            )
        ),
    ],
)
def test_a_region_that_no_plane_serves_is_refused(make, message):
    """Each message names the value that came and what would do."""
    with pytest.raises(ModelError, match=message):
        make()


@given(st.floats(-60, 60), st.floats(40, 320))
def test_a_far_position_is_refused_by_name(latitude, turn):
    """One mistyped longitude must not become one very large target."""
    longitude = (turn + 8.0 + 180) % 360 - 180
    with pytest.raises(ModelError, match=re.escape(f"({latitude:.4f}, {longitude:.4f})")):
        Region(latitude, 8.0, 9e4).to_plane([[latitude, 8.0], [latitude, longitude]])


@given(centres, units)
def test_the_ellipsoid_falls_below_the_plane_as_proj_says(region, point):
    """East, north and up of PROJ's topocentric frame, written by others."""
    latitude, longitude = region.to_degrees(point)
    proj = Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart "
        f"+ellps=WGS84 +step +proj=topocentric +ellps=WGS84 +lat_0={region.latitude_deg!r} "
        f"+lon_0={region.longitude_deg!r}"
    )
    east_m, north_m, up_m = proj.transform(longitude, latitude, 0.0)
    assert np.abs(np.array([east_m, north_m]) - point * region.scale_m).max() < 1e-5
    assert region.fall_m(*(point * region.scale_m)) == pytest.approx(-up_m, abs=1e-5)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((85.0, 0.0, 1e4), (85.001, 0.0, 1e4)),
        ((-85.0, 0.0, 1e4), (-85.001, 0.0, 1e4)),
        ((0.0, 180.0, 1e4), (0.0, 180.001, 1e4)),
        ((0.0, -180.0, 1e4), (0.0, -180.001, 1e4)),
        ((0.0, 0.0, 1_000.0), (0.0, 0.0, 999.0)),
        ((0.0, 0.0, 500_000.0), (0.0, 0.0, 500_001.0)),
    ],
)
def test_a_region_is_accepted_up_to_its_limits(inside, outside):
    """A limit that is off by one refuses a harbour, or accepts a plane that does not fit."""
    Region(*inside)
    with pytest.raises(ModelError, match=r"region|Region"):
        Region(*outside)


def test_a_plane_serves_1000_km():
    """By hand: chords of the equator of 999 and 1001 km."""
    region = Region(0.0, 0.0, 1e5)
    near, far = (np.degrees(2 * np.arcsin(chord / 2 / 6_378_137.0)) for chord in (999e3, 1001e3))
    assert region.to_plane([0.0, near])[0] == pytest.approx(9.96, abs=0.01)
    with pytest.raises(ModelError, match="is 1001 km from the region's centre"):
        region.to_plane([[0.0, near], [0.0, far]])


@given(
    st.lists(st.tuples(st.floats(-60, 60), st.floats(-2, 2)), min_size=1, max_size=9),
    st.floats(-180, 180) | st.floats(179, 180),
)
def test_a_turned_earth_has_the_same_plane(points, turn_deg):
    """Training and every baseline compute in it, so Fiji is as good a place as Piedmont."""
    still = np.array([(46 + north / 60, east) for north, east in points])
    turned = np.stack([still[:, 0], (still[:, 1] + turn_deg + 180) % 360 - 180], axis=1)
    one, other = (Region.around(*each.T) for each in (still, turned))
    moved_deg = other.longitude_deg - one.longitude_deg - turn_deg
    assert abs((moved_deg + 180) % 360 - 180) < 1e-9
    apart_m = one.to_plane(still) * one.scale_m - other.to_plane(turned) * other.scale_m
    assert np.abs(apart_m).max() < 1e-3


def test_a_region_around_points_by_hand():
    """In their middle, 5 % wider than the farthest; of one point, a kilometre."""
    region = Region.around([10.0, 12.0, 11.0], [179.0, -179.0, 179.5])
    assert (region.latitude_deg, region.longitude_deg) == (11.0, -180.0)
    centred = Region(11.0, -180.0, 1e3)
    reach = 1e3 * np.abs(centred.to_plane([[10.0, 179.0], [12.0, -179.0]])).max()
    assert region.scale_m == pytest.approx(1.05 * reach)
    assert Region.around([10.0], [20.0]) == Region(10.0, 20.0, 1_000.0)


@given(centres, units)
def test_longitudes_are_from_minus_180_to_180(region, point):
    """A map that gets 181 degrees draws it on the other side of the world, or not at all."""
    assert -180 - 1e-9 <= region.to_degrees(point)[1] < 180


@pytest.mark.parametrize(
    "text",
    [
        '{"latitude_deg": 1, "longitude_deg": 0, "scale_m": 9000, "unit": 1}',
        '{"latitude_deg": 1, "longitude_deg": null, "scale_m": 9000}',
        "[1, 2, 9000]",
        "null",
    ],
)
def test_json_of_anything_else_is_no_region(text):
    """The message quotes the text, and the names that are expected."""
    wanted = re.escape(f"{text!r} is not a region") + ".*'latitude_deg', 'longitude_deg', 'scale_m'"
    with pytest.raises(ModelError, match=wanted):
        Region.from_json(text)


@pytest.mark.parametrize("position", [[91.0, 0.0], [-90.1, 0.0], [np.nan, 0.0], [0.0, np.inf]])
def test_a_place_that_is_not_on_earth_has_no_plane(position):
    """A pole itself is on Earth, and so is any longitude."""
    region = Region(85.0, 0.0, 5e5)
    region.to_plane([[90.0, 0.0], [85.0, 360.0]])
    with pytest.raises(ModelError, match="is not a latitude and longitude"):
        region.to_plane([[85.0, 0.0], position])
