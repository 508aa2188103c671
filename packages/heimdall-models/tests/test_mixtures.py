"""The moments of a mixture: by their definition, by samples, and where float32 would lose them."""

import numpy as np
import pytest
import torch
from heimdall_models.ellipses import sigma_and_correlation
from heimdall_models.ensembles import moments
from hypothesis import given
from hypothesis import strategies as st


def merged(positions, covariances):
    """Mean and covariance."""
    found = moments(positions, covariances)
    return found.position, found.merged()


units = st.floats(-1, 1, width=32)
sigmas = st.floats(2**-13, 1, width=32)
gaussians = st.tuples(units, units, sigmas, sigmas, st.floats(-0.96875, 0.96875, width=32))


def tensors(mixture):
    """Positions `(members, 2)` and covariances `(members, 3)`, float32."""
    east, north, s, t, tilt = torch.tensor(mixture).unbind(dim=1)
    return torch.stack([east, north], 1), torch.stack([s * s, tilt * s * t, t * t], 1)


@given(st.lists(gaussians, min_size=1, max_size=6))
def test_the_moments_are_those_of_the_mixture(mixture):
    """By the definition of a covariance, in float64, about no centre."""
    positions, covariances = tensors(mixture)
    position, covariance = merged(positions, covariances)
    exact = positions.double().numpy()
    ee, en, nn = covariances.double().numpy().T
    second = np.array([[ee, en], [en, nn]]).transpose(2, 0, 1) + exact[:, :, None] * exact[:, None]
    mean = exact.mean(axis=0)
    wanted = second.mean(axis=0) - np.outer(mean, mean)
    assert position.numpy() == pytest.approx(mean, abs=3e-7)
    found = np.array([[covariance[0], covariance[1]], [covariance[1], covariance[2]]])
    # What cancels is as exact as what it cancels from.
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5 * np.abs(wanted).max())


def test_the_moments_are_those_of_samples():
    """What the formula means: draw a member, then a place."""
    positions, covariances = tensors([(0.1, 0.2, 0.05, 0.1, 0.8), (0.3, -0.1, 0.2, 0.02, -0.3)])
    rng = np.random.default_rng(3)
    drawn = np.concatenate(
        [
            rng.multivariate_normal(p, [[ee, en], [en, nn]], 200_000)
            for p, (ee, en, nn) in zip(positions.numpy(), covariances.numpy(), strict=True)
        ]
    )
    position, covariance = merged(positions, covariances)
    assert position.numpy() == pytest.approx(drawn.mean(axis=0), abs=1e-3)
    ((ee, en), (_, nn)) = np.cov(drawn.T)
    assert covariance.numpy() == pytest.approx([ee, en, nn], rel=1e-2, abs=2e-4)


@given(st.tuples(units, units), st.lists(st.tuples(units, units), min_size=2, max_size=5))
def test_a_few_metres_far_from_the_middle_are_not_lost_in_float32(place, offsets):
    """Members 80 km from the region's middle that differ by 10 m: 1e-4 of it, squared 1e-8."""
    positions = 0.9 * torch.tensor(place) + 1e-4 * torch.tensor(offsets)
    _, covariance = merged(positions, torch.full((len(offsets), 3), 1e-10))
    exact = positions.double().numpy()
    wanted = np.cov(exact.T, bias=True)[[0, 0, 1], [0, 1, 1]] + 1e-10
    assert covariance.numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-13)


@given(st.lists(gaussians, min_size=2, max_size=6), st.randoms())
def test_the_order_of_the_members_does_not_matter(mixture, random):
    """Nobody should have to remember which network was trained first."""
    shuffled = random.sample(mixture, len(mixture))
    one, other = (merged(*tensors(each)) for each in (mixture, shuffled))
    assert one[0].numpy() == pytest.approx(other[0].numpy(), abs=1e-6)
    coarse = 1e-5 * float(one[1].abs().max())
    assert one[1].numpy() == pytest.approx(other[1].numpy(), rel=1e-4, abs=coarse)


@given(st.lists(gaussians, min_size=1, max_size=6))
def test_what_is_merged_is_an_ellipse(mixture):
    """However thin the members, and however they lie."""
    sigma, correlation = sigma_and_correlation(merged(*tensors(mixture))[1])
    assert (sigma > 0).all()
    assert -1 < float(correlation) < 1
