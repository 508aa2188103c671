"""Ellipses, densities and regions of a posterior that is known."""

import json

import numpy as np
import pytest
from heimdall_locate import Candidate, LocateError, from_gaussians
from heimdall_locate.sites import moved_deg
from hypothesis import given, settings
from hypothesis import strategies as st

SIGMAS_M = st.floats(20, 20_000)


def gaussian(east_m, north_m, correlation=0.0, *, at=(45.0, 9.0), probability=1.0):
    """One component."""
    both = correlation * east_m * north_m
    return Candidate(probability, *at, ((east_m**2, both), (both, north_m**2)))


@given(SIGMAS_M, SIGMAS_M, st.floats(-0.95, 0.95), st.floats(0.05, 0.99))
def test_an_ellipse_holds_its_probability(east_m, north_m, correlation, probability):
    """It is what users draw; Rayleigh's distribution tells its size."""
    position = from_gaussians([gaussian(east_m, north_m, correlation)])
    ellipse = position.ellipse(probability)
    area = np.pi * ellipse.semi_major_m * ellipse.semi_minor_m
    determinant = east_m * north_m * np.sqrt(1 - correlation**2)
    expected = np.pi * determinant * -2 * np.log1p(-probability)
    assert area == pytest.approx(expected, rel=1e-6)
    assert ellipse.semi_major_m >= ellipse.semi_minor_m


@given(SIGMAS_M, SIGMAS_M, st.floats(0.2, 3), st.floats(0, 6.28))
def test_the_smallest_region_is_that_of_a_gaussian(east_m, north_m, radius, angle):
    """Calibration is judged by it; for a Gaussian it is exact on paper."""
    position = from_gaussians([gaussian(east_m, north_m)])
    there = moved_deg(45.0, 9.0, radius * east_m * np.cos(angle), radius * north_m * np.sin(angle))
    assert position.smallest_region(*there) == pytest.approx(1 - np.exp(-(radius**2) / 2), abs=0.05)


def test_the_bearing_is_clockwise_from_north():
    """Users read it off a compass."""
    assert from_gaussians([gaussian(100, 900)]).ellipse_68.bearing_deg % 180 == pytest.approx(0)
    assert from_gaussians([gaussian(900, 100)]).ellipse_68.bearing_deg == pytest.approx(90)
    assert 0 < from_gaussians([gaussian(500, 500, 0.8)]).ellipse_68.bearing_deg < 90


@settings(max_examples=10)
@given(st.floats(0.05, 0.95))
def test_a_mixture_integrates_to_one(share):
    """Densities are compared across methods in nats."""
    position = from_gaussians(
        [gaussian(300, 500, probability=share), gaussian(400, 200, at=(45.1, 9.1), probability=1)]
    )
    axis_m = np.linspace(-20_000, 20_000, 401)
    grid = moved_deg(45.05, 9.05, *(axis.ravel() for axis in np.meshgrid(axis_m, axis_m)))
    cell_m2 = (axis_m[1] - axis_m[0]) ** 2
    assert np.exp(position.log_density(*grid)).sum() * cell_m2 == pytest.approx(1, abs=0.02)
    assert position.cells.probability.sum() == pytest.approx(1)
    assert position.candidates[0].probability >= position.candidates[1].probability


def test_two_candidates_do_not_share_an_ellipse():
    """An ellipse over both would say that the transmitter may be between them."""
    two = from_gaussians(
        [gaussian(300, 300, probability=0.6), gaussian(300, 300, at=(46.0, 9.0), probability=0.4)]
    )
    assert two.ellipse_95.semi_major_m == pytest.approx(300 * 2.448, rel=0.1)


def test_the_dictionary_is_json_with_the_contracts_keys():
    """Other systems read position.json."""
    found = json.loads(json.dumps(from_gaussians([gaussian(300, 200)]).to_dict()))
    assert list(found) == [
        "latitude_deg",
        "longitude_deg",
        "ellipse_68",
        "ellipse_95",
        "candidates",
        "receivers",
        "frequency_hz",
        "propagation",
        "termination",
    ]


@pytest.mark.parametrize(
    ("candidate", "value"),
    [
        (gaussian(0.0, 100.0), "0.0"),
        (gaussian(100.0, 100.0, probability=-1.0), "-1.0"),
        (gaussian(float("nan"), 1.0), "nan"),
    ],
)
def test_a_component_without_a_density_is_refused(candidate, value):
    """A network may answer anything."""
    with pytest.raises(LocateError, match=value):
        from_gaussians([candidate])
