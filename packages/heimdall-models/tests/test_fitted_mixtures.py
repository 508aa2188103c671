"""Mixtures fitted to a posterior over cells, and how the network moves and returns them."""

import numpy as np
import pytest
import torch
from heimdall_models import LocalizationNet
from heimdall_models.ellipses import covariance_of, outer
from heimdall_models.ensembles import merged_mixture
from heimdall_models.mixtures import Mixture, fitted
from hypothesis import given, settings
from hypothesis import strategies as st

COUNTS = (96, 96)
AXIS = (torch.arange(96) + 0.5) / 48 - 1
PLACES = torch.cartesian_prod(AXIS, AXIS)
WITHIN = torch.full((2,), (1 / 48) ** 2 / 12)
units = st.floats(-0.6875, 0.6875, width=32)
sigmas = st.floats(0.03125, 0.5, width=32)
tilts = st.floats(-0.90625, 0.90625, width=32)
components = st.tuples(st.floats(0.1, 1), units, units, sigmas, sigmas, tilts)
mixtures = st.lists(components, min_size=1, max_size=4)


def mixture_of(drawn):
    """A mixture of a batch of one."""
    weight, east, north, s, t, tilt = torch.tensor(drawn, dtype=torch.float32).unbind(dim=1)
    means, sigma = torch.stack([east, north], dim=1), torch.stack([s, t], dim=1)
    return Mixture((weight / weight.sum())[None], means[None], covariance_of(sigma, tilt)[None])


def posterior(drawn):
    """Probability of each cell under a mixture, by torch's own density."""
    found = mixture_of(drawn)
    ee, en, nn = found.covariances[0].double().unbind(dim=-1)
    matrices = torch.stack([torch.stack([ee, en], -1), torch.stack([en, nn], -1)], dim=-1)
    gaussians = torch.distributions.MultivariateNormal(found.means[0].double(), matrices)
    logs = gaussians.log_prob(PLACES.double()[:, None]) + found.weights[0].double().log()
    return logs.logsumexp(dim=1).softmax(dim=0).float()[None]


@settings(deadline=None, max_examples=15)
@given(mixtures, st.integers(1, 6))
def test_the_mixture_has_the_posterior_s_mean_and_covariance(drawn, n_components):
    """Positions and uncertainties of a model file are those of the whole posterior."""
    probability = posterior(drawn)
    found = fitted(probability, PLACES, WITHIN, COUNTS, n_components)
    assert found.weights.sum().item() == pytest.approx(1, abs=1e-5)
    assert (found.weights > 0).all()
    mean = probability.double() @ PLACES.double()
    spread = (probability.double() @ outer(PLACES.double() - mean)).numpy()
    # A component that has died is not exactly without weight.
    assert found.mean().numpy() == pytest.approx(mean.numpy(), abs=2e-3)
    wanted = spread + np.array([WITHIN[0], 0.0, WITHIN[1]])
    assert found.covariance_about(mean.float()).numpy() == pytest.approx(wanted, abs=2e-3)


def test_peaks_far_apart_are_found():
    """Three places with their own odds and their own ellipses."""
    drawn = [(0.5, -0.5, -0.5, 0.1, 0.05, 0.6), (0.3, 0.5, 0.4, 0.08, 0.08, 0.0)]
    drawn.append((0.2, -0.4, 0.6, 0.05, 0.12, -0.5))
    wanted = mixture_of(drawn)
    found = fitted(posterior(drawn), PLACES, WITHIN, COUNTS, 3)
    order = found.weights[0].argsort(descending=True)
    assert found.weights[0, order].tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert found.means[0, order].numpy() == pytest.approx(wanted.means[0].numpy(), abs=0.01)
    assert found.covariances[0, order].numpy() == pytest.approx(
        wanted.covariances[0].numpy(), abs=1e-3
    )


@settings(deadline=None, max_examples=15)
@given(st.lists(components, min_size=2, max_size=4))
def test_more_components_are_nearer_to_the_posterior(drawn):
    """The whole point of them; by the cross-entropy of the cells.

    Narrow as a block of cells, one Gaussian is up to a tenth of a nat nearer to itself than five.
    """
    probability = posterior(drawn)
    losses = []
    for n_components in (1, 5):
        found = fitted(probability, PLACES, WITHIN, COUNTS, n_components)
        spread = Mixture(*(part.expand(len(PLACES), *part.shape[1:]) for part in found))
        losses.append(-(probability[0] @ spread.log_density(PLACES)).item())
    assert losses[1] < losses[0] + 0.1


def test_a_flat_posterior_and_a_single_cell_have_a_mixture():
    """What a network knows before it has learned anything, and the surest it can be."""
    flat = torch.full((1, len(PLACES)), 1 / len(PLACES))
    one = torch.zeros(1, len(PLACES))
    one[0, 1234] = 1.0
    for probability in (flat, one):
        found = fitted(probability, PLACES, WITHIN, COUNTS, 5)
        ee, en, nn = found.covariances.unbind(dim=-1)
        assert all(part.isfinite().all() for part in found)
        assert (ee * nn > en.square()).all()
    heaviest = found.means[0, found.weights[0].argmax()]
    assert heaviest.numpy() == pytest.approx(PLACES[1234].numpy(), abs=1e-4)


@given(mixtures, st.tuples(units, units), st.tuples(sigmas, sigmas))
def test_a_correction_moves_and_stretches_all_components(drawn, offset, factor):
    """Sigmas about the position are those of the posterior times the factor."""
    found = mixture_of(drawn)
    centre = found.mean() + 0.1
    position, factors = torch.tensor([offset]), torch.tensor([factor])
    moved = found.moved(centre, position, factors)
    before, after = found.covariance_about(centre)[0], moved.covariance_about(position)[0]
    (east, north) = factor
    wanted = before.numpy() * [east**2, east * north, north**2]
    assert after.numpy() == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("tilted", [False, True])
def test_components_change_no_other_output(tilted):
    """Services that know nothing of mixtures see what they saw."""
    torch.manual_seed(1)
    net = LocalizationNet(3, "test_convnext", tilted=tilted).eval()
    x = torch.randn(4, 3, 128, 32)
    with torch.no_grad():
        alone = net(x)
        net.heads.n_components = 5
        together = net(x)
    assert len(together) == len(alone) + 3
    for one, other in zip(alone, together[:-3], strict=True):
        assert torch.equal(one, other)
    mixture = Mixture(*together[-3:])
    about = mixture.covariance_about(alone[0])
    assert about[:, [0, 2]].sqrt().numpy() == pytest.approx(alone[1].numpy(), rel=1e-3)


@given(mixtures, st.tuples(units, units), st.floats(0, 4, width=32))
def test_members_that_agree_on_the_shape_are_merged_in_it(drawn, offset, weight):
    """Two members a step apart: each component is wider by the weighted half step."""
    one = mixture_of(drawn)
    step = torch.tensor([offset])
    other = one._replace(means=one.means + step)
    found = merged_mixture([one, other], weight)
    assert found.weights.numpy() == pytest.approx(one.weights.numpy(), abs=1e-6)
    assert found.means.numpy() == pytest.approx((one.means + step / 2).numpy(), abs=1e-6)
    wanted = one.covariances + weight * outer(step / 2)
    assert found.covariances.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
