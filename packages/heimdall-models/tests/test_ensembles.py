"""Networks that answer as one: the mean and covariance of their mixture, and no strangers."""

import numpy as np
import pytest
import torch
from heimdall_models import EnsembleNet, ModelError, ServingNet, Standardize, TimedEnsembleNet
from heimdall_models.ellipses import sigma_and_correlation
from heimdall_models.ensembles import merged
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing_net import TimingNet
from hypothesis import given
from hypothesis import strategies as st
from timing_cases import REGION, SITES, arrivals, positions_deg

N = len(SITES)
MEAN = np.full((N, 4, 1), -80.0)


class Readings(torch.nn.Module):
    """A network whose answers are read off its input, and off its own shift and sigma."""

    def __init__(self, shift=0.0, sigma=0.1):
        super().__init__()
        self.shift, self.sigma = shift, sigma

    def forward(self, x):
        """Position and sigma in plane units."""
        return x[:, 0, :2, 0] + self.shift, torch.full_like(x[:, 0, :2, 0], self.sigma)


def member(shift=0.0, sigma=0.1, region=REGION, mean=MEAN):
    """A model of spectrograms that takes a position, in plane units over 10, for features."""
    return ServingNet(Standardize(mean, np.full_like(mean, 10.0)), Readings(shift, sigma), region)


def timed_member(seed, sites=SITES, **settings):
    """A model of times that has learned something, another for each seed."""
    timing = TimingNet(REGION, sites)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in timing.parameters():
            values += 0.1 * torch.randn(values.shape, generator=generator)
    timing.unexplained_limit.fill_(4.0)
    return TimedServingNet(member(**settings), timing).eval()


def features_at(units):
    """What the members above say these positions of, `(batch, receivers, 4, 1)`."""
    features = torch.full((len(units), N, 4, 1), -80.0)
    features[:, 0, :2, 0] += 10 * units
    return features


@pytest.fixture(scope="module")
def inputs():
    """Twelve sessions: all receivers, fewer, one, and none."""
    rows = torch.from_numpy(arrivals(positions_deg(12)))
    rows[3, 2:, 0] = 0
    rows[4, 1:, 0] = 0
    rows[5:7, :, 0] = 0
    return features_at(torch.from_numpy(REGION.to_plane(positions_deg(12))).float() + 0.05), rows


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
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-9)


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
    assert one[1].numpy() == pytest.approx(other[1].numpy(), rel=1e-4, abs=1e-12)


@given(st.lists(gaussians, min_size=1, max_size=6))
def test_what_is_merged_is_an_ellipse(mixture):
    """However thin the members, and however they lie."""
    sigma, correlation = sigma_and_correlation(merged(*tensors(mixture))[1])
    assert (sigma > 0).all()
    assert -1 < float(correlation) < 1


def test_one_member_says_what_it_says_alone(inputs):
    """An ensemble of one is no special case."""
    features, rows = inputs
    alone, timed = member(0.1), timed_member(1)
    for one, other in (
        (alone(features), EnsembleNet([alone])(features)),
        (timed(features, rows), TimedEnsembleNet([timed])(features, rows)),
    ):
        assert len(one) == len(other)
        for expected, found in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_members_that_disagree_are_less_sure_by_hand():
    """Two that are sure to 0.3 units, and 0.8 apart: the root of 0.09 and 0.16."""
    ensemble = EnsembleNet([member(-0.4, 0.3), member(0.4, 0.3)])
    position, sigma = ensemble(features_at(torch.zeros(1, 2)))
    assert position[0].tolist() == pytest.approx([REGION.latitude_deg, REGION.longitude_deg])
    assert sigma[0].tolist() == pytest.approx([0.5 * REGION.scale_m] * 2)


def test_members_with_times_are_merged_in_all_four_outputs(inputs):
    """Against their own outputs in degrees and metres, merged here."""
    features, rows = inputs
    members = [timed_member(seed) for seed in (1, 2, 3)]
    with torch.no_grad():
        said = [network.on_plane(features, rows) for network in members]
        found = TimedEnsembleNet(members)(features, rows)
    position, covariance = merged(
        *(torch.stack(part) for part in list(zip(*said, strict=True))[:2])
    )
    sigma, correlation = sigma_and_correlation(covariance)
    # A degree of float32 is 0.4 m coarse.
    assert REGION.to_plane(found[0].double().numpy()) == pytest.approx(position.numpy(), abs=2e-5)
    assert torch.equal(found[1], sigma * REGION.scale_m)
    assert torch.equal(found[2], correlation)
    assert found[3].tolist() == pytest.approx(np.mean([each[2] for each in said], axis=0).tolist())
    assert (found[1][:3] < 2_000).all()


def test_without_times_the_answer_is_that_of_the_merged_levels(inputs):
    """Half an ensemble's members must not go on believing in clocks."""
    features, rows = inputs
    members = [timed_member(seed, shift=0.02 * seed) for seed in (1, 2)]
    ensemble, levels = TimedEnsembleNet(members), EnsembleNet([m.levels for m in members])
    ensemble.log_temperature_of_levels.fill_(0.7)
    ensemble.log_temperature.fill_(5.0)
    levels.log_temperature.fill_(0.7)
    with torch.no_grad():
        both, alone = ensemble(features, rows), levels(features)
    for found, expected in zip(both[:2], alone, strict=True):
        torch.testing.assert_close(found[4:7], expected[4:7], rtol=1e-5, atol=1e-6)
    # The members disagree along the diagonal; the other file has no output for that.
    tilt = 0.01**2 / (0.1**2 + 0.01**2)
    assert both[2][4:7].tolist() == pytest.approx([tilt] * 3, rel=1e-3)


