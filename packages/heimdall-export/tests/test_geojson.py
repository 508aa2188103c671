"""Estimates on a map."""

import dataclasses
import json

import numpy as np
import pytest
from heimdall_export import Estimate, ExportError
from heimdall_export.serving.geojson import feature_collection, metres_per_degree
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj import Geod

WGS84 = Geod(ellps="WGS84")
HERE = Estimate(latitude_deg=45.0, longitude_deg=8.0, sigma_east_m=2_000, sigma_north_m=500)

estimates = st.builds(
    Estimate,
    latitude_deg=st.floats(-80, 80),
    longitude_deg=st.floats(-180, 180),
    sigma_east_m=st.floats(1, 30_000),
    sigma_north_m=st.floats(1, 30_000),
    correlation=st.floats(-0.999_999, 0.999_999),
    unexplained=st.none() | st.floats(0, 9),
)
probabilities = st.floats(0.01, 0.99)
not_finite = st.sampled_from([np.nan, np.inf, -np.inf])


def ellipse(estimate, probability=0.95):
    """Outlines of an estimate's ellipse, `(n, 2)` longitudes and latitudes each."""
    geometry = feature_collection([estimate], probability)["features"][1]["geometry"]
    several = geometry["type"] == "MultiPolygon"
    polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
    return [np.array(ring) for polygon in polygons for ring in polygon]


def area(ring):
    """Signed area in square degrees; positive if the ring runs counterclockwise."""
    x, y = (ring - ring[0]).T
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2


@given(estimates, probabilities)
def test_the_outline_is_that_of_the_covariance(estimate, probability):
    """Outside oracle: points all around an ellipse of covariance S have the second moment c S / 2.

    A mirrored or too small ellipse sends the search into the wrong valley.
    """
    here = dataclasses.replace(estimate, longitude_deg=0.0)
    (ring,) = ellipse(here, probability)
    north_m, east_m = metres_per_degree(here.latitude_deg)
    metres = (ring[:-1] - [0.0, here.latitude_deg]) * [east_m, north_m]
    east, north, both = here.sigma_east_m, here.sigma_north_m, here.correlation
    covariance = [[east**2, both * east * north], [both * east * north, north**2]]
    wanted = -np.log1p(-probability) * np.array(covariance)
    assert metres.T @ metres / len(metres) == pytest.approx(
        wanted, rel=1e-6, abs=1e-6 * wanted.max()
    )


@given(st.floats(-89, 89), st.floats(1e-5, 1e-3))
def test_a_degree_has_the_length_of_the_geodesic(latitude_deg, step_deg):
    """Oracle: PROJ's geodesics on the same ellipsoid."""
    north_m, east_m = metres_per_degree(latitude_deg)
    there = WGS84.inv(0, latitude_deg - step_deg / 2, 0, latitude_deg + step_deg / 2)[2]
    assert there == pytest.approx(step_deg * north_m, rel=1e-5)
    assert WGS84.inv(0, latitude_deg, step_deg, latitude_deg)[2] == pytest.approx(
        step_deg * east_m, rel=1e-5
    )


@given(estimates)
def test_every_outline_is_closed_and_on_the_map(estimate):
    """As RFC 7946 asks; also across the antimeridian."""
    for ring in ellipse(estimate):
        assert (ring[0] == ring[-1]).all()
        assert len(ring) >= 4
        assert (np.abs(ring[:, 0]) <= 180).all()
        assert area(ring) >= 0


@given(estimates, st.sampled_from([-1, 1]), st.floats(0, 0.5))
def test_an_ellipse_across_the_antimeridian_is_cut_without_loss(estimate, side, inside_deg):
    """Fiji: drawn uncut it would circle the world."""
    there = dataclasses.replace(estimate, longitude_deg=side * (180 - inside_deg))
    rings = ellipse(there)
    (whole,) = ellipse(dataclasses.replace(estimate, longitude_deg=0.0))
    assert sum(map(area, rings)) == pytest.approx(area(whole), rel=1e-6)
    assume(len(rings) == 2)
    assert {abs(ring[:, 0]).max() for ring in rings} == {180.0}
    assert {np.sign(ring[:, 0].mean()) for ring in rings} == {-1, 1}


