"""Positions and ellipses by geometry with what is learned."""

import numpy as np
import onnxruntime
import pytest
import torch
from heimdall_models import LocalizationNet, ModelError, ServingNet, Standardize
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.ellipses import sigma_and_correlation
from heimdall_models.mixtures import Mixture
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.network import TimingNet, region_prior
from heimdall_models.timing.solver import Gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from timing_cases import REGION, SITES, arrivals, inside, positions_deg, units

NET = TimingNet(REGION, SITES).eval()


def located(rows, net=NET):
    """Estimates with the region as the prior."""
    with torch.no_grad():
        return net(torch.from_numpy(rows), region_prior(len(rows)))


def median_m(position, truth_deg):
    """Median error in metres."""
    return float((position - units(truth_deg)).norm(dim=1).median()) * REGION.scale_m


def plain_median_m(rows, truth_deg):
    """The same of least squares."""
    return median_m(units(locate_by_time_differences(rows, SITES, REGION).position_deg), truth_deg)


def test_clean_times_are_located_as_least_squares_does():
    """Insurance against what may go wrong costs little where nothing does."""
    truth = positions_deg(300, seed=1)
    rows = arrivals(truth, sigma_us=0.1, seed=2)
    assert median_m(located(rows).position, truth) < 1.1 * plain_median_m(rows, truth)


def test_a_receiver_on_a_detour_is_found_out():
    """2 us late are 600 m; least squares believes them, and is as sure as ever."""
    truth = positions_deg(300, seed=3)
    late_us = np.zeros((300, 7))
    late_us[np.arange(300), np.arange(300) % 7] = 2.0
    rows = arrivals(truth, sigma_us=0.03, late_us=late_us, seed=4)
    found = located(rows)
    assert median_m(found.position, truth) < 0.3 * plain_median_m(rows, truth)
    assert inside(found, truth, 0.95) > 0.9


@pytest.mark.parametrize("clock_us", [1.0, 10.0])
def test_bad_clocks_widen_the_ellipse(clock_us):
    """Nobody told the network; the residuals do, and the ellipse grows tenfold and more."""
    truth = positions_deg(400, seed=5)
    late_us = clock_us * np.random.default_rng(6).standard_normal((400, 7))
    found = located(arrivals(truth, sigma_us=0.03, late_us=late_us, seed=7))
    assert inside(found, truth, 0.68) > 0.5
    assert inside(found, truth, 0.95) > 0.75


@settings(max_examples=20)
@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-4, 4))
def test_without_clocks_the_prior_is_the_answer(east, north, tilt):
    """Levels are all there is then, exactly as they were."""
    prior = Gaussian(torch.tensor([[east, north]]), torch.tensor([[9.0, tilt, 4.0]]))
    rows = arrivals(positions_deg(1))
    rows[:, 1:] = 0
    for none_or_one in (np.zeros_like(rows), rows):
        with torch.no_grad():
            found = NET(torch.from_numpy(none_or_one), prior)
        assert torch.allclose(found.position, prior.mean, atol=1e-5)
        wanted = torch.tensor([[4.0, -tilt, 9.0]]) / (36 - tilt**2)
        assert torch.allclose(found.covariance, wanted, rtol=1e-3, atol=1e-6)


