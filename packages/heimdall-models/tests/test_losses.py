"""The loss: equal to others' implementations, least where it should be, and never a NaN."""

import math

import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.losses import FAR_SIGMAS, SIGMA_FLOOR, gaussian_nll
from hypothesis import given
from hypothesis import strategies as st

plain = st.floats(-10, 10, width=32)
sigmas = st.floats(0.0625, 1, width=32)
anything = st.floats(allow_nan=False, allow_infinity=False, width=32)
tilts = st.floats(-0.99, 0.99)


def pair(value):
    """A tensor `(1, 2)` of one value that wants gradients."""
    return torch.full((1, 2), value, dtype=torch.float32, requires_grad=True)


def upright(position, sigma, target):
    """The loss without correlation."""
    return gaussian_nll(position, sigma, torch.zeros(len(position)), target)


@given(plain, sigmas, st.floats(1.01, 10))
def test_loss_is_least_where_sigma_is_the_error(error, sigma, factor):
    """Claiming more or less certainty than the error warrants must cost."""
    honest = max(abs(error), 0.01)
    least = upright(pair(0.0), pair(honest), pair(honest))
    for claimed in (honest * factor, max(honest / factor, 2e-3)):
        assert upright(pair(0.0), pair(claimed), pair(honest)) > least


@given(anything, anything, anything, st.floats(-1, 1))
def test_gradients_are_finite_for_any_finite_input(position, sigma, target, tilt):
    """One absurd label must not turn all weights into NaN."""
    inputs = [pair(position), pair(sigma), torch.tensor([tilt], requires_grad=True), pair(target)]
    loss = gaussian_nll(*inputs)
    loss.backward()
    assert loss.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@given(anything, anything)
def test_loss_is_never_below_the_floor_s_optimum(position, sigma):
    """No network may win by claiming to be surer than the floor."""
    least = math.log(SIGMA_FLOOR) + math.log(2 * math.pi) / 2
    assert upright(pair(position), pair(sigma), pair(position)).item() >= least - 1e-5


@given(st.floats(1, 1e30), sigmas, tilts)
def test_far_errors_still_cost_more_the_farther_they_are(error, sigma, tilt):
    """The tail that keeps gradients finite must not reward running away."""
    error = error * FAR_SIGMAS
    near, far = (
        gaussian_nll(pair(0.0), pair(sigma), torch.tensor([tilt]), pair(target))
        for target in (error, error * 2)
    )
    assert far > near


@given(sigmas)
def test_the_tail_goes_on_where_the_square_ends(sigma):
    """A step in the loss would be a place where training gets stuck."""
    edge = sigma * FAR_SIGMAS
    inside, outside = (
        upright(pair(0.0), pair(sigma), pair(edge * factor)) for factor in (0.999, 1.001)
    )
    # One step of the square: the derivative z dz of z^2 / 2.
    assert (outside - inside).item() == pytest.approx(0.002 * FAR_SIGMAS**2, rel=0.05)


@given(st.lists(st.tuples(plain, sigmas, plain), min_size=1, max_size=20))
def test_loss_is_torch_s(rows):
    """Another implementation agrees, constant included, so figures compare."""
    position, sigma, target = torch.tensor(rows).T.unsqueeze(-1).expand(-1, -1, 2)
    ours = upright(position, sigma, target)
    torchs = torch.nn.GaussianNLLLoss(full=True)(position, target, sigma.square())
    # Where errors reach 1000 sigmas the loss is 5e5 and float32 keeps seven digits of it.
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 10), st.floats(0.01, 10), tilts)
def test_a_tilted_ellipse_has_torch_s_likelihood(east, north, sigma_east, sigma_north, tilt):
    """Half of MultivariateNormal's, because figures are per axis."""
    sigma = torch.tensor([[sigma_east, sigma_north]], dtype=torch.float64)
    error = torch.tensor([[east, north]], dtype=torch.float64) * sigma
    off = tilt * sigma_east * sigma_north
    matrix = torch.tensor([[sigma_east**2, off], [off, sigma_north**2]], dtype=torch.float64)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(2).double(), matrix)
    found = gaussian_nll(torch.zeros(1, 2), sigma, torch.tensor([tilt]).double(), error)
    assert found.item() == pytest.approx(-gaussian.log_prob(error).item() / 2, rel=1e-3, abs=1e-3)