@given(st.lists(estimates, max_size=3), probabilities)
def test_a_collection_is_json_with_a_point_and_an_ellipse_each(several, probability):
    """Numbers of Python and none of NumPy's; what is out of the ordinary is there to be seen."""
    found = json.loads(json.dumps(feature_collection(several, probability), allow_nan=False))
    points, ellipses = found["features"][::2], found["features"][1::2]
    for number, (one, point, shape) in enumerate(zip(several, points, ellipses, strict=True)):
        place = [one.longitude_deg, one.latitude_deg]
        assert point["geometry"] == {"type": "Point", "coordinates": place}
        names = ("sigma_east_m", "sigma_north_m", "correlation", "unexplained")
        known = {"estimate": number} | {name: getattr(one, name) for name in names}
        properties = {name: value for name, value in known.items() if value is not None}
        assert point["properties"] == properties
        assert shape["properties"] == properties | {"probability": probability}


def test_a_tilted_ellipse_points_where_the_errors_lie():
    """By hand: sigmas of 1 km and a correlation of 0.6 are the covariance [[1, .6], [.6, 1]].

    Its eigenvectors are at 45 and 135 degrees, its eigenvalues 1.6 and 0.4 km2: axes of 1.26
    and 0.63 km. So the ellipse points north-east and south-west.
    """
    tilted = dataclasses.replace(HERE, sigma_east_m=1e3, sigma_north_m=1e3, correlation=0.6)
    (ring,) = ellipse(tilted, 1 - np.exp(-0.5))  # one standard deviation
    places = [WGS84.inv(8, 45, *place) for place in ring]
    bearing, _, away_m = max(places, key=lambda place: place[2])
    assert bearing % 180 == pytest.approx(45, abs=0.1)
    assert away_m == pytest.approx(1e3 * np.sqrt(1.6), rel=1e-3)
    assert min(place[2] for place in places) == pytest.approx(1e3 * np.sqrt(0.4), rel=1e-3)


@given(st.floats().filter(lambda value: not abs(value) <= 1))
def test_what_is_no_correlation_is_refused(correlation):
    """There is no such ellipse."""
    with pytest.raises(ExportError, match=f"correlation is {correlation!r}".replace("+", r"\+")):
        feature_collection([dataclasses.replace(HERE, correlation=correlation)])


@given(st.floats().filter(lambda value: not 0 < value < 1))
def test_what_is_no_probability_is_refused(probability):
    """95 for 0.95 is the usual mistake."""
    with pytest.raises(ExportError, match=f"probability is {probability!r}".replace("+", r"\+")):
        feature_collection([HERE], probability)


@given(
    st.tuples(st.sampled_from(["latitude_deg", "sigma_east_m", "unexplained"]), not_finite)
    | st.tuples(st.sampled_from(["sigma_east_m", "sigma_north_m"]), st.floats(max_value=-1e-9))
)
def test_what_is_not_finite_or_a_negative_sigma_is_not_drawn(change):
    """GeoJSON has no NaN, and a negative outline would go clockwise, which is a hole."""
    with pytest.raises(ExportError, match=f"cannot draw .*{change[0]}="):
        feature_collection([dataclasses.replace(HERE, **dict([change]))])


@given(estimates, st.sampled_from([-1, 1]), st.floats(0, 1))
def test_an_ellipse_around_a_pole_is_refused(estimate, side, share):
    """Degrees of longitude mean nothing there."""
    latitude_deg = side * (90 - share * estimate.sigma_north_m / 112_000)
    with pytest.raises(ExportError, match=f"around {latitude_deg:.2f}, .* holds a pole"):
        feature_collection([dataclasses.replace(estimate, latitude_deg=latitude_deg)])
