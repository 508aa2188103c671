"""Levels in the network: how they are read, what is learned of them, what the posterior says."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from heimdall_models import (
    LocalizationConfig,
    LocalizationModule,
    LocalizationNet,
    ModelError,
    localization_metrics,
)
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.levels.level_map import OTHERWISE, TransmitPowers, Trust
from heimdall_models.levels.maps import N_FOLDS, folds_of, levels_of
from heimdall_models.levels.posterior import LevelPosterior
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.losses import gaussian_nll
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from level_world import NOISE_DB, POWER_SIGMA_DB, REGION, LevelWorld, features_of

N_TRAIN, N_TEST = 300, 200
STATISTICS = np.full((5, 128, 1), -85.0), np.full((5, 128, 1), 12.0)


@pytest.fixture(scope="module")
def sessions():
    """Levels, and features in which they are: 300 to learn from, 200 that are new."""
    drawn = LevelWorld.drawn(N_TRAIN + N_TEST, 6, absent=0.1)
    return drawn, features_of(drawn.levels_db, drawn.present)


def known(sessions, n_sessions=N_TRAIN, n_sites=N_TRAIN):
    """Sessions as training gives them, of the first so many sites."""
    drawn, features = sessions
    positions = REGION.to_degrees(drawn.places)
    return [
        {"features": features[i], "position_deg": positions[i % n_sites]} for i in range(n_sessions)
    ]


@pytest.fixture(scope="module")
def module(sessions):
    """A network that has learned levels and was not trained."""
    return module_of(sessions)


def module_of(sessions, **options):
    """The same with options of the config."""
    torch.manual_seed(0)
    config = LocalizationConfig(n_receivers=5, backbone="test_convnext", **options)
    made = LocalizationModule(config, REGION, *STATISTICS)
    made.learn_levels(known(sessions))
    return made.eval()


@pytest.fixture(scope="module")
def learned(sessions):
    """What the module has learned, as arrays."""
    return levels_of(known(sessions), REGION)


@given(st.lists(st.floats(-100, -20), min_size=1, max_size=20), st.integers(0, 3))
@settings(max_examples=30)
def test_the_level_is_the_signal_s_own(levels_db, n_absent):
    """Without its noise, down to 10 dB below it, where a level of all power sees noise alone."""
    levels = np.array([[*levels_db, -110.0]])
    present = np.ones(levels.shape, dtype=bool)
    present[0, : min(n_absent, len(levels_db))] = False
    power = ReceivedPower.of(features_of(levels, present))
    assert (power.present == present).all()
    noise = np.full(levels.shape[1], 10 ** (NOISE_DB / 10))
    heard = present & (levels >= -100)
    assert power.signal_db(noise)[heard] == pytest.approx(levels[heard], abs=0.01)


def test_noise_is_found_where_no_signal_is(sessions):
    """Each receiver's own, from sessions that nearly all hold a signal."""
    noise = ReceivedPower.of(sessions[1]).noise()
    assert 10 * np.log10(noise) == pytest.approx([NOISE_DB] * 5, abs=0.3)


@given(
    st.sampled_from([np.nan, np.inf, -np.inf]) | st.floats(4e3, 1e30),
    *map(st.integers, [0] * 4, [5, 4, 127, 31]),
)
def test_a_value_that_is_no_number_was_not_heard(sessions, broken, session, receiver, band, frame):
    """One broken value must not spoil the noise, and with it the map, of all other sessions."""
    features = sessions[1][:6].copy()
    features[session, receiver, band, frame] = broken
    power = ReceivedPower.of(features)
    assert not power.present[session, receiver]
    assert power.total[session, receiver] == power.outer[session, receiver] == 0
    assert np.isfinite(power.signal_db(power.noise())).all()


@given(st.integers(1, 7))
def test_powers_of_sessions_are_joined_in_order(sessions, first):
    """Large data sets are read in parts."""
    features = sessions[1][:8]
    whole, parts = ReceivedPower.of(features), (features[:first], features[first:])
    for one, other in zip(ReceivedPower.joined(map(ReceivedPower.of, parts)), whole, strict=True):
        assert np.array_equal(one, other)


def test_features_of_another_shape_are_refused():
    """One session without its first axis would be read as one receiver a session."""
    with pytest.raises(
        ModelError, match=r"must be \(n, receivers, bands, frames\).*\(5, 128, 32\)"
    ):
        ReceivedPower.of(np.zeros((5, 128, 32)))


