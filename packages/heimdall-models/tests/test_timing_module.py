"""Training of the timing network: nuisances, loss, calibration."""

import math
from dataclasses import fields, replace

import lightning
import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.timing.module import TimingConfig, TimingModule, mixture_nll, timing_loss
from heimdall_models.timing.network import TimingEstimate, TimingNet, region_prior, strangeness
from heimdall_models.timing.nuisances import TimingNuisances, disturbed
from hypothesis import given
from hypothesis import strategies as st
from timing_cases import REGION, SITES, arrivals, inside, positions_deg, units
from torch.utils.data import DataLoader

NOTHING = TimingNuisances(lost=0, noisy=0, bad_clocks=0, detours=0, misread=0)
NUISANCES = {field.name for field in fields(NOTHING)}
HEARD, ARRIVAL, SIGMA, SNR, MISFIT = range(5)


def generator(seed=0):
    """Of nuisances."""
    return torch.Generator().manual_seed(seed)


def rows(n):
    """Clean times of many sessions."""
    return torch.from_numpy(arrivals(positions_deg(n)))


seeds = st.integers(0, 2**31)
FEW, MANY = rows(50), rows(2000)


@given(seeds)
def test_nothing_may_happen(seed):
    """All shares zero: the times are as they were."""
    assert torch.equal(disturbed(FEW, NOTHING, generator(seed)), FEW)


@given(seeds)
def test_the_same_generator_disturbs_alike(seed):
    """A seed is a training run; and a dataset in memory must not drift from epoch to epoch."""
    one = disturbed(FEW, TimingNuisances(), generator(seed))
    assert torch.equal(FEW, rows(50))
    assert torch.equal(one, disturbed(FEW, TimingNuisances(), generator(seed)))
    assert not torch.equal(one, disturbed(FEW, TimingNuisances(), generator(seed + 1)))


@given(seeds)
def test_whatever_happens_rows_stay_rows_of_the_extractor(seed):
    """Lost receivers are zeros throughout, and no sigma falls below what it was."""
    changed = disturbed(FEW, TimingNuisances(), generator(seed))
    heard = changed[..., HEARD] > 0
    assert not changed[~heard].any()
    assert (changed[heard][:, SIGMA] >= FEW[heard][:, SIGMA] * (1 - 1e-6)).all()
    assert changed.isfinite().all()


@given(seeds, st.floats(0.1, 0.9))
def test_one_to_three_receivers_are_lost_where_asked(seed, share):
    """Their rows are zero, as if the receivers had never been there."""
    changed = disturbed(MANY, replace(NOTHING, lost=share), generator(seed))
    n_lost = (changed[..., HEARD] == 0).sum(dim=1)
    assert (n_lost > 0).float().mean().item() == pytest.approx(share, abs=0.06)
    assert set(n_lost.tolist()) == {0, 1, 2, 3}


@given(seeds, st.floats(1, 29))
def test_less_signal_means_more_noise_than_before(seed, loss_db):
    """Sigma says by how much; SNR falls with it."""
    weak = replace(NOTHING, noisy=1, noise_db=(loss_db, loss_db))
    after = disturbed(MANY, weak, generator(seed))
    assert torch.allclose(after[..., SIGMA], MANY[..., SIGMA] * 10 ** (loss_db / 20), rtol=1e-4)
    assert torch.allclose(after[..., SNR], MANY[..., SNR] - loss_db, atol=1e-3)
    added = (after - MANY)[..., ARRIVAL].std().item()
    assert added == pytest.approx(0.1 * (10 ** (loss_db / 10) - 1) ** 0.5, rel=0.05)


@given(seeds, st.floats(0.5, 20))
def test_clocks_are_off_both_ways_and_detours_are_late(seed, us):
    """A path cannot be shorter than the straight line."""
    clocks = replace(NOTHING, bad_clocks=1, clock_error_us=(us, us))
    off = (disturbed(MANY, clocks, generator(seed)) - MANY)[..., ARRIVAL]
    assert off.std().item() == pytest.approx(us, rel=0.05)
    assert off.mean().abs().item() < 0.06 * us
    blocked = replace(NOTHING, detours=1, blocked=(0.3, 0.3), detour_us=(us, us))
    late = (disturbed(MANY, blocked, generator(seed)) - MANY)[..., ARRIVAL]
    assert (late > -1e-4).all()
    assert (late > 1e-3).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert late[late > 1e-3].mean().item() == pytest.approx(us, rel=0.1)


