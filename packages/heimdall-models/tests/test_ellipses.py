"""Ellipses that tilt."""

import numpy as np
import torch
from heimdall_models.ellipses import (
    covariance_of,
    mahalanobis_squared,
    precision_of,
    sigma_and_correlation,
    stretched,
)
from hypothesis import given
from hypothesis import strategies as st

sigmas = st.floats(1e-3, 1e3)
tilts = st.floats(-0.99, 0.99)
changes = st.floats(-1.5, 1.5)


@given(sigmas, sigmas, tilts)
def test_an_ellipse_survives_the_round_trip(east, north, tilt):
    """Sigmas and correlation say all that a covariance says."""
    sigma = torch.tensor([[east, north]], dtype=torch.float64)
    found, correlation = sigma_and_correlation(covariance_of(sigma, torch.tensor([tilt])))
    assert torch.allclose(found, sigma)
    assert abs(correlation.item() - tilt) < 1e-6


@given(sigmas, sigmas, tilts, st.floats(-10, 10), st.floats(-10, 10))
def test_distance_is_the_quadratic_form(east, north, tilt, d_east, d_north):
    """The oracle is the inverse matrix."""
    sigma = torch.tensor([[east, north]], dtype=torch.float64)
    error = torch.tensor([[d_east * east, d_north * north]], dtype=torch.float64)
    matrix = np.array(
        [[east**2, tilt * east * north], [tilt * east * north, north**2]], dtype=np.float64
    )
    wanted = error.numpy()[0] @ np.linalg.solve(matrix, error.numpy()[0])
    tilts_ = torch.tensor([tilt], dtype=torch.float64)
    assert np.isclose(mahalanobis_squared(error, sigma, tilts_).item(), wanted, rtol=1e-6)


@given(sigmas, sigmas, tilts)
def test_precision_is_the_covariance_s_inverse(east, north, tilt):
    """What is known adds up in precisions, and what is said is a covariance."""
    sigma, tilt = torch.tensor([east, north], dtype=torch.float64), torch.tensor(tilt).double()
    ee, en, nn = precision_of(sigma, tilt).tolist()
    wide, both, high = covariance_of(sigma, tilt).tolist()
    product = np.array([[ee, en], [en, nn]]) @ np.array([[wide, both], [both, high]])
    assert np.allclose(np.diag(product), 1, rtol=1e-6)
    assert abs(product[0, 1] * east / north) < 1e-6
    assert abs(product[1, 0] * north / east) < 1e-6


@given(sigmas, sigmas, tilts, changes, changes, changes)
def test_what_is_stretched_is_a_covariance_again(east, north, tilt, along, shear, across):
    """Whatever the network learns, an ellipse must not become a hyperbola."""
    sigma = torch.tensor([east, north], dtype=torch.float64)
    before = covariance_of(sigma, torch.tensor(tilt, dtype=torch.float64))
    ee, en, nn = stretched(before, *map(torch.tensor, (along, shear, across))).tolist()
    assert ee > 0
    assert ee * nn > en * en


@given(sigmas, sigmas, tilts)
def test_nothing_changes_where_nothing_is_learned(east, north, tilt):
    """A fresh network says what geometry says."""
    sigma = torch.tensor([east, north], dtype=torch.float64)
    before = covariance_of(sigma, torch.tensor(tilt, dtype=torch.float64))
    nothing = torch.zeros(())
    assert torch.allclose(stretched(before, nothing, nothing, nothing), before)