def test_before_it_has_learned_the_posterior_knows_nothing():
    """The middle, give or take what a region's transmitters do."""
    mean, covariance = LevelPosterior(3, (128, 32), 0.3)(torch.randn(4, 3, 128, 32))
    sigma, correlation = sigma_and_correlation(covariance)
    assert mean.abs().max() < 1e-5
    assert correlation.abs().max() < 1e-4
    assert sigma == pytest.approx(torch.full((4, 2), 0.3), rel=1e-3)


def test_the_posterior_is_the_baseline_s(sessions, module, learned):
    """One formula, twice: NumPy in float64 for reports, torch in float32 for the network."""
    features = sessions[1]
    learned = replace(learned, trust=Trust(odds=0.7, temperature=1.3, sharpness=1.7))
    power = ReceivedPower.of(features[N_TRAIN:])
    expected = learned.map(REGION)(power.signal_db(learned.noise), power.present)
    posterior = LevelPosterior(5, (128, 32), 0.3)
    posterior.learn(learned, module.standardize.mean, module.standardize.std)
    mean, covariance = posterior(module.standardize(torch.from_numpy(features[N_TRAIN:])))
    assert mean.numpy() == pytest.approx(REGION.to_plane(expected.position_deg), abs=1e-3)
    wanted = expected.covariance_m2[:, [0, 0, 1], [0, 1, 1]] / REGION.scale_m**2
    assert covariance.numpy() == pytest.approx(wanted, rel=5e-3, abs=1e-5)


def test_powers_are_learned_as_they_were(learned):
    """A network that believes any power would learn nothing from how loud all receivers are."""
    known = learned.powers.share[:-1] / learned.powers.share[:-1].sum()
    mean = known @ learned.powers.offset_db[:-1]
    second = known @ (learned.powers.offset_db[:-1] ** 2 + learned.powers.variance[:-1])
    assert np.sqrt(second - mean**2) == pytest.approx(POWER_SIGMA_DB, rel=0.25)
    assert learned.powers.share.sum() == pytest.approx(1.0)


def test_powers_need_not_be_symmetric():
    """Many strong transmitters and a few weak ones: one Gaussian would expect as many weak ones."""
    rng = np.random.default_rng(3)
    power_db = np.where(rng.random(2000) < 0.25, -6.0, 2.0) + rng.standard_normal(2000)
    residual = power_db[:, None] + rng.standard_normal((2000, 4))
    ones = np.ones(2000)
    found = TransmitPowers.spaced(float(power_db.var())).fitted(
        residual, np.ones((2000, 4), dtype=bool), ones, 0 * ones
    )
    known = found.share[:-1] / (1 - OTHERWISE)
    assert known @ found.offset_db[:-1] == pytest.approx(power_db.mean(), abs=0.5)
    assert known[0] == pytest.approx(0.25, abs=0.1)
    assert known[0] < known[1:].sum() / 2


@given(st.floats(0, 200), arrays(float, (6, 3), elements=st.floats(-99, 99)), st.integers(0, 9))
def test_shares_of_powers_add_up_to_one(power_variance, residual, seed):
    """However strange the levels, and whoever was heard."""
    rng = np.random.default_rng(seed)
    powers = TransmitPowers.spaced(power_variance)
    found = powers.fitted(residual, rng.random((6, 3)) < 0.8, *rng.uniform(0.1, 9, (2, 6)))
    assert (found.share >= 0).all()
    assert found.share.sum() == pytest.approx(1)
    assert found.share[-1] == OTHERWISE
    assert powers.share @ powers.offset_db == pytest.approx(0)


def test_a_transmitter_much_stronger_than_all_of_training_is_found(sessions, module):
    """All receivers 25 dB up is a strong transmitter, and not one that is near to everybody."""
    drawn, features = sessions
    strong = features_of(drawn.levels_db[N_TRAIN:] + 25.0, drawn.present[N_TRAIN:])
    truth = torch.from_numpy(drawn.places[N_TRAIN:]).float()
    with torch.no_grad():
        usual, unusual = (
            module.net.answer(module.standardize(torch.from_numpy(heard)))
            for heard in (features[N_TRAIN:], strong)
        )
    off, further_off = ((found.position - truth).norm(dim=1).median() for found in (usual, unusual))
    assert further_off < 1.2 * off
    inside = mahalanobis_squared(truth - unusual.position, *unusual.ellipse[1:]) < 5.99
    assert inside.float().mean() > 0.85


