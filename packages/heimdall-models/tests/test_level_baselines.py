"""Baselines that take levels: their laws, their closed forms, and how honest they are."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from heimdall_models import ModelError, Region, localization_metrics
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.baselines.neighbours import fit_nearest_neighbours
from heimdall_models.levels.grid import Grid
from heimdall_models.levels.kriging import FieldLaw, KrigedField
from heimdall_models.levels.level_map import ODDS, TEMPERATURES, LevelMap, TransmitPowers, Trust
from heimdall_models.levels.path_loss import PathLossLaw, found_receivers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from level_world import (
    FADING,
    RANGE,
    RECEIVERS,
    REGION,
    SILL,
    LevelWorld,
    path_loss_levels_db,
)
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

N_TRAIN = 400
names = pytest.mark.parametrize("name", LEVEL_BASELINES)


@cache
def sessions():
    """One world for the whole module: 400 sessions to fit on, 400 to judge by."""
    return LevelWorld.drawn(2 * N_TRAIN, 0, absent=0.1)


@cache
def fitted(name):
    """Fitted once for all tests."""
    return LEVEL_BASELINES[name](sessions().training(slice(N_TRAIN)))


def judged(name):
    """The metrics of a baseline on sessions that it was not fitted on."""
    new, rest = sessions(), slice(N_TRAIN, None)
    estimate = fitted(name)(new.levels_db[rest], new.present[rest])
    truth = REGION.to_degrees(new.places[rest])
    return localization_metrics(estimate.position_deg, estimate.sigma_m, truth)


@pytest.mark.slow
@names
def test_an_ellipse_holds_what_it_says(name):
    """A baseline with a dishonest ellipse would make any network look calibrated."""
    metrics = judged(name)
    assert metrics["coverage_95"] == pytest.approx(0.95, abs=0.05)
    assert 0.55 < metrics["coverage_68"] < 0.85


@pytest.mark.slow
def test_who_knows_more_of_the_region_is_better():
    """The order of the table: prior, centroid, law, kriged map."""
    nlls = [judged(name)["nll"] for name in LEVEL_BASELINES]
    assert nlls[0] > nlls[1] > nlls[2] > nlls[4]
    assert nlls[3] > nlls[4]


@names
@given(st.floats(-1e6, 1e6) | st.just(np.nan), st.integers(0, 4))
def test_the_level_of_an_absent_receiver_does_not_matter(name, fill, absent):
    """A fill of -140 dB must not be taken for a very weak signal."""
    levels = np.tile([-80.0, -85.0, -90.0, -70.0, -75.0], (2, 1))
    levels[0, absent] = fill
    estimate = fitted(name)(levels, np.tile(np.arange(5) != absent, (2, 1)))
    assert np.array_equal(estimate.position_deg[0], estimate.position_deg[1])
    assert np.array_equal(estimate.covariance_m2[0], estimate.covariance_m2[1])


@names
@settings(max_examples=20)
@given(arrays(float, (3, 5), elements=st.floats(-200, 20)))
def test_covariances_are_symmetric_and_positive(name, levels):
    """Whoever draws an ellipse takes square roots of its eigenvalues."""
    covariance = fitted(name)(levels, np.ones((3, 5), dtype=bool)).covariance_m2
    assert np.allclose(covariance, np.swapaxes(covariance, 1, 2))
    assert (np.linalg.eigvalsh(covariance) > 0).all()


@names
@settings(max_examples=20)
@given(arrays(bool, (4, 5)))
def test_no_session_changes_the_answer_to_another(name, present):
    """A report after a night of training must not end at one silent session."""
    levels = np.random.default_rng(3).normal(-80, 20, (4, 5))
    together = fitted(name)(levels, present)
    alone = [fitted(name)(levels[[i]], present[[i]]) for i in range(4)]
    assert together.position_deg == pytest.approx(np.concatenate([one[0] for one in alone]))
    assert np.isfinite(together.position_deg).all()
    assert (together.sigma_m > 0).all()


@names
def test_the_unit_of_levels_has_no_origin(name):
    """Full scale is arbitrary: an offset of training and question alike changes nothing."""
    small = sessions().training(slice(60))
    louder = replace(small, levels_db=small.levels_db + 37.0)
    levels, present = small.levels_db[:5], small.present[:5]
    fit = LEVEL_BASELINES[name]
    before, after = fit(small)(levels, present), fit(louder)(levels + 37.0, present)
    assert np.allclose(before.position_deg, after.position_deg, atol=1e-6)
    assert np.allclose(before.covariance_m2, after.covariance_m2, rtol=1e-3)


@pytest.mark.parametrize("name", [n for n in LEVEL_BASELINES if "likelihood" in n])
def test_without_any_receiver_a_map_answers_the_middle(name):
    """Nothing heard, nothing learned: everywhere is as likely as anywhere."""
    estimate = fitted(name)(np.full((1, 5), np.nan), np.zeros((1, 5), dtype=bool))
    middle = REGION.to_plane(estimate.position_deg)[0]
    places = sessions().places[:N_TRAIN]
    assert middle == pytest.approx((places.min(axis=0) + places.max(axis=0)) / 2, abs=1e-6)
    uniform_m = np.ptp(places, axis=0) * REGION.scale_m / np.sqrt(12)
    assert estimate.sigma_m[0] == pytest.approx(uniform_m, rel=1e-3)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_likelihood_is_the_gaussian_s_own(seed, up):
    """SciPy's multivariate normal with power in the covariance, against the closed form."""
    rng = np.random.default_rng(seed)
    powers = TransmitPowers(rng.normal(0, 5, 4), rng.uniform(0, 40, 4), rng.dirichlet(np.ones(4)))
    level_map = LevelMap(
        region=REGION,
        grid=Grid((-1.0, -1.0), (0.5, 0.5), (4, 3)),
        mean_db=rng.normal(-80, 20, (4, 12)),
        own_variance=rng.uniform(1, 20, 12),
        common_variance=rng.uniform(0, 40, 12),
        powers=powers,
        known=np.arange(4) < 3,
    )
    level, present = rng.normal(-80, 20, 4), np.array(up)
    found = level_map.log_likelihood(np.where(present, level, 0.0)[None], present[None])[0]
    heard = present & level_map.known
    for cell in range(12):
        # In training's own season, for each Gaussian of the powers.
        mean, n = level_map.mean_db[heard, cell], heard.sum()
        expected = [] if n else [0.0]
        for at, variance, share in zip(
            powers.offset_db, powers.variance, powers.share, strict=True
        ):
            common = level_map.common_variance[cell] + variance
            covariance = level_map.own_variance[cell] * np.eye(n) + common
            if n:
                density = multivariate_normal.logpdf(level[heard], mean + at, covariance)
                expected.append(np.log(share) + density + n * np.log(2 * np.pi) / 2)
        assert found[0, cell] == pytest.approx(logsumexp(expected), abs=1e-8)


