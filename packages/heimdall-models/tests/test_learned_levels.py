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
from heimdall_models.baselines.levels import LevelMap
from heimdall_models.ellipses import mahalanobis_squared, sigma_and_correlation
from heimdall_models.levels import posterior as level_posterior
from heimdall_models.levels.maps import (
    N_FOLDS,
    N_KNOWN,
    OTHERWISE,
    TransmitPowers,
    folds_of,
    learned_levels,
    levels_of,
)
from heimdall_models.levels.posterior import LevelPosterior
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.losses import gaussian_nll
from heimdall_models.trained import Trained
from hypothesis import given, settings
from hypothesis import strategies as st
from level_world import NOISE_DB, POWER_SIGMA_DB, REGION, LevelWorld, features_of

N_TRAIN, N_TEST = 300, 200
STATISTICS = np.full((5, 128, 1), -85.0), np.full((5, 128, 1), 12.0)


@pytest.fixture(scope="module")
def sessions():
    """Levels, and features in which they are: 300 to learn from, 200 that are new."""
    drawn = LevelWorld.drawn(N_TRAIN + N_TEST, 6, absent=0.1)
    return drawn, features_of(drawn.levels_db, drawn.present)


@pytest.fixture(scope="module")
def module(sessions):
    """A network that has learned levels and was not trained."""
    drawn, features = sessions
    torch.manual_seed(0)
    made = LocalizationModule(
        LocalizationConfig(n_receivers=5, backbone="test_convnext"), REGION, *STATISTICS
    )
    positions = REGION.to_degrees(drawn.places)
    made.learn_levels(
        {"features": features[i], "position_deg": positions[i]} for i in range(N_TRAIN)
    )
    return made.eval()


@pytest.fixture(scope="module")
def learned(sessions):
    """What the module has learned, as arrays."""
    drawn, features = sessions
    power = ReceivedPower.of(features[:N_TRAIN])
    return learned_levels(power, REGION.to_degrees(drawn.places[:N_TRAIN]), REGION)


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


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e4])
def test_what_is_no_number_was_not_heard(sessions, broken):
    """One broken value must not spoil the noise, and with it the map, of all other sessions."""
    features = sessions[1][:40].copy()
    features[0, 1, 3, 3] = broken
    power = ReceivedPower.of(features)
    assert not power.present[0, 1]
    assert power.total[0, 1] == power.outer[0, 1] == 0
    assert np.isfinite(power.signal_db(power.noise())).all()


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


def test_the_posterior_is_the_baseline_s(sessions, module, learned, monkeypatch):
    """One formula, twice: NumPy in float64 for reports, torch in float32 for the network."""
    features = sessions[1]
    powers = replace(
        learned.powers,
        offset_db=np.zeros(N_KNOWN + 1),
        variance=np.full(N_KNOWN + 1, 16.0),
        share=np.eye(N_KNOWN + 1)[0],
    )
    maps = LevelMap(
        region=REGION,
        grid=learned.grid,
        mean_db=learned.mean_db[0].T,
        own_variance=np.repeat(learned.own_variance[0][:, None], 5, axis=1),
        common_variance=learned.common_variance[0] + 16.0,
    )
    power = ReceivedPower.of(features[N_TRAIN:])
    expected = maps(power.signal_db(learned.noise), power.present)
    posterior = LevelPosterior(5, (128, 32), 0.3)
    posterior.learn(
        replace(learned, powers=powers), module.standardize.mean, module.standardize.std
    )
    monkeypatch.setattr(level_posterior, "SHARPNESS", 1.0)
    x = module.standardize(torch.from_numpy(features[N_TRAIN:]))
    sigma, correlation = sigma_and_correlation(posterior(x)[1])
    assert posterior(x)[0].numpy() == pytest.approx(
        REGION.to_plane(expected.position_deg), abs=2e-3
    )
    assert sigma.numpy() == pytest.approx(expected.sigma_m / REGION.scale_m, rel=0.02, abs=1e-4)
    tilt = expected.covariance_m2[:, 0, 1] / expected.sigma_m.prod(axis=1)
    assert correlation.numpy() == pytest.approx(tilt, abs=0.02)


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


def test_ellipses_lean_only_where_they_are_asked_to(sessions):
    """The contract's model file has two sigmas and nothing more."""
    drawn, features = sessions
    x = torch.from_numpy(features[N_TRAIN:])
    places = REGION.to_degrees(drawn.places)
    known = [{"features": features[i], "position_deg": places[i]} for i in range(N_TRAIN)]
    answers = []
    for tilted in (False, True):
        torch.manual_seed(0)
        config = LocalizationConfig(n_receivers=5, backbone="test_convnext", tilted=tilted)
        made = LocalizationModule(config, REGION, *STATISTICS)
        made.learn_levels(known)
        with torch.no_grad():
            answers.append(made.eval().net.answer(made.standardize(x)))
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


def test_a_correction_costs_what_its_odds_say(sessions, module):
    """Hundreds of sessions teach a backbone their noise; levels are the better witness."""
    x = module.standardize(torch.from_numpy(sessions[1][:8]))
    target = torch.zeros(8, 2)
    heads = module.net.heads
    with torch.no_grad():
        _, none = module.net.answer_in_training(x, target)
        heads.position.bias.fill_(0.2)
        _, some = module.net.answer_in_training(x, target)
        heads.position.bias.zero_()
        _, untaught = LocalizationNet(5, "test_convnext").answer_in_training(x, target)
    assert none.item() == untaught.item() == 0.0
    assert some.item() == pytest.approx(0.5)


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
    """Sessions of one site know too much of each other."""
    places = np.tile(np.array([east, north], dtype=np.float32), (3, 1))
    folds = folds_of(places)
    assert len(set(folds.tolist())) == 1
    assert 0 <= folds[0] < N_FOLDS