@pytest.mark.slow
def test_ellipses_lean_only_where_they_are_asked_to(sessions):
    """The contract's model file has two sigmas and nothing more."""
    drawn, features = sessions
    x = torch.from_numpy(features[N_TRAIN:])
    answers = []
    for tilted in (False, True):
        made = module_of(sessions, tilted=tilted)
        with torch.no_grad():
            answers.append(made.net.answer(made.standardize(x)))
    upright, leaning = answers
    truth = torch.from_numpy(drawn.places[N_TRAIN:]).float()
    assert torch.equal(upright.position, leaning.position)
    assert (upright.correlation == 0).all()
    assert leaning.correlation.abs().max() > 0.3
    assert gaussian_nll(*leaning.ellipse, truth) < gaussian_nll(*upright.ellipse, truth)


def test_a_network_that_has_learned_levels_is_honest_before_any_training(sessions, module):
    """Gradients start from the best that levels can do, and not from nothing."""
    drawn, features = sessions
    truth = REGION.to_degrees(drawn.places[N_TRAIN:])
    with torch.no_grad():
        position, sigma = module.serving_net()(torch.from_numpy(features[N_TRAIN:]))
    metrics = localization_metrics(position.double().numpy(), sigma.double().numpy(), truth)
    spread_m = np.linalg.norm(drawn.places[N_TRAIN:], axis=1) * REGION.scale_m
    assert metrics["error_m_median"] < 0.5 * np.median(spread_m)
    assert metrics["coverage_68"] == pytest.approx(0.72, abs=0.1)
    assert metrics["coverage_95"] == pytest.approx(0.95, abs=0.04)


@pytest.mark.slow
def test_in_training_a_session_meets_a_map_that_does_not_know_it(sessions, module):
    """A map fits its own sessions: judged by them, the network would learn to be too sure."""
    drawn, features = sessions
    x = module.standardize(torch.from_numpy(features[:N_TRAIN]))
    target = torch.from_numpy(drawn.places[:N_TRAIN]).float()
    with torch.no_grad():
        seen = gaussian_nll(*module.net.answer(x).ellipse, target)
        unseen = gaussian_nll(*module.net.answer_in_training(x, target)[0].ellipse, target)
        new = module.standardize(torch.from_numpy(features[N_TRAIN:]))
        truth = torch.from_numpy(drawn.places[N_TRAIN:]).float()
        honest = gaussian_nll(*module.net.answer(new).ellipse, truth)
    assert seen < unseen - 0.1
    assert unseen.item() == pytest.approx(honest.item(), abs=0.15)


@given(st.floats(-0.5, 0.5, width=32))
def test_a_correction_costs_the_square_of_its_size(sessions, module, shift):
    """Hundreds of sessions teach a backbone their noise; levels are the better witness."""
    x = module.standardize(torch.from_numpy(sessions[1][:2]))
    heads = module.net.heads
    with torch.no_grad():
        heads.position.bias.fill_(shift)
        _, penalty = module.net.answer_in_training(x, torch.zeros(2, 2))
        heads.position.bias.zero_()
    assert penalty.item() == pytest.approx(shift**2 / 0.08, rel=1e-3, abs=1e-6)


def test_before_levels_are_learned_corrections_are_free():
    """There is nothing to correct."""
    net = LocalizationNet(5, "test_convnext")
    assert net.answer_in_training(torch.randn(2, 5, 128, 32), torch.zeros(2, 2))[1] == 0


def test_the_target_chooses_the_map():
    """The fold in the network is the fold that the map was made without."""
    posterior = LevelPosterior(1, (128, 32), 0.3)
    posterior.noise.fill_(1e-9)
    posterior.own_variance.fill_(1.0)
    target = torch.rand(64, 2) - 0.5
    fold = folds_of(target.numpy())
    for number in range(N_FOLDS):
        # Only in the map of this fold is the first cell the one that reads 0 dB.
        posterior.mean_db.fill_(-500.0)
        posterior.mean_db[1 + number, 0, 0] = 0.0
        x = torch.full((64, 1, 128, 32), -10 * np.log10(128)) + 0.02 * torch.randn(64, 1, 128, 32)
        posterior.common_variance.fill_(1e-3)
        mean, _ = posterior(x, target)
        at_first = (mean - posterior.places[0]).norm(dim=1) < 0.1
        assert (at_first.numpy() == (fold == number)).all()