@cache
def kriged_and_new():
    """A map, and as many sessions that it was made without."""
    return fitted("level likelihood, kriged map"), sessions().training(slice(N_TRAIN, None))


@pytest.mark.slow
def test_sessions_whose_gains_have_moved_cost_trust():
    """The map's own law deserves more of it than sessions to whose every level 8 dB were added."""
    level_map, new = kriged_and_new()
    rows = np.arange(150)
    moved = np.random.default_rng(4).normal(0, 8, new.levels_db.shape)
    usual = Trust.of(new, [(level_map, rows)])
    moved = Trust.of(replace(new, levels_db=new.levels_db + moved), [(level_map, rows)])
    assert usual.odds > 1 > moved.odds
    assert usual.temperature < 1.4


@given(st.integers(1, 12), st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_few_sessions_hardly_change_the_trust(n_sessions, first):
    """A dozen sessions say little: the prior counts as twenty."""
    level_map, new = kriged_and_new()
    found = Trust.of(new, [(level_map, first + np.arange(n_sessions))])
    most = n_sessions / (n_sessions + 20)
    for value, prior, farthest in zip(found, Trust(), (0.02, 2.2, 3.0), strict=True):
        assert abs(np.log(value / prior)) <= most * abs(np.log(farthest / prior)) + 1e-9


def test_sessions_that_nobody_heard_say_nothing_of_trust():
    """They would count as evidence for whatever fits the others."""
    level_map, new = kriged_and_new()
    present = new.present.copy()
    present[30:] = False
    silent = replace(new, present=present)
    few = Trust.of(silent, [(level_map, np.arange(30))])
    assert few == Trust.of(silent, [(level_map, np.arange(N_TRAIN))])
    assert Trust.of(silent, [(level_map, np.arange(30, 60))]) == Trust()


@given(st.integers(0, N_TRAIN - 1), st.sampled_from(ODDS), st.sampled_from(TEMPERATURES))
@settings(max_examples=20, deadline=None)
def test_trust_is_judged_by_the_posterior_that_it_makes(row, odds, temperature):
    """Sums for all odds at once, against the posterior of one of them."""
    level_map, new = kriged_and_new()
    trusting = replace(level_map, trust=Trust(odds, temperature))
    likelihood = level_map.log_likelihood(new.levels_db[[row]], new.present[[row]])
    logits = trusting.posterior_logits(likelihood)[0]
    at_truth = logits[level_map.grid.cell_of(new.places[[row]])[0]]
    found = level_map.log_densities(new, np.array([row]))
    at = ODDS.index(odds), TEMPERATURES.index(temperature)
    assert found[0][at] == pytest.approx(at_truth - logsumexp(logits), abs=1e-8)


def joint_prediction(field, training, place):
    """Mean and covariance of all receivers' levels at a place, from one large Gaussian."""
    law, (n, m) = field.law, training.levels_db.shape
    apart = np.linalg.norm(training.places[:, None] - training.places, axis=-1)
    correlation = np.exp(-apart / law.range)
    site, receiver = np.kron(np.eye(n), np.ones((m, m))), np.eye(n * m)
    among = law.sill * np.kron(correlation, np.eye(m))
    among += law.own_noise * receiver + law.power_variance * site
    near = law.sill * np.exp(-np.linalg.norm(training.places - place, axis=-1) / law.range)
    towards = np.kron(near[None], np.eye(m))
    heard = training.present.reshape(-1)
    residual = (training.levels_db - field.trend.mean_db(training.places)).reshape(-1)[heard]
    gain = np.linalg.solve(among[np.ix_(heard, heard)], towards[:, heard].T).T
    mean = field.trend.mean_db(place[None])[0] + gain @ residual
    return mean, law.sill * np.eye(m) - gain @ towards[:, heard].T


LAW = FieldLaw(SILL, RANGE, FADING, 16.0, 5)


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0, 0.4), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_kriging_is_the_conditional_mean_of_one_large_gaussian(seed, absent, east, north):
    """The rotation of the receivers and the filling in of absent ones are exact."""
    training = LevelWorld.drawn(20, seed, absent=absent).training(slice(None))
    field, place = KrigedField.of(training, LAW), np.array([east, north])
    expected, _ = joint_prediction(field, training, place)
    assert field.mean_db(place[None])[0] == pytest.approx(expected, abs=1e-2)


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_the_variance_of_kriging_is_that_gaussian_s_too(seed, east, north):
    """The ellipse depends on it: where no session was heard, the map knows less."""
    training = LevelWorld.drawn(20, seed).training(slice(None))
    field = KrigedField.of(training, LAW)
    grid = Grid((east, north), (1e-6, 1e-6), (1, 1))
    _, covariance = joint_prediction(field, training, grid.cells[0])
    own, common = field.variances(grid)
    full = np.eye(5) * own[0] + common[0]
    assert full == pytest.approx(covariance + FADING * np.eye(5) + 16.0, abs=1e-6)