def test_two_receivers_and_levels_meet_on_a_hyperbola():
    """One time difference makes an ellipse of levels thin across its hyperbola."""
    rows = arrivals(positions_deg(50, seed=8), sigma_us=0.1)
    rows[:, 2:] = 0
    sigma, _ = sigma_and_correlation(located(rows).covariance)
    area = located(rows).covariance
    det = area[:, 0] * area[:, 2] - area[:, 1].square()
    assert (det.sqrt() < 0.3 * 0.36).all()
    assert (sigma.max(dim=1).values > 0.1).all()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_whatever_comes_in_an_ellipse_comes_out(seed):
    """Times from anywhere, receivers missing, absurd sigmas: never NaN, never a hyperbola."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(8, 7, 5)) * [1, 10.0 ** rng.uniform(-3, 6), 1, 30, 10]
    rows[..., 2] = 10.0 ** rng.uniform(-6, 6, (8, 7))
    rows[..., 0] = rng.random((8, 7)) < 0.7
    found = located((rows * rows[..., :1]).astype(np.float32))
    ee, en, nn = found.covariance.double().unbind(dim=1)
    assert torch.isfinite(found.position).all()
    assert (ee > 0).all()
    assert (ee * nn >= en.square()).all()


def test_the_order_of_sessions_does_not_matter():
    """A batch is no context: each session is located alone."""
    rows = arrivals(positions_deg(9, seed=11), seed=12)
    together, alone = located(rows), located(rows[4:5])
    assert torch.allclose(together.position[4:5], alone.position, atol=1e-6)


def test_what_geometry_cannot_explain_widens_the_ellipse():
    """Out of distribution: half the receivers late by 3 ms, which no explanation has."""
    net = TimingNet(REGION, SITES).eval()
    truth = positions_deg(20, seed=13)
    late_us = np.zeros((20, 7))
    late_us[:, ::2] = [3e3, -2e3, 5e3, -4e3]
    rows = arrivals(truth, late_us=late_us)
    before = located(rows, net)
    net.unexplained_limit.fill_(1.5)
    after = located(rows, net)
    assert (before.unexplained < 1).all()
    assert (after.unexplained > 1).all()
    assert (after.covariance[:, 0] > 2 * before.covariance[:, 0]).all()


N_RECEIVERS = st.integers(2, 7)
SEEDS = st.integers(0, 10_000)


def any_rows(rng, n_heard):
    """Arrival times of eight sessions from anywhere, of any sigma and misfit, of so many."""
    rows = arrivals(REGION.to_degrees(rng.uniform(-1.5, 1.5, (8, 2))), seed=rng.integers(1 << 30))
    rows[..., 1] += 10.0 ** rng.uniform(-2, 4, (8, 1)) * rng.standard_normal((8, 7))
    rows[..., 2] = 10.0 ** rng.uniform(-2, 4, (8, 7))
    rows[..., 4] = rng.exponential(20.0, (8, 7))
    rows[:, n_heard:] = 0
    return torch.from_numpy(rows)


def any_prior(rng):
    """Levels that may be anywhere, and sure or not."""
    mean, sigma = rng.uniform(-2, 2, (8, 2)), np.exp(rng.uniform(-3, 1.5, (8, 2)))
    tilt = rng.uniform(-0.9, 0.9, 8)
    products = [sigma[:, 0] ** -2, -tilt / sigma.prod(axis=1), sigma[:, 1] ** -2]
    precision = np.stack(products, axis=1) / (1 - tilt**2)[:, None]
    return Gaussian(*(torch.from_numpy(part).float() for part in (mean, precision)))


def doubtful_net(rng):
    """A network that has learned anything at all, and doubts its ellipses."""
    net = TimingNet(REGION, SITES).eval()
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    with torch.no_grad():
        for parameter in [*net.noise.parameters(), *net.shape.parameters()]:
            parameter += torch.randn(parameter.shape, generator=generator)
        net.log_temperature.fill_(rng.uniform(-0.7, 2))
        net.log_temperature_of_strangers.fill_(rng.uniform(-0.7, 2))
        net.unexplained_limit.fill_(1.5)
    return net


@settings(max_examples=30)
@given(SEEDS, N_RECEIVERS)
def test_no_answer_is_wider_than_its_prior(seed, n_heard):
    """Times can tell nothing; they cannot make a region larger than it is."""
    rng = np.random.default_rng(seed)
    net, rows, prior = doubtful_net(rng), any_rows(rng, n_heard), any_prior(rng)
    with torch.no_grad():
        ee, en, nn = net(rows, prior).covariance.double().unbind(dim=1)
    p_ee, p_en, p_nn = prior.precision.double().unbind(dim=1)
    # Covariance times precision: eigenvalues are squared widths over the prior's.
    trace = ee * p_ee + 2 * en * p_en + nn * p_nn
    determinant = (ee * nn - en.square()) * (p_ee * p_nn - p_en.square())
    widest = trace / 2 + (trace.square() / 4 - determinant).clamp_min(0).sqrt()
    assert (widest < 1 + 1e-3).all()


@settings(max_examples=30)
@given(SEEDS, N_RECEIVERS)
def test_an_answer_beyond_its_prior_or_region_says_so(seed, n_heard):
    """Far off and sure of it is the one answer that nobody can use."""
    rng = np.random.default_rng(seed)
    net, rows, prior = doubtful_net(rng), any_rows(rng, n_heard), any_prior(rng)
    with torch.no_grad():
        found = net(rows, prior)
    beyond_prior = prior.distance(found.position) > 13.82  # 99.9 % of a Gaussian's truths
    out_of_region = found.position.abs().amax(dim=1) > 1.15
    assert (found.unexplained[beyond_prior | out_of_region] > 1).all()


def test_an_honest_answer_is_not_called_unexplained():
    """A warning that is always on is none: the law above must be able to fail."""
    net = TimingNet(REGION, SITES).eval()
    net.unexplained_limit.fill_(4.0)
    assert (
        located(arrivals(positions_deg(200, seed=15)), net).unexplained <= 1
    ).float().mean() > 0.9


@settings(max_examples=30)
@given(SEEDS, st.floats(0, 100))
def test_a_misfit_never_makes_times_more_certain(seed, misfit_db):
    """Training sees misfits of a few dB, receivers have 60: what is learned must not run away."""
    rng = np.random.default_rng(seed)
    net, rows = doubtful_net(rng), torch.from_numpy(arrivals(positions_deg(8, seed=seed)))
    doubted = rows.clone()
    doubted[..., 4] = misfit_db
    with torch.no_grad():
        plain, other = (
            net.explain(each, region_prior(8)).solution.log_determinant for each in (rows, doubted)
        )
    # Of most explanations: a few move to a place of another geometry as the times weigh less.
    assert ((other - plain).median(dim=1).values < 0.5).all()


@settings(max_examples=20)
@given(SEEDS)
def test_learned_noise_is_at_least_half_of_sigma(seed):
    """Nothing beats the bound of the samples, however well simulated sessions fit."""
    rng = np.random.default_rng(seed)
    net, rows = doubtful_net(rng), torch.from_numpy(arrivals(positions_deg(8), sigma_us=5.0))
    with torch.no_grad():
        net.noise[-1].bias.fill_(-100.0)
        sure = net.explain(rows, region_prior(8)).solution.log_determinant
        net.noise[-1].weight.zero_()
        net.noise[-1].bias.fill_(0.0)
        as_told = net.explain(rows, region_prior(8)).solution.log_determinant
    # Four times the information on each axis, and what another place makes of it.
    assert (sure < as_told + 2 * np.log(4) + 0.5).all()


@settings(max_examples=20)
@given(st.lists(st.floats(-50, 50), min_size=7, max_size=7))
def test_known_delays_of_receivers_are_taken_off(delays_us):
    """A cable or a filter delays every transmission by as much."""
    rows = arrivals(positions_deg(20, seed=16))
    late = rows.copy()
    late[..., 1] += np.array(delays_us, np.float32)
    net = TimingNet(REGION, SITES, [1e-6 * each for each in delays_us], [0.0] * 7).eval()
    assert torch.allclose(located(late, net).position, located(rows).position, atol=1e-4)


def test_doubt_about_a_delay_widens_the_ellipse_where_it_matters():
    """Three kilometres of doubt about one receiver; six others are as good as ever."""
    rows = arrivals(positions_deg(50, seed=17))
    for n_heard, least in ((7, 1.0), (3, 3.0)):
        rows[:, n_heard:] = 0
        net = TimingNet(REGION, SITES, (), [1e-5, *[0.0] * 6]).eval()
        wider = located(rows, net).covariance[:, 0] / located(rows).covariance[:, 0]
        assert wider.median() > least


@pytest.mark.parametrize(
    ("delays_s", "spreads_s", "message"),
    [
        ([1e-6] * 6, (), "delays_s is .* each of 7 receivers"),
        ((), [float("nan")] * 7, "delay_spreads_s is"),
        ((), [-1e-6] * 7, "none may be negative"),
    ],
)
def test_delays_that_are_none_are_refused(delays_s, spreads_s, message):
    """With what was given."""
    with pytest.raises(ModelError, match=message):
        TimingNet(REGION, SITES, delays_s, spreads_s)


class Levels(torch.nn.Module):
    """A network of spectrograms that is lost: it answers as asked, whatever it hears."""

    region = REGION

    def __init__(self, position, sigma):
        super().__init__()
        self.answer = torch.tensor([[*position]]), torch.full((1, 2), sigma), None

    def on_plane(self, mel_spectrogram):
        """The same for every recording."""
        del mel_spectrogram
        return self.answer


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 3))
def test_lost_levels_do_not_take_times_out_of_the_region(east, north, sigma):
    """Levels of a gain control are noise: three clocks must still be in the region, or say so."""
    rows = arrivals(positions_deg(1), sigma_us=1e4)
    rows[:, 3:] = 0
    net = TimedServingNet(Levels((east, north), sigma), NET).eval()
    with torch.no_grad():
        position, covariance, unexplained = net.on_plane(torch.zeros(1), torch.from_numpy(rows))
    assert (covariance[0, [0, 2]] < 0.41).all()  # 0.6 squared, and a ninth more
    assert position.abs().max() < 1.15 or unexplained > 1


def test_another_shape_is_refused():
    """With the shape that is expected."""
    with pytest.raises(ModelError, match=r"\(batch, 7, 5\); got \(2, 6, 5\)"):
        NET(torch.zeros(2, 6, 5), region_prior(2))
    with pytest.raises(ModelError, match="1 receivers have no time difference"):
        TimingNet(REGION, SITES[:1])


@pytest.mark.slow
def test_the_exported_file_says_what_the_network_says(tmp_path):
    """Levels, geometry and explanations in one graph, without torch, at any batch size."""
    mean = np.full((7, 128, 1), -80.0)
    levels = ServingNet(
        Standardize(mean, np.full_like(mean, 10.0)), LocalizationNet(7, "test_convnext"), REGION
    ).eval()
    net = TimedServingNet(levels, NET).eval()
    rows = torch.from_numpy(arrivals(positions_deg(9, seed=14), sigma_us=0.2))
    rows[2] = 0
    rows[3, 2:] = 0
    mel = -80 + 10 * torch.randn(9, 7, 128, 32, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        net,
        (mel[:2], rows[:2]),
        input_names=["mel_spectrogram", "arrival_times"],
        dynamic_shapes=({0: batch}, {0: batch}),
        opset_version=20,
        dynamo=True,
        optimize=False,  # ONNX Runtime does that again, in a hundredth of the time
        verbose=False,
    )
    program.save(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    with torch.no_grad():
        said = net(mel, rows)
    for size in (1, 9):
        inputs = {"mel_spectrogram": mel[:size].numpy(), "arrival_times": rows[:size].numpy()}
        positions, sigmas, tilts, unexplained = session.run(None, inputs)
        assert np.abs(positions - said[0][:size].numpy()).max() < 2e-5  # 2 m
        assert np.abs(sigmas / said[1][:size].numpy() - 1).max() < 1e-2
        assert np.abs(tilts - said[2][:size].numpy()).max() < 1e-2
        assert np.allclose(unexplained, said[3][:size].numpy(), rtol=1e-2, atol=1e-3)


def answers_with_alternatives(n_receivers, n=120):
    """Estimate, mixture and truth of sessions that so many receivers heard."""
    position_deg = positions_deg(n, seed=3)
    rows = torch.from_numpy(arrivals(position_deg, sigma_us=0.2))
    rows[:, n_receivers:] = 0
    prior = region_prior(n)
    generator = torch.Generator().manual_seed(0)
    levels = Mixture(
        torch.tensor([[0.7, 0.3]]).expand(n, 2),
        0.4 * torch.randn(n, 2, 2, generator=generator),
        torch.tensor([0.04, 0.01, 0.09]).expand(n, 2, 3),
    )
    with torch.no_grad():
        alone = NET(rows, prior)
        found, mixture = NET.with_alternatives(rows, prior, levels, alone)
    return alone, found, mixture, levels, units(position_deg)


def test_mirror_images_are_two_places():
    """Three receivers allow two places: one ellipse around the wrong one is a lie."""
    alone, found, mixture, _, truth = answers_with_alternatives(3)
    two = mixture.weights.amax(dim=1) < 0.95
    assert 0.02 < two.float().mean() < 0.5
    single = Mixture(torch.ones(len(truth), 1), alone.position[:, None], alone.covariance[:, None])
    gain = mixture.log_density(truth) - single.log_density(truth)
    # Doubt costs little, and an ellipse at the wrong image much.
    assert gain.min() > -1
    assert gain.max() > 3
    assert gain.mean() > 0.1
    # One ellipse that claims to be of the whole posterior holds both.
    spread, before = (each.covariance[two][:, [0, 2]].sum(dim=1) for each in (found, alone))
    assert (spread > 1.5 * before).all()
    assert (spread > 100 * before).any()


def test_seven_receivers_leave_one_place():
    """The answer is the one without alternatives."""
    alone, found, mixture, _, _ = answers_with_alternatives(7)
    assert (mixture.weights.amax(dim=1) > 0.999).all()
    heaviest = mixture.means[torch.arange(len(mixture.means)), mixture.weights.argmax(dim=1)]
    torch.testing.assert_close(heaviest, alone.position)
    torch.testing.assert_close(found.position, alone.position)
    torch.testing.assert_close(found.covariance, alone.covariance, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("n_receivers", [0, 1])
def test_without_two_times_the_mixture_is_that_of_the_levels(n_receivers):
    """One time has no difference."""
    alone, found, mixture, levels, _ = answers_with_alternatives(n_receivers, n=8)
    torch.testing.assert_close(mixture.weights, levels.weights, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mixture.means, levels.means, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mixture.covariances, levels.covariances, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.covariance, alone.covariance)


def test_a_time_difference_chooses_among_the_levels_places():
    """With two receivers each place of the levels is held against one hyperbola."""
    _, _, mixture, levels, truth = answers_with_alternatives(2)
    before, after = levels.log_density(truth).mean(), mixture.log_density(truth).mean()
    assert after > before