def test_a_misfit_that_is_an_echo_is_worse_than_sigma_says():
    """Noise averages out over the samples, and sigma counts on it; an echo does not."""
    after = disturbed(MANY, replace(NOTHING, misread=1, misfit_db=(20.0, 20.0)), generator())
    more_db = (after - MANY)[..., MISFIT]
    assert more_db.max().item() == pytest.approx(20, abs=0.1)
    assert torch.allclose(after[..., SIGMA], MANY[..., SIGMA] * 10 ** (more_db / 20), rtol=1e-4)
    deviations = ((after - MANY)[..., ARRIVAL] / after[..., SIGMA])[more_db > 15]
    assert 1.5 < deviations.std().item() < 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lost": 1.5}, "lost is 1.5"),
        ({"bad_clocks": 0.6, "detours": 0.6}, "exclude each other"),
        ({"detour_us": (0.0, 1.0)}, "detour_us is"),
        ({"noise_db": [30.0, 0.1]}, "noise_db is"),
        ({"noise_db": (0.1,)}, "noise_db is"),
        ({"noise_db": [0.1, 1.0, 30.0]}, "noise_db is"),
        ({"warmup_fraction": 1.0}, "warmup_fraction is 1.0"),
        ({"receiver_delays_s": (math.inf,)}, "receiver_delays_s is"),
        ({"receiver_delay_spreads_s": (-1e-6,)}, "receiver_delay_spreads_s is"),
        ({"warmup_fraction": math.nan}, "warmup_fraction is nan"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    """With the name and the value; limits that were read from JSON are lists."""
    with pytest.raises(ModelError, match=message):
        (TimingNuisances if set(wrong) <= NUISANCES else TimingConfig)(**wrong)
    assert TimingNuisances(noise_db=[0.1, 30.0]).noise_db == [0.1, 30.0]


def test_the_loss_has_finite_gradients_where_times_make_no_sense():
    """One absurd recording must not end a night of training."""
    net = TimingNet(REGION, SITES)
    absurd = rows(8)
    absurd[:, 1, ARRIVAL] = 1e6
    absurd[:, 2, SIGMA] = 1e-6
    absurd[3] = 0
    loss = timing_loss(net, net.explain(absurd, region_prior(8)), units(positions_deg(8)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_the_likelihood_prefers_the_truth():
    """A position 1 km off must cost more than the true one."""
    net, truth = TimingNet(REGION, SITES), positions_deg(100)
    explained = net.explain(rows(100), region_prior(100))
    away = units(truth) + 1000 / REGION.scale_m
    assert mixture_nll(explained, units(truth)) < mixture_nll(explained, away) - 10


@pytest.mark.parametrize("n_sessions", [0, 1, 29])
def test_too_few_sessions_calibrate_nothing(n_sessions):
    """A share of ten sessions is no share."""
    module = TimingModule(TimingConfig(), REGION, SITES)
    with pytest.raises(ModelError, match=f"{n_sessions} sessions to calibrate on"):
        module.calibrate(FEW[:n_sessions], units(positions_deg(50))[:n_sessions])


QUIET = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


def trained(seed):
    """A few steps on clean times."""
    lightning.seed_everything(seed, verbose=False)
    module = TimingModule(TimingConfig(), REGION, SITES)
    data = [
        {"arrivals": row, "target": target}
        for row, target in zip(rows(64), units(positions_deg(64)), strict=True)
    ]
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **QUIET)
    trainer.fit(module, DataLoader(data, 32, shuffle=True), DataLoader(data, 32))
    return module.eval()


@pytest.mark.slow
def test_training_is_reproducible_and_calibration_is_of_its_own():
    """The same seed, the same weights; ellipses of both levels hold on what calibrates them."""
    module, other = trained(1), trained(1)
    for a, b in zip(module.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)
    truth = positions_deg(400, seed=9)
    times = torch.from_numpy(arrivals(truth, sigma_us=0.2, seed=10))
    times[..., SIGMA] = 0.1  # it claims too much
    module.calibrate(times, units(truth))
    assert module.net.log_temperature.item() > 0.1
    with torch.no_grad():
        found = module.net(times, region_prior(400))
    assert inside(found, truth, 0.68) == pytest.approx(0.68, abs=0.06)
    assert module.net.unexplained_limit.item() >= 1


def test_strange_sessions_are_honest_as_nuisances_make_them():
    """Three receivers have nothing left over to tell a bad clock by; ellipses must allow for it."""
    truth = positions_deg(400, seed=5)
    times = torch.from_numpy(arrivals(truth, sigma_us=0.1, seed=6))[:, :3]
    clocks = replace(NOTHING, bad_clocks=1, clock_error_us=(20.0, 20.00001))
    module = TimingModule(TimingConfig(nuisances=clocks), REGION, SITES[:3])
    module.calibrate(times, units(truth))
    with torch.no_grad():
        worse = disturbed(times, clocks, generator(8))
        found = module.net(worse, region_prior(400))
    strange = strangeness(found, module.net.usual).amax(dim=1) >= 0.5
    assert strange.sum() > 50
    some = TimingEstimate(*(part[strange] for part in found))
    assert inside(some, truth[strange.numpy()], 0.95) > 0.85
    assert module.net.log_temperature.exp() >= 0.5


def test_targets_that_are_not_one_for_each_session_are_refused():
    """One column would broadcast, and calibrate on norths that are easts."""
    module = TimingModule(TimingConfig(), REGION, SITES)
    for target in (torch.zeros(40, 1), torch.zeros(39, 2)):
        with pytest.raises(ModelError, match=r"targets must be \(40, 2\)"):
            module.calibrate(rows(40), target)