def test_gradients_are_those_of_finite_differences():
    """Formula and autograd agree near and far, on both sides of the tail's start."""
    sigma = torch.tensor([[0.5, 0.02], [0.01, 0.01]], dtype=torch.float32)
    target = torch.tensor([[0.3, 0.3], [30.0, 30.0]])
    position = torch.zeros(2, 2, requires_grad=True)
    upright(position, sigma, target).backward()
    error = target / sigma
    slope = torch.where(error > FAR_SIGMAS, FAR_SIGMAS**2 / error, error) / sigma
    torch.testing.assert_close(position.grad, -slope / 4)


@pytest.mark.parametrize("error", [0.0, 0.5, 999.0, 2_000.0, 5e4])
def test_the_gradient_of_sigma_is_that_of_the_formula(error):
    """By hand: z^2 / 2 + log sigma, and F^2 (1 / 2 + log(z / F)) + log sigma far away."""
    sigma = torch.full((1, 2), 0.25, requires_grad=True)
    upright(torch.zeros(1, 2), sigma, torch.full((1, 2), error * 0.25)).backward()
    slope = (1 - min(error, FAR_SIGMAS) ** 2) / 0.25
    torch.testing.assert_close(sigma.grad, torch.full((1, 2), slope / 2))


@pytest.mark.parametrize(
    ("error", "square"),
    [(999.0, 999.0**2 / 2), (2_000.0, 1e6 * (0.5 + math.log(2))), (-5e4, 1e6 * 4.412023)],
)
def test_the_square_turns_into_a_logarithm_at_a_thousand_sigmas(error, square):
    """By hand, with sigma 2: value and slope continue, or training would jump."""
    loss = upright(pair(0.0), pair(2.0), pair(2 * error)).item()
    assert loss == pytest.approx(square + math.log(2) + math.log(2 * math.pi) / 2, rel=1e-6)


def test_an_error_along_east_shifts_north_by_a_thousand_sigmas_at_most():
    """By hand: correlation 0.6, 5000 sigmas east; north is 600 sigmas off, of 0.8 each."""
    sigma, target = torch.tensor([[1.0, 3.0]]), torch.tensor([[5_000.0, 0.0]])
    loss = gaussian_nll(torch.zeros(1, 2), sigma, torch.tensor([0.6]), target).item()
    squares = 1e6 * (0.5 + math.log(5)) + (600 / 0.8) ** 2 / 2
    logs = math.log(3 * 0.8)
    assert loss == pytest.approx((squares + logs + math.log(2 * math.pi)) / 2, rel=1e-6)


@pytest.mark.parametrize(("tilt", "limit"), [(1.0, 0.999), (-1.0, -0.999), (0.9995, 0.999)])
def test_a_correlation_counts_up_to_its_limit(tilt, limit):
    """An ellipse without width has no likelihood; below the limit it is as it is."""
    target = torch.tensor([[0.3, -0.4]])
    found, expected, wider = (
        gaussian_nll(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([each]), target)
        for each in (tilt, limit, 0.998 * limit)
    )
    assert found == expected
    assert found != wider


def test_a_sigma_counts_from_the_floor_on():
    """Exactly the floor, and not a thousand times it."""
    below, at, above = (upright(pair(0.0), pair(s), pair(0.001)) for s in (0.0, 1e-3, 2e-3))
    assert below == at
    assert at != above


@pytest.mark.parametrize("wrong", range(4))
def test_shapes_that_differ_are_refused(wrong):
    """A broadcast would train on nonsense."""
    parts = [torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3), torch.ones(3, 2)]
    parts[wrong] = parts[wrong][:1]
    with pytest.raises(ModelError, match=r"\(1,"):
        gaussian_nll(*parts)