def test_folds_are_about_equal():
    """Otherwise one map would lack most of the sessions."""
    places = np.random.default_rng(0).uniform(-1, 1, (4000, 2)).astype(np.float32)
    shares = np.bincount(folds_of(places), minlength=N_FOLDS) / 4000
    assert shares == pytest.approx([1 / N_FOLDS] * N_FOLDS, abs=0.03)


def test_an_absent_receiver_weighs_nothing_in_the_network(sessions, module):
    """Whatever the fill: the features of another installation have another floor."""
    features = sessions[1][N_TRAIN : N_TRAIN + 4].copy()
    answers = []
    for fill_db in (-140.0, -100.0):
        features[:, 2] = fill_db
        with torch.no_grad():
            x = module.standardize(torch.from_numpy(features))
            answers.append(module.net.heads.posterior(x)[0])
    assert torch.equal(*answers)


def test_a_receiver_that_training_never_heard_is_left_out(sessions):
    """There is no map of it."""
    drawn, features = sessions
    mute = features[:60].copy()
    mute[:, 4] = -140.0
    positions = REGION.to_degrees(drawn.places[:60])
    levels = levels_of(
        ({"features": f, "position_deg": p} for f, p in zip(mute, positions, strict=True)), REGION
    )
    net = LocalizationNet(5, "test_convnext")
    net.learn_levels(levels, torch.zeros(5, 128, 1), torch.ones(5, 128, 1))
    loud = mute[:8].copy()
    loud[:, 4] = features[:8, 0]
    posterior = net.heads.posterior
    assert torch.equal(
        posterior(torch.from_numpy(loud))[0], posterior(torch.from_numpy(mute[:8]))[0]
    )


def test_too_few_sessions_teach_nothing(sessions):
    """A map of a handful of sessions would be believed."""
    features = sessions[1]
    few = [{"features": features[i], "position_deg": (45.0, 8.0)} for i in range(19)]
    assert levels_of(few, REGION) is None


def test_sessions_of_one_site_or_of_silence_teach_nothing(sessions):
    """A first data set is often one transmitter's; training on it must not end before it starts."""
    drawn, features = sessions
    positions = REGION.to_degrees(drawn.places)
    one_site = [{"features": features[i], "position_deg": positions[0]} for i in range(30)]
    silence = np.full((5, 128, 32), -140.0, dtype=np.float32)
    unheard = [{"features": silence, "position_deg": positions[i]} for i in range(30)]
    assert levels_of(one_site, REGION) is None
    assert levels_of(unheard, REGION) is None


@pytest.mark.parametrize("n_sites", [2, 3, 5])
def test_levels_are_learned_from_a_few_sites(sessions, n_sites):
    """Which leave a fold without sessions; a first data set is of a few transmitters."""
    drawn, features = sessions
    positions = REGION.to_degrees(drawn.places)
    few = [{"features": features[i], "position_deg": positions[i % n_sites]} for i in range(30)]
    levels = levels_of(few, REGION)
    assert np.isfinite(levels.mean_db).all()
    assert levels.powers.share.sum() == pytest.approx(1)


@pytest.mark.parametrize("impossible_db", [500.0, 1e6])
def test_a_receiver_that_reads_what_none_can_weighs_nothing(sessions, module, impossible_db):
    """It would be believed to be beside the transmitter, and the ellipse would be a kilometre."""
    features = torch.from_numpy(sessions[1][N_TRAIN : N_TRAIN + 8].copy())
    broken, absent = features.clone(), features.clone()
    broken[:, 0, 5, 5], absent[:, 0] = impossible_db, -140.0
    answers = [module.net.heads.posterior(module.standardize(given)) for given in (broken, absent)]
    for one, other in zip(*answers, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_sessions_of_other_receivers_than_the_network_s_are_refused(sessions, learned):
    """With both numbers."""
    network = LocalizationNet(3, "test_convnext")
    with pytest.raises(ModelError, match="levels of 5 receivers for a network of 3"):
        network.learn_levels(learned, torch.zeros(3, 128, 1), torch.ones(3, 128, 1))


def test_a_checkpoint_holds_the_maps(sessions, module, tmp_path):
    """The file must stand alone."""
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=0)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "levels.ckpt")
    x = torch.from_numpy(sessions[1][N_TRAIN:])
    with torch.no_grad():
        before = module.eval()(x)
        after = Trained.open(tmp_path / "levels.ckpt").single.module(x)
    assert torch.equal(before[0], after[0])


def test_the_exported_file_knows_the_map(sessions, module, tmp_path):
    """Services have ONNX Runtime and no torch; any batch."""
    serving = module.serving_net()
    x = torch.from_numpy(sessions[1][N_TRAIN:])
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        serving,
        (x[:2],),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    program.save(tmp_path / "levels.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "levels.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = serving(x)
    assert found[0] == pytest.approx(expected[0].numpy(), abs=2e-4)
    assert found[1] == pytest.approx(expected[1].numpy(), rel=1e-2)
    assert (tmp_path / "levels.onnx").stat().st_size < 4e6