@given(st.floats(-1.5, 1.5, width=32), st.floats(-1.5, 1.5, width=32))
def test_one_site_is_in_one_fold(east, north):
    """Sessions of one site know too much about each other."""
    places = np.tile(np.array([east, north], dtype=np.float32), (3, 1))
    folds = folds_of(places)
    assert len(set(folds.tolist())) == 1
    assert 0 <= folds[0] < N_FOLDS


def test_folds_are_about_equal():
    """Otherwise one map would lack most of the sessions."""
    places = np.random.default_rng(0).uniform(-1, 1, (4000, 2)).astype(np.float32)
    shares = np.bincount(folds_of(places), minlength=N_FOLDS) / 4000
    assert shares == pytest.approx([1 / N_FOLDS] * N_FOLDS, abs=0.03)


@given(st.floats(-200, 60), st.floats(101, 1e6), st.integers(0, 4))
def test_a_receiver_that_is_absent_or_impossible_weighs_nothing(
    sessions, module, fill_db, impossible_db, receiver
):
    """Other installations fill with other values; a broken one must not be next to everybody."""
    features = torch.from_numpy(sessions[1][N_TRAIN : N_TRAIN + 2])
    absent, filled, broken = features.clone(), features.clone(), features.clone()
    absent[:, receiver], filled[:, receiver] = -140.0, fill_db
    broken[:, receiver, 5, 5] = impossible_db
    expected = module.net.heads.posterior(module.standardize(absent))
    for heard in (filled, broken):
        found = module.net.heads.posterior(module.standardize(heard))
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_a_receiver_that_training_never_heard_is_left_out(sessions):
    """There is no map of it."""
    features = sessions[1]
    mute = features[:60].copy()
    mute[:, 4] = -140.0
    unheard = [{**each, "features": f} for each, f in zip(known(sessions, 60), mute, strict=True)]
    levels = levels_of(unheard, REGION)
    net = LocalizationNet(5, "test_convnext")
    net.learn_levels(levels, torch.zeros(5, 128, 1), torch.ones(5, 128, 1))
    loud = mute[:8].copy()
    loud[:, 4] = features[:8, 0]
    posterior = net.heads.posterior
    assert torch.equal(
        posterior(torch.from_numpy(loud))[0], posterior(torch.from_numpy(mute[:8]))[0]
    )


@pytest.mark.parametrize("n_sites", [2, 3, 5])
def test_levels_are_learned_from_a_few_sites(sessions, n_sites):
    """They leave a fold without sessions; a first data set is of a few transmitters."""
    levels = levels_of(known(sessions, 30, n_sites), REGION)
    assert np.isfinite(levels.mean_db).all()
    assert levels.powers.share.sum() == pytest.approx(1)


def test_too_few_sessions_teach_nothing(sessions):
    """A map of a handful of sessions, of one site or of silence would be believed."""
    silence = np.full((5, 128, 32), -140.0, dtype=np.float32)
    unheard = [{**session, "features": silence} for session in known(sessions, 30)]
    for too_few in (known(sessions, 19), known(sessions, 30, n_sites=1), unheard):
        assert levels_of(too_few, REGION) is None


def test_sessions_of_other_receivers_than_the_network_s_are_refused(sessions, learned):
    """With both numbers."""
    network = LocalizationNet(3, "test_convnext")
    with pytest.raises(ModelError, match="levels of 5 receivers for a network of 3"):
        network.learn_levels(learned, torch.zeros(3, 128, 1), torch.ones(3, 128, 1))


@pytest.mark.slow
def test_the_exported_file_knows_the_map(sessions, module, tmp_path):
    """Services have ONNX Runtime and no torch; any batch."""
    serving, x = module.serving_net(), torch.from_numpy(sessions[1][N_TRAIN:])
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        serving, (x[:2],), dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False
    )
    program.save(path := tmp_path / "levels.onnx")
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        position, sigma = serving(x)
    assert found[0] == pytest.approx(position.numpy(), abs=2e-4)
    assert found[1] == pytest.approx(sigma.numpy(), rel=1e-2)
    assert path.stat().st_size < 4e6