def test_the_law_of_a_field_is_found_in_its_sessions():
    """By marginal likelihood, within what 600 sessions of five fields can tell."""
    some = LevelWorld.drawn(600, 8)
    training = some.training(slice(None))
    trend = PathLossLaw.of(training)
    law = FieldLaw.of(training, trend, some.levels_db - trend.mean_db(some.places))
    assert law.sill == pytest.approx(SILL, rel=0.25)
    assert law.range == pytest.approx(RANGE, rel=0.3)
    assert law.own_noise == pytest.approx(FADING, rel=0.25)
    assert law.power_variance == pytest.approx(16.0, rel=0.3)


@given(st.integers(0, 2**32 - 1), st.floats(1.5, 5.0))
@settings(max_examples=20)
def test_a_path_loss_law_without_noise_is_found_exactly(seed, exponent):
    """Powers of sessions, unknown and different, must not leak into exponent and gains."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(-0.9, 0.9, (40, 2))
    gains = rng.normal(0, 5, 5)
    distance_m = np.linalg.norm(places[:, None] - RECEIVERS, axis=-1) * REGION.scale_m
    powers = rng.normal(0, 4, (40, 1))
    levels = gains - 10 * exponent * np.log10(np.maximum(distance_m, 200)) + powers
    present = rng.random(levels.shape) < 0.8
    present[:, :2] = True
    training = TrainingLevels(
        levels, present, REGION.to_degrees(places), REGION.to_degrees(RECEIVERS), REGION
    )
    law = PathLossLaw.of(training)
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    assert law.gains_db - law.gains_db[0] == pytest.approx(gains - gains[0], abs=1e-4)
    assert law.gains_db.mean() == pytest.approx(gains.mean() + powers.mean(), abs=0.02)


def test_receivers_are_found_where_they_are():
    """A network is trained on features and positions alone and needs the law's centres."""
    some = LevelWorld.drawn(300, 2)
    training = replace(
        some.training(slice(None)),
        levels_db=path_loss_levels_db(some.places),
        receivers_deg=np.full((5, 2), 45.0),
    )
    assert found_receivers(training) == pytest.approx(RECEIVERS, abs=0.01)


