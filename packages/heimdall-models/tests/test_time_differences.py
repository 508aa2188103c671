"""Weighted least squares on times of arrival."""

import numpy as np
import pytest
import torch
from heimdall_models import ModelError, error_m
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.timing.receivers import ReceiverRanges
from heimdall_models.timing.solver import Gaussian, Problem, centred
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from timing_cases import REGION, SITES, SPEED_IN_AIR_M_S, arrivals, positions_deg, ranges_m


def test_exact_times_give_exact_positions():
    """Geometry alone, from a grid's best point: to the float32 of the arrival times."""
    truth = positions_deg(300)
    found = locate_by_time_differences(arrivals(truth, sigma_us=1e-4), SITES, REGION)
    assert found.converged.all()
    assert error_m(found.position_deg, truth).max() < 3


def test_it_finds_what_scipy_finds():
    """An independent solver of the same problem, with the time of emission as an unknown."""
    truth = positions_deg(12, seed=3)
    rows = arrivals(truth, sigma_us=1.0, seed=4)
    found = locate_by_time_differences(rows, SITES, REGION, clock_error_s=1e-7)

    def left(unknown, times_us):
        position = REGION.to_degrees(unknown[None, :2])
        return 1e6 * ranges_m(position)[0] / SPEED_IN_AIR_M_S + unknown[2] - times_us

    sigma_m = np.sqrt(np.trace(found.covariance_m2, axis1=1, axis2=2))
    for row, ours, start, claimed_m in zip(rows, found.position_deg, truth, sigma_m, strict=True):
        begin = np.append(REGION.to_plane(start), -row[:, 1].mean())
        best = least_squares(
            left, begin, x_scale=[1e-3, 1e-3, 1.0], args=(row[:, 1].astype(float),), xtol=1e-14
        )
        theirs = REGION.to_degrees(best.x[None, :2])
        # That a transmitter is in the region pulls ours, by a small part of what noise does.
        assert error_m(ours[None], theirs)[0] < 0.05 * claimed_m


def test_the_claimed_ellipse_is_the_true_one():
    """Where noise is what it says it is, chi-square has two degrees of freedom."""
    truth = positions_deg(600, seed=1)
    found = locate_by_time_differences(
        arrivals(truth, sigma_us=0.3, seed=2), SITES, REGION, clock_error_s=1e-12
    )
    error = (REGION.to_plane(truth) - REGION.to_plane(found.position_deg)) * REGION.scale_m
    squares = np.einsum("ni,nij,nj->n", error, np.linalg.inv(found.covariance_m2), error)
    assert np.mean(squares <= -2 * np.log(0.32)) == pytest.approx(0.68, abs=0.06)
    assert np.mean(squares <= -2 * np.log(0.05)) == pytest.approx(0.95, abs=0.03)


def test_two_receivers_do_not_converge_and_say_so():
    """A hyperbola is no position; the region's prior must not be taken for one."""
    rows = arrivals(positions_deg(5))
    rows[:, 2:] = 0
    found = locate_by_time_differences(rows, SITES, REGION)
    assert not found.converged.any()
    assert np.isfinite(found.position_deg).all()


def test_nobody_heard_leaves_the_region():
    """The middle of the region, and its whole width."""
    found = locate_by_time_differences(np.zeros((1, 7, 5)), SITES, REGION)
    assert error_m(found.position_deg, [[44.95, 8.2]])[0] < 1
    assert np.sqrt(found.covariance_m2[0, 0, 0]) == pytest.approx(0.6 * REGION.scale_m, rel=1e-3)


@settings(max_examples=30)
@given(st.floats(-100, 100), st.integers(0, 100))
def test_the_common_zero_does_not_matter(zero, seed):
    """Nobody knows when the transmission began."""
    rng = np.random.default_rng(seed)
    times, weights = torch.from_numpy(rng.normal(size=(2, 7)))
    assert torch.allclose(
        centred(times + zero, weights.abs()), centred(times, weights.abs()), atol=1e-9
    )


def test_gradients_of_the_solution_are_those_of_finite_differences():
    """A network learns weights through the solver: checked numerically, in float64."""
    ranges = ReceiverRanges(REGION, SITES).double()
    truth = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    times = ranges(truth)[0].detach() + 1e-3 * torch.randn(1, 7, dtype=torch.float64)
    prior = Gaussian(torch.zeros(1, 2).double(), torch.tensor([[2.0, 0.0, 2.0]]).double())

    def position(log_weights):
        problem = Problem(ranges, times, log_weights.exp(), prior)
        return problem.step(problem.solve(truth, 20).position.detach()).position

    start = torch.full((1, 7), 8.0, dtype=torch.float64, requires_grad=True)
    start.data += torch.randn(1, 7, dtype=torch.float64)
    (slope,) = torch.autograd.grad(position(start)[0, 0], start)
    for nudge, ours in zip(1e-4 * torch.eye(7).double(), slope[0], strict=True):
        with torch.no_grad():
            numeric = (position(start + nudge) - position(start - nudge))[0, 0] / 2e-4
        assert ours.item() == pytest.approx(numeric.item(), rel=0.05, abs=1e-7)


def test_arrivals_of_other_receivers_than_the_sites_are_refused():
    """With the shape that is expected."""
    rows = arrivals(positions_deg(3))
    with pytest.raises(ModelError, match=r"\(n, 7, 5\); got \(3, 6, 5\)"):
        locate_by_time_differences(rows[:, :6], SITES, REGION)
    with pytest.raises(ModelError, match=r"\(n, 7, 5\); got \(7, 2\)"):
        locate_by_time_differences(rows[0, :, :2], SITES, REGION)
