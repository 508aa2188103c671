"""The loss: equal to what others computed, least where it should be, and never a NaN."""

import math

import pytest
import torch
from heimdall_models import GaussianNLLLoss, ModelError
from heimdall_models.losses import (
    FAR_SIGMAS,
    SIGMA_FLOOR,
    BetaNLLLoss,
    CorrelatedGaussianNLLLoss,
)
from hypothesis import given
from hypothesis import strategies as st

plain = st.floats(-10, 10, width=32)
sigmas = st.floats(0.0625, 1, width=32)
anything = st.floats(allow_nan=False, allow_infinity=False, width=32)


def column(*values):
    """A tensor `(1, n)` that wants gradients."""
    return torch.tensor([values], dtype=torch.float32, requires_grad=True)


@given(plain, sigmas, st.floats(1.01, 10))
def test_loss_is_least_where_sigma_is_the_error(error, sigma, factor):
    """Claiming more or less certainty than the error warrants must cost."""
    honest = max(abs(error), 0.01)
    zero, target = column(0.0), column(honest)
    least = GaussianNLLLoss()(zero, column(honest), target)
    for claimed in (honest * factor, max(honest / factor, 2e-3)):
        assert GaussianNLLLoss()(zero, column(claimed), target) > least


@given(anything, anything, anything)
def test_gradients_are_finite_for_any_finite_input(position, sigma, target):
    """One diverged batch must not fill the weights with NaN."""
    inputs = column(position), column(sigma), column(target)
    loss = GaussianNLLLoss()(*inputs)
    loss.backward()
    assert loss.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@given(anything, anything)
def test_loss_is_never_below_the_floor_s_optimum(position, sigma):
    """No network may win by claiming to be surer than the floor."""
    loss = GaussianNLLLoss()(column(position), column(sigma), column(position))
    least = math.log(SIGMA_FLOOR) + math.log(2 * math.pi) / 2
    assert loss.item() >= least - 1e-5


@given(st.floats(1, 1e30), sigmas)
def test_far_errors_still_cost_more_the_farther_they_are(error, sigma):
    """The tail that keeps gradients finite must not reward running away."""
    error = error * FAR_SIGMAS
    near = GaussianNLLLoss()(column(0.0), column(sigma), column(error))
    far = GaussianNLLLoss()(column(0.0), column(sigma), column(error * 2))
    assert far > near


@given(st.lists(st.tuples(plain, sigmas, plain), min_size=1, max_size=20))
def test_loss_is_torch_s(rows):
    """Two other implementations agree, constant included, so figures compare."""
    position, sigma, target = torch.tensor(rows).T.unsqueeze(-1)
    ours = GaussianNLLLoss()(position, sigma, target)
    torchs = torch.nn.GaussianNLLLoss(full=True)(position, target, sigma.square())
    normal = -torch.distributions.Normal(position, sigma).log_prob(target).mean()
    # Where errors reach 1000 sigmas the loss is 5e5 and float32 keeps seven digits of it.
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, normal, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    """Formula and autograd agree near and far, on both sides of the tail's start."""
    sigma = torch.tensor([[0.5, 0.02, 0.01]], dtype=torch.float32)
    target = torch.tensor([[0.3, 0.3, 30.0]])
    position = torch.zeros(1, 3, requires_grad=True)
    GaussianNLLLoss()(position, sigma, target).backward()
    error = target / sigma
    slope = torch.where(error > FAR_SIGMAS, FAR_SIGMAS**2 / error, error) / sigma
    torch.testing.assert_close(position.grad, -slope / 3)


def test_a_unit_gaussian_at_its_middle_costs_the_constant():
    """Worked by hand: log(1) + 0 + log(2 pi) / 2."""
    loss = GaussianNLLLoss()(column(2.0), column(1.0), column(2.0))
    assert loss.item() == pytest.approx(0.9189385)


def test_shapes_that_differ_are_named():
    """Broadcasting (batch, 2) against (batch,) would train on nonsense."""
    with pytest.raises(ModelError, match=r"positions \(4, 2\), sigmas \(4, 2\) and targets \(4,\)"):
        GaussianNLLLoss()(torch.zeros(4, 2), torch.ones(4, 2), torch.zeros(4))


tilts = st.floats(-0.99, 0.99)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 10), st.floats(0.01, 10), tilts)
def test_a_tilted_ellipse_has_torchs_likelihood(east, north, sigma_east, sigma_north, tilt):
    """Half of MultivariateNormal's, because figures are per axis."""
    sigma = torch.tensor([[sigma_east, sigma_north]], dtype=torch.float64)
    error = torch.tensor([[east, north]], dtype=torch.float64) * sigma
    off = tilt * sigma_east * sigma_north
    matrix = torch.tensor([[sigma_east**2, off], [off, sigma_north**2]], dtype=torch.float64)
    wanted = -torch.distributions.MultivariateNormal(torch.zeros(2).double(), matrix).log_prob(
        error
    )
    found = CorrelatedGaussianNLLLoss()(
        torch.zeros(1, 2), sigma, torch.tensor([tilt], dtype=torch.float64), error
    )
    assert found.item() == pytest.approx(wanted.item() / 2, rel=1e-3, abs=1e-3)


@given(anything, anything, anything, st.floats(-1, 1))
def test_tilted_ellipses_have_finite_gradients_for_any_finite_input(position, sigma, target, tilt):
    """One absurd label must not turn all weights into NaN."""
    inputs = [
        torch.tensor([[position, 0.0]], requires_grad=True),
        torch.tensor([[abs(sigma), 1.0]], requires_grad=True),
        torch.tensor([tilt], requires_grad=True),
    ]
    loss = CorrelatedGaussianNLLLoss()(*inputs, torch.tensor([[target, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value.grad).all() for value in inputs)


def test_beta_joins_the_likelihood_and_least_squares():
    """With 0 it is the likelihood; with 1 the gradient on the position is the plain error."""
    position = torch.tensor([[0.3, -0.2]], requires_grad=True)
    sigma, target = torch.tensor([[0.5, 2.0]]), torch.tensor([[0.0, 0.4]])
    plain = GaussianNLLLoss()(position, sigma, target)
    assert BetaNLLLoss(0.0)(position, sigma, target).item() == pytest.approx(plain.item())
    BetaNLLLoss(1.0)(position, sigma, target).backward()
    assert torch.allclose(position.grad, (position - target).detach() / 2)
    with pytest.raises(ModelError, match=r"beta is 1\.5"):
        BetaNLLLoss(1.5)


def test_correlations_of_another_shape_are_refused():
    """A broadcast would be a silent mistake."""
    two = torch.ones(3, 2)
    with pytest.raises(ModelError, match="correlations"):
        CorrelatedGaussianNLLLoss()(two, two, torch.zeros(2), two)