def test_a_session_heard_before_is_its_own_nearest_neighbour():
    """But never in training, where that would be looking at the answer."""
    neighbours = fit_nearest_neighbours(sessions().training(slice(N_TRAIN)))
    known = neighbours.training.levels_db, neighbours.training.present
    rows = np.arange(N_TRAIN)[:, None]
    assert (neighbours.nearest(*known, 3)[:, :1] == rows).all()
    assert (neighbours.nearest(*known, 3, are_training=True) != rows).all()


@given(
    st.floats(0.1, 2), st.floats(0.1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)
)
def test_cells_and_their_blocks_cover_the_places(width, height, east, north, every):
    """A cell outside would be a transmitter where none can be; one left out, the reverse."""
    places = np.array([[0.0, 0.0], [width, height]])
    grid = Grid.covering(places, (east, north))
    cells = grid.cells
    assert cells.shape == (east * north, 2)
    assert cells.mean(axis=0) == pytest.approx([width / 2, height / 2])
    blocks, of_cell = grid.blocks(every)
    assert len(blocks) == -(-east // every) * -(-north // every)
    assert (np.abs(blocks[of_cell] - cells) <= np.array(grid.size) * every / 2 + 1e-9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels_db": np.zeros((4, 2))}, r"levels \(4, 2\) and present \(4, 3\)"),
        ({"levels_db": np.full((4, 3), np.nan)}, "a receiver that is present is not finite"),
        ({"position_deg": np.zeros((5, 2))}, "4 sessions with levels .* and 5 positions"),
        ({"present": np.zeros((4, 3), dtype=bool)}, r"4 sessions with levels \(0 were heard\)"),
    ],
)
def test_training_levels_that_cannot_be_are_refused(change, message):
    """A silent broadcast would fit one session's levels to another's position."""
    good = {
        "levels_db": np.zeros((4, 3)),
        "present": np.ones((4, 3), dtype=bool),
        "position_deg": np.tile([45.0, 8.0], (4, 1)),
        "receivers_deg": np.tile([45.0, 8.0], (3, 1)),
        "region": Region(45.0, 8.0, 90_000.0),
    }
    with pytest.raises(ModelError, match=message):
        TrainingLevels(**{**good, **change})
