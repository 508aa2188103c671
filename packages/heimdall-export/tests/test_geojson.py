"""Estimates on a map."""

import dataclasses
import json

import numpy as np
import pytest
from heimdall_export import Estimate, ExportError
from heimdall_export.serving.geojson import feature_collection
from hypothesis import given
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
)


def rings(geometry):
    """All outlines of a polygon or of several, `(n, 2)` longitudes and latitudes."""
    several = geometry["type"] == "MultiPolygon"
    polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
    return [np.array(ring) for polygon in polygons for ring in polygon]


def test_a_point_and_an_ellipse_come_for_each_estimate():
    """The oracle: distances along the geodesic to the ends of both axes."""
    point, ellipse = feature_collection([HERE], probability=0.95)["features"]
    assert point["geometry"] == {"type": "Point", "coordinates": [8.0, 45.0]}
    assert ellipse["properties"]["probability"] == 0.95
    (ring,) = rings(ellipse["geometry"])
    east, north = ring[ring[:, 0].argmax()], ring[ring[:, 1].argmax()]
    sigmas = np.sqrt(-2 * np.log(0.05))
    assert WGS84.inv(8, 45, *east)[2] == pytest.approx(2_000 * sigmas, rel=1e-4)
    assert WGS84.inv(8, 45, *north)[2] == pytest.approx(500 * sigmas, rel=1e-4)


@given(estimates)
def test_every_outline_is_closed_and_on_the_map(estimate):
    """As RFC 7946 asks; also across the antimeridian."""
    for feature in feature_collection([estimate])["features"][1:]:
        for ring in rings(feature["geometry"]):
            assert (ring[0] == ring[-1]).all()
            assert len(ring) >= 4
            assert (np.abs(ring[:, 0]) <= 180).all()
            # Counterclockwise: the signed area is positive.
            x, y = (ring - ring[0]).T
            assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) >= 0


def test_an_ellipse_across_the_antimeridian_is_cut_there():
    """Fiji: drawn uncut it would circle the world."""
    fiji = Estimate(
        latitude_deg=-17.0, longitude_deg=179.9, sigma_east_m=20_000, sigma_north_m=20_000
    )
    geometry = feature_collection([fiji])["features"][1]["geometry"]
    west, east = rings(geometry)
    assert geometry["type"] == "MultiPolygon"
    assert west[:, 0].max() == 180.0
    assert east[:, 0].min() == -180.0


def test_the_share_inside_the_ellipse_is_the_probability():
    """A thousand draws of what the model claims."""
    draws = np.random.default_rng(0).normal(size=(20_000, 2)) * (2_000, 500)
    _, ellipse = feature_collection([HERE], probability=0.68)["features"]
    (ring,) = rings(ellipse["geometry"])
    axes_m = [WGS84.inv(8, 45, *ring[ring[:, axis].argmax()])[2] for axis in (0, 1)]
    assert np.mean(((draws / axes_m) ** 2).sum(axis=1) <= 1) == pytest.approx(0.68, abs=0.01)


def test_a_tilted_ellipse_points_where_the_errors_lie():
    """By hand: sigmas of 1 km and a correlation of 0.6 are the covariance [[1, .6], [.6, 1]].

    Its eigenvectors are at 45 and 135 degrees, its eigenvalues 1.6 and 0.4 km2: axes of 1.26
    and 0.63 km. So the ellipse points north-east and south-west; a map that mirrors it sends
    the search into the wrong valley.
    """
    probability = 1 - np.exp(-0.5)  # one standard deviation
    tilted = Estimate(
        latitude_deg=45.0, longitude_deg=8.0, sigma_east_m=1e3, sigma_north_m=1e3, correlation=0.6
    )
    for estimate, bearings in (
        (tilted, (45, 225)),
        (dataclasses.replace(tilted, correlation=-0.6), (135, 315)),
    ):
        _, ellipse = feature_collection([estimate], probability)["features"]
        (ring,) = rings(ellipse["geometry"])
        places = [WGS84.inv(8, 45, *place) for place in ring]
        bearing, _, away_m = max(places, key=lambda place: place[2])
        assert bearing % 360 == pytest.approx(bearings[0], abs=0.1) or (
            bearing % 360 == pytest.approx(bearings[1], abs=0.1)
        )
        assert away_m == pytest.approx(1e3 * np.sqrt(1.6), rel=1e-3)
        assert min(place[2] for place in places) == pytest.approx(1e3 * np.sqrt(0.4), rel=1e-3)


def test_the_share_inside_a_tilted_ellipse_is_the_probability():
    """Oracle: draws of the claimed covariance, made by its Cholesky factor."""
    claim = Estimate(
        latitude_deg=0.0, longitude_deg=0.0, sigma_east_m=3e3, sigma_north_m=800, correlation=-0.9
    )
    covariance = np.array([[3e3**2, -0.9 * 3e3 * 800], [-0.9 * 3e3 * 800, 800**2]])
    draws = np.random.default_rng(0).normal(size=(20_000, 2)) @ np.linalg.cholesky(covariance).T
    _, ellipse = feature_collection([claim], probability=0.68)["features"]
    (ring,) = rings(ellipse["geometry"])
    outline_m = ring * [111_319.49, 110_574.28]  # a degree at the equator, east and north
    inside = _all_left_of(outline_m, draws)
    assert np.mean(inside) == pytest.approx(0.68, abs=0.01)


def _all_left_of(outline, points):
    """Which points are left of every side: inside, as the outline runs counterclockwise."""
    sides = np.diff(outline, axis=0)
    to_points = points[:, None] - outline[:-1]
    return (sides[:, 0] * to_points[..., 1] - sides[:, 1] * to_points[..., 0] >= 0).all(axis=1)


def test_what_times_leave_unexplained_is_told_on_the_map():
    """Whoever looks at the map must see that an answer is out of the ordinary."""
    timed = dataclasses.replace(HERE, correlation=0.5, unexplained=2.5)
    for feature in feature_collection([timed])["features"]:
        assert feature["properties"]["correlation"] == 0.5
        assert feature["properties"]["unexplained"] == 2.5
    assert "unexplained" not in feature_collection([HERE])["features"][0]["properties"]


@pytest.mark.parametrize("correlation", [1.1, -2.0, float("nan")])
def test_what_is_no_correlation_is_refused(correlation):
    """There is no such ellipse."""
    with pytest.raises(ExportError, match=r"the correlation is .*; it must be between -1 and 1"):
        feature_collection([dataclasses.replace(HERE, correlation=correlation)])


def test_it_is_json():
    """Numbers of Python, none of NumPy's."""
    assert json.loads(json.dumps(feature_collection([HERE, HERE])))["type"] == "FeatureCollection"


@pytest.mark.parametrize("probability", [0.0, 1.0, 95, float("nan")])
def test_what_is_no_probability_is_refused(probability):
    """95 for 0.95 is the usual mistake."""
    with pytest.raises(ExportError, match=r"the probability is .*; it must be between 0 and 1"):
        feature_collection([HERE], probability)


def test_an_ellipse_around_a_pole_is_refused():
    """Degrees of longitude mean nothing there."""
    pole = Estimate(latitude_deg=89.99, longitude_deg=0.0, sigma_east_m=9e3, sigma_north_m=9e3)
    with pytest.raises(ExportError, match=r"the ellipse around 89\.99, 0\.00 holds a pole"):
        feature_collection([pole])