@pytest.mark.parametrize("timed", [False, True])
def test_one_member_without_an_answer_leaves_none(inputs, timed):
    """Two thirds of an ensemble are another model, which nobody calibrated."""
    features, rows = inputs
    if timed:
        ensemble = TimedEnsembleNet([timed_member(1), timed_member(2, shift=float("nan"))])
        answers = ensemble(features, rows)
    else:
        ensemble = EnsembleNet([member(), member(shift=float("nan"))])
        answers = ensemble(features)
    assert answers[0].isnan().all()
    assert answers[1].isnan().all()


def batches(positions, timed=False):
    """Validation sessions whose levels are 0.05 units off, east and north, as a Gaussian."""
    target = torch.from_numpy(REGION.to_plane(positions)).float()
    noise = 0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(4))
    batch = {"features": features_at(target + noise), "position_deg": torch.from_numpy(positions)}
    if timed:
        batch["arrivals"] = torch.from_numpy(arrivals(positions))
    # By halves, as loaders give them.
    half = len(positions) // 2
    return [{k: v[part] for k, v in batch.items()} for part in (slice(half), slice(half, None))]


def test_a_temperature_makes_the_merged_ellipse_honest():
    """Members that are honest each are together too wide, here by half: 0.05² of 0.05² + 0.05²."""
    ensemble = EnsembleNet([member(-0.05, 0.05), member(0.05, 0.05)])
    ensemble.calibrate(batches(positions_deg(400)))
    assert float(ensemble.log_temperature.exp()) == pytest.approx(0.5, rel=0.15)


def test_sessions_with_and_without_times_have_temperatures_of_their_own():
    """Levels are wrong by kilometres, times by metres; their members disagree otherwise."""
    ensemble = TimedEnsembleNet(
        [timed_member(1, shift=-0.05, sigma=0.05), timed_member(2, shift=0.05, sigma=0.05)]
    )
    sessions = batches(positions_deg(60), timed=True)
    sessions[0]["arrivals"][:, :, 0] = 0
    ensemble.calibrate_levels(sessions)
    levels = float(ensemble.log_temperature_of_levels)
    # The members disagree along the diagonal, by as much as they are unsure in all directions.
    assert -1.0 < levels < -0.1
    sessions += sessions[1:]
    ensemble.calibrate(sessions)
    assert float(ensemble.log_temperature) not in (0.0, levels)
    assert float(ensemble.log_temperature_of_levels) == levels


def test_too_few_sessions_leave_the_members_words_as_they_are():
    """A factor fitted on a handful is chance."""
    ensemble = EnsembleNet([member(), member()])
    ensemble.log_temperature.fill_(1.0)
    with pytest.raises(ModelError, match="20 sessions to calibrate on"):
        ensemble.calibrate(batches(positions_deg(20)))
    assert ensemble.log_temperature == 0
    timed = TimedEnsembleNet([timed_member(1), timed_member(2)])
    sessions = batches(positions_deg(40), timed=True)
    sessions[1]["arrivals"][:, 1:, 0] = 0
    with pytest.raises(ModelError, match="20 sessions to calibrate on"):
        timed.calibrate(sessions)


MOVED = type(REGION)(REGION.latitude_deg + 0.5, REGION.longitude_deg, REGION.scale_m)


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        (
            member(region=MOVED),
            r"member 3 .* with member 1: its region is .*45\.45.*, not .*44\.95",
        ),
        (member(mean=MEAN[:3]), r"its shape of normalisation is \(3, 4, 1\), not \(7, 4, 1\)"),
        (member(mean=MEAN + 0.5), r"member 3 .* up to 0\.5 dB off, so it was trained on other"),
    ],
)
def test_a_stranger_among_the_members_is_named(stranger, message):
    """Their plane units would mean other places, their channels other receivers."""
    with pytest.raises(ModelError, match=message):
        EnsembleNet([member(), member(0.1), stranger])


def test_members_with_other_receivers_of_times_are_refused():
    """Each row of the times belongs to a place."""
    swapped = (SITES[1], SITES[0], *SITES[2:])
    message = r"b\.ckpt cannot be merged with a\.ckpt: receiver 1 of its arrival .* 50\.\d km"
    with pytest.raises(ModelError, match=message):
        TimedEnsembleNet([timed_member(1), timed_member(2, swapped)], ["a.ckpt", "b.ckpt"])
    with pytest.raises(ModelError, match="takes arrival times of 6 receivers, not 7"):
        TimedEnsembleNet([timed_member(1), timed_member(2, SITES[:6])])
    with pytest.raises(ModelError, match=r"its region is"):
        TimedEnsembleNet([timed_member(1), timed_member(2, region=MOVED)])


def test_an_ensemble_of_none_is_refused():
    """It would answer a place all the same."""
    with pytest.raises(ModelError, match="give one or more"):
        EnsembleNet([])


def test_an_ensemble_leans_where_a_member_does(inputs):
    """Its third output is then the correlation of the mixture."""
    features, _ = inputs
    upright, leaning = member(0.0, 0.1), member(0.0, 0.1)
    leaning.net = Leaning(0.0, 0.1)
    position, sigma, correlation = EnsembleNet([upright, leaning])(features)
    assert torch.equal(position, upright(features)[0])
    assert torch.allclose(sigma, upright(features)[1])
    assert correlation.tolist() == pytest.approx([0.25] * len(features))


class Leaning(Readings):
    """The same with a correlation of a half."""

    def forward(self, x):
        """Position, sigma and correlation."""
        position, sigma = super().forward(x)
        return position, sigma, torch.full_like(sigma[:, 0], 0.5)
