"""Calibration of whole posteriors, by a test that knows nothing of regions or densities.

TARP: draw a reference place for each session; the share of the posterior that is nearer to it than
the truth is uniform if, and for all references only if, the posterior is right. Source: P. Lemos,
A. Coogan, Y. Hezaveh and L. Perreault-Levasseur, "Sampling-based accuracy testing of posterior
estimators for general inference", ICML 2023, algorithm 2; written here from the definition, and
compared with the toolbox sbi.
"""

import numpy as np
import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule
from heimdall_models.mixtures import Mixture
from level_world import REGION, LevelWorld, features_of

N_TRAIN, N_TEST, N_DRAWS = 500, 400, 400
UNUSUAL = 1.63 / np.sqrt(N_TEST)
"""Kolmogorov's distance that is exceeded in one of a hundred samples."""


def drawn_from(mixture, rng):
    """Places, `(n, draws, 2)`."""
    weights, means, covariances = (part.double().numpy() for part in mixture)
    n, n_components = weights.shape
    chosen = np.stack([rng.choice(n_components, N_DRAWS, p=w / w.sum()) for w in weights])
    rows = np.arange(n)[:, None]
    ee, en, nn = np.moveaxis(covariances[rows, chosen], -1, 0)
    first, second = rng.normal(size=(2, n, N_DRAWS))
    east = np.sqrt(ee) * first
    north = en / np.sqrt(ee) * first + np.sqrt(nn - en**2 / ee) * second
    return means[rows, chosen] + np.stack([east, north], axis=-1)


def tarp(mixture, truth, seed=0):
    """Share of each posterior nearer to a random reference than the truth, `(n,)`."""
    rng = np.random.default_rng(seed)
    return nearer(drawn_from(mixture, rng), truth, rng.uniform(-1, 1, truth.shape))


def nearer(drawn, truth, reference):
    """Share of the draws of each session that are nearer to its reference than its truth is."""
    apart = np.linalg.norm(drawn - reference[:, None], axis=-1)
    return (apart < np.linalg.norm(truth - reference, axis=-1)[:, None]).mean(axis=1)


def distance_from_uniform(shares):
    """Kolmogorov's distance."""
    return np.abs(np.sort(shares) - (np.arange(len(shares)) + 0.5) / len(shares)).max()


@pytest.fixture(scope="module")
def answers():
    """Mixtures of a network that has learned levels, of new sessions, and where they were."""
    drawn = LevelWorld.drawn(N_TRAIN + N_TEST, 11)
    features = features_of(drawn.levels_db, drawn.present)
    config = LocalizationConfig(n_receivers=5, backbone="test_convnext", n_components=5)
    module = LocalizationModule(
        config, REGION, np.full((5, 128, 1), -85.0), np.full((5, 128, 1), 12.0)
    )
    positions = REGION.to_degrees(drawn.places)
    module.learn_levels(
        {"features": features[i], "position_deg": positions[i]} for i in range(N_TRAIN)
    )
    with torch.no_grad():
        x = module.standardize(torch.from_numpy(features[N_TRAIN:]))
        return module.net.eval().answer_by_levels(x).mixture, drawn.places[N_TRAIN:]


@pytest.mark.slow
def test_coverage_is_sbi_s(answers):
    """The same draws and references give the same curve of expected coverage."""
    from sbi.diagnostics.tarp import _run_tarp

    mixture, truth = answers
    rng = np.random.default_rng(0)
    drawn, reference = drawn_from(mixture, rng), rng.uniform(-1, 1, truth.shape)
    theirs, at = _run_tarp(
        torch.from_numpy(drawn).transpose(0, 1),
        torch.from_numpy(truth),
        torch.from_numpy(reference),
        num_bins=20,
    )
    shares = nearer(drawn, truth, reference)
    ours = [(shares < level).mean() for level in at[1:-1].tolist()]
    assert theirs[1:-1].numpy() == pytest.approx(ours, abs=4 / N_TEST)  # some are at an edge


def test_levels_mixtures_pass(answers):
    """Two hundred and more honest ellipses would not show that the mass is in the right places."""
    assert distance_from_uniform(tarp(*answers)) < UNUSUAL


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_too_sure_and_too_vague_mixtures_fail(answers, factor):
    """The test above can fail."""
    mixture, truth = answers
    lie = Mixture(mixture.weights, mixture.means, mixture.covariances * factor)
    about = lie.means - lie.mean().unsqueeze(1)
    lie = lie._replace(means=lie.mean().unsqueeze(1) + about * factor**0.5)
    assert distance_from_uniform(tarp(lie, truth)) > UNUSUAL
