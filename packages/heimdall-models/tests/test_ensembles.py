"""Networks that answer as one: the mean and covariance of their mixture, and no strangers."""

import numpy as np
import pytest
import torch
from heimdall_models import EnsembleNet, ModelError, ServingNet, Standardize, TimedEnsembleNet
from heimdall_models.ellipses import sigma_and_correlation
from heimdall_models.ensembles import moments
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.network import TimingNet
from hypothesis import given, settings
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


@given(st.floats(0, 0.9), st.floats(0.01, 1), st.floats(0.01, 1))
def test_members_that_disagree_are_less_sure(apart, one, other):
    """Variances are averaged, and the square of the half distance is added."""
    ensemble = EnsembleNet([member(-apart, one), member(apart, other)])
    position, sigma = ensemble(features_at(torch.zeros(1, 2)))
    assert position[0].tolist() == pytest.approx([REGION.latitude_deg, REGION.longitude_deg])
    expected_m = ((one**2 + other**2) / 2 + apart**2) ** 0.5 * REGION.scale_m
    assert sigma[0].tolist() == pytest.approx([expected_m] * 2, rel=1e-4)


def test_members_with_times_are_merged_in_all_four_outputs(inputs):
    """Against their own outputs in degrees and metres, merged here."""
    features, rows = inputs
    members = [timed_member(seed) for seed in (1, 2, 3)]
    with torch.no_grad():
        said = [network.on_plane(features, rows) for network in members]
        found = TimedEnsembleNet(members)(features, rows)
    mixture = moments(*(torch.stack(part) for part in list(zip(*said, strict=True))[:2]))
    sigma, correlation = sigma_and_correlation(mixture.merged())
    # A degree of float32 is 0.4 m coarse.
    assert REGION.to_plane(found[0].double().numpy()) == pytest.approx(
        mixture.position.numpy(), abs=2e-5
    )
    assert torch.equal(found[1], sigma * REGION.scale_m)
    assert torch.equal(found[2], correlation)
    assert found[3].tolist() == pytest.approx(np.mean([each[2] for each in said], axis=0).tolist())
    assert (found[1][:3] < 2_000).all()


def test_without_times_the_answer_is_that_of_the_merged_levels(inputs):
    """Half an ensemble's members must not go on believing in clocks."""
    features, rows = inputs
    members = [timed_member(seed, shift=0.02 * seed) for seed in (1, 2)]
    ensemble, levels = TimedEnsembleNet(members), EnsembleNet([m.levels for m in members])
    for network in (ensemble, levels):
        network.disagreement_weight.fill_(2.0)
    with torch.no_grad():
        both, alone = ensemble(features, rows), levels(features)
    for found, expected in zip(both[:2], alone, strict=True):
        torch.testing.assert_close(found[4:7], expected[4:7], rtol=1e-5, atol=1e-6)
    # The members disagree along the diagonal; the other file has no output for that.
    tilt = 2 * 0.01**2 / (0.1**2 + 2 * 0.01**2)
    assert both[2][4:7].tolist() == pytest.approx([tilt] * 3, rel=1e-3)


def test_one_member_without_an_answer_leaves_none(inputs):
    """The rest of an ensemble is another model, which nobody calibrated."""
    features, rows = inputs
    timed = TimedEnsembleNet([timed_member(1), timed_member(2, shift=float("nan"))])
    plain = EnsembleNet([member(), member(shift=float("nan"))])
    for position, uncertainty, *_ in (timed(features, rows), plain(features)):
        assert position.isnan().all()
        assert uncertainty.isnan().all()


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


def test_disagreement_counts_as_much_as_the_truth_warrants():
    """By hand: errors of 0.05, members sure to 0.04 and 0.06 off: 0.0025 = 0.0016 + w 0.0036."""
    ensemble = EnsembleNet([member(-0.06, 0.04), member(0.06, 0.04)])
    ensemble.calibrate(batches(positions_deg(400)))
    assert float(ensemble.disagreement_weight) == pytest.approx(0.25, rel=0.35)


def test_disagreement_is_weighed_on_what_is_served():
    """With times the members agree, and nothing tells; without them it is that of levels."""
    members = [timed_member(1, shift=-0.06, sigma=0.04), timed_member(2, shift=0.06, sigma=0.04)]
    ensemble = TimedEnsembleNet(members)
    sessions = batches(positions_deg(60), timed=True)
    ensemble.calibrate(sessions)
    with_times = float(ensemble.disagreement_weight)
    for batch in sessions:
        batch["arrivals"] *= 0
    ensemble.calibrate(sessions)
    assert float(ensemble.disagreement_weight) < 0.6 < with_times


@settings(max_examples=20)
@given(st.floats(-0.5, 0.5), st.floats(0.01, 1))
def test_members_that_agree_are_left_as_they_are(shift, sigma):
    """Whatever the errors of the validation sessions are."""
    ensemble = EnsembleNet([member(shift, sigma), member(shift, sigma)])
    ensemble.calibrate(batches(positions_deg(40)))
    assert float(ensemble.disagreement_weight) == pytest.approx(1.0)


def test_too_few_sessions_leave_disagreement_its_full_weight():
    """A factor fitted on a handful is chance."""
    ensemble = EnsembleNet([member(), member()])
    ensemble.disagreement_weight.fill_(0.5)
    with pytest.raises(ModelError, match="20 sessions"):
        ensemble.calibrate(batches(positions_deg(20)))
    assert ensemble.disagreement_weight == 1
    with pytest.raises(ModelError, match="no sessions"):
        ensemble.calibrate([])
    broken = EnsembleNet([member(), member(shift=float("nan"))])
    with pytest.raises(ModelError, match="finite: False"):
        broken.calibrate(batches(positions_deg(40)))


MOVED = type(REGION)(REGION.latitude_deg + 0.5, REGION.longitude_deg, REGION.scale_m)


@pytest.mark.parametrize(
    ("stranger", "message"),
    [
        (
            member(region=MOVED),
            r"member 3 .* with member 1: its region is .*45\.45.*, not .*44\.95",
        ),
        (member(mean=MEAN[:3]), r"\(3, 4, 1\), not \(7, 4, 1\)"),
        (member(mean=MEAN + 0.5), r"member 3 .* 0\.5 dB"),
    ],
)
def test_a_stranger_among_the_members_is_named(stranger, message):
    """Their plane units would mean other places, their channels other receivers."""
    with pytest.raises(ModelError, match=message):
        EnsembleNet([member(), member(0.1), stranger])


def test_members_with_other_receivers_of_times_or_none_at_all_are_refused():
    """Each row of the times belongs to a place."""
    with pytest.raises(ModelError, match="no networks"):
        EnsembleNet([])
    swapped = (SITES[1], SITES[0], *SITES[2:])
    message = r"b\.ckpt cannot be merged with a\.ckpt: receiver 1 .* 50\.\d km"
    with pytest.raises(ModelError, match=message):
        TimedEnsembleNet([timed_member(1), timed_member(2, swapped)], ["a.ckpt", "b.ckpt"])
    with pytest.raises(ModelError, match="takes arrival times of 6 receivers, not 7"):
        TimedEnsembleNet([timed_member(1), timed_member(2, SITES[:6])])
    with pytest.raises(ModelError, match=r"its region is"):
        TimedEnsembleNet([timed_member(1), timed_member(2, region=MOVED)])


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
