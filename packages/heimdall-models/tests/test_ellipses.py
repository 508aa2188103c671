"""Ellipses that tilt."""

import numpy as np
import torch
from heimdall_models.ellipses import (
    covariance_of,
    cut_to,
    mahalanobis_squared,
    outer,
    precision_of,
    sigma_and_correlation,
    stretched,
)
from hypothesis import example, given
from hypothesis import strategies as st

number = st.floats(-10, 10)
change = st.floats(-1.5, 1.5)


def tensors(*strategies):
    """Float64 tensor of drawn numbers."""
    return st.tuples(*strategies).map(lambda values: torch.tensor(values, dtype=torch.float64))


def pair(*values):
    """The tensor of these numbers, or number."""
    return torch.tensor(values, dtype=torch.float64).squeeze()


sigmas = tensors(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
tilts = tensors(st.floats(-0.99, 0.99)).map(torch.squeeze)


def matrix(parts):
    """Two-by-two matrix of east-east, east-north, north-north."""
    ee, en, nn = parts.tolist()
    return np.array([[ee, en], [en, nn]])


@given(sigmas, tilts)
def test_an_ellipse_survives_the_round_trip(sigma, tilt):
    """Sigmas and correlation say all that a covariance says."""
    found, correlation = sigma_and_correlation(covariance_of(sigma, tilt))
    assert torch.allclose(found, sigma)
    assert torch.allclose(correlation, tilt)


@given(sigmas, tilts, tensors(number, number))
def test_distance_is_the_quadratic_form(sigma, tilt, sigmas_away):
    """The oracle is the inverse matrix."""
    error = sigma * sigmas_away
    wanted = error.numpy() @ np.linalg.solve(matrix(covariance_of(sigma, tilt)), error.numpy())
    assert np.isclose(mahalanobis_squared(error, sigma, tilt).item(), wanted, rtol=1e-6)


@given(sigmas, tilts)
def test_precision_is_the_inverse_of_the_covariance(sigma, tilt):
    """Knowledge adds up in precisions, and is reported as a covariance."""
    product = matrix(precision_of(sigma, tilt)) @ matrix(covariance_of(sigma, tilt))
    east, north = sigma.tolist()
    scale = np.array([[1, east / north], [north / east, 1]])
    assert np.allclose(product * scale, np.eye(2), atol=1e-6)


@given(tensors(number, number))
def test_an_outer_product_is_numpy_s(offset):
    """The spread of solutions about their mean is a sum of these."""
    assert np.array_equal(matrix(outer(offset)), np.outer(offset, offset))


@given(sigmas, tilts, tensors(change, change, change))
def test_a_stretched_covariance_is_a_covariance_again(sigma, tilt, changes):
    """Whatever the network learns, an ellipse must not become a hyperbola; zeros change nothing."""
    before = covariance_of(sigma, tilt)
    ee, en, nn = stretched(before, *changes).tolist()
    assert ee > 0
    assert ee * nn > en * en
    assert torch.allclose(stretched(before, *torch.zeros(3)), before)


@given(sigmas, tilts, sigmas, tilts, tensors(number, number))
@example(pair(0.0625, 971), pair(0), pair(360, 0.03125), pair(0.25), pair(0, 0))
@example(pair(256, 1), pair(0), pair(0.015625, 17), pair(0), pair(0, 1))
def test_a_cut_ellipse_is_in_no_direction_wider_than_either(sigma, tilt, most, lean, direction):
    """What was known before the times is not forgotten because of them."""
    covariance, limit = covariance_of(sigma, tilt), covariance_of(most, lean)
    cut = matrix(cut_to(covariance, precision_of(most, lean)))
    # In units of the limit, so that directions count alike.
    along = (direction / most).numpy()
    for widest in (covariance, limit):
        assert along @ cut @ along <= along @ matrix(widest) @ along * (1 + 1e-6) + 1e-9
    assert np.linalg.eigvalsh(cut).min() > 0


@given(sigmas, tilts, st.floats(0.01, 0.99))
def test_an_ellipse_within_the_limit_is_not_touched(sigma, tilt, share):
    """Models answer as they did wherever they were right."""
    covariance = covariance_of(sigma, tilt)
    assert torch.equal(cut_to(covariance * share, precision_of(sigma, tilt)), covariance * share)
