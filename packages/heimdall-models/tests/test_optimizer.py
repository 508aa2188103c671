"""AdamW and its schedule."""

import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.optimizer import adamw, warmup_cosine
from hypothesis import given
from hypothesis import strategies as st


def network():
    """A matrix, biases and a norm."""
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))


def rates(n_steps, warmup_fraction):
    """The learning rate of each step, of a peak of 1."""
    optimizer = adamw([(network(), 1.0)], 0.0)
    schedule = warmup_cosine(optimizer, n_steps, warmup_fraction)
    seen = []
    for _ in range(n_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


@given(st.integers(2, 60), st.floats(0, 0.9))
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(n_steps, warmup_fraction):
    """A rate of zero at a step would waste it; one above the peak was not asked for."""
    seen = rates(n_steps, warmup_fraction)
    peak = seen.index(max(seen))
    assert all(0 < rate <= 1 for rate in seen[:-1])
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[-1] == pytest.approx(0, abs=1e-9)


@given(st.integers(1, 40))
def test_the_rate_after_the_warm_up_is_pytorch_s_cosine(n_steps):
    """The same curve as torch's own scheduler draws."""
    optimizer = torch.optim.SGD(network().parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps)
    expected = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(n_steps, 0.0)[:n_steps] == pytest.approx(expected)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=4), st.floats(1e-6, 1))
def test_each_part_learns_at_its_rate_and_norms_and_biases_do_not_decay(part_rates, decay):
    """Heads may hurry, a pretrained backbone may not; a norm pulled to zero silences a layer."""
    nets = [network() for _ in part_rates]
    groups = adamw(zip(nets, part_rates, strict=True), decay).param_groups
    assert [group["lr"] for group in groups] == [rate for rate in part_rates for _ in range(2)]
    for net, decaying, steady in zip(nets, groups[::2], groups[1::2], strict=True):
        assert [parameter is net[0].weight for parameter in decaying["params"]] == [True]
        assert (decaying["weight_decay"], steady["weight_decay"]) == (decay, 0.0)
        assert len(steady["params"]) == 3


def test_a_network_that_is_all_frozen_is_refused():
    """An optimiser of nothing would run for hours and change nothing."""
    with pytest.raises(ModelError, match="no parameter of the network trains"):
        adamw([(network().requires_grad_(requires_grad=False), 1e-3)], 0.05)


def test_a_gradient_scaler_leaves_clipping_a_place():
    """Unscaled by the scaler, clipped, and only then stepped: a step of known length."""
    net = torch.nn.Linear(1, 1, bias=False)
    optimizer = adamw([(net, 1.0)], 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(net(torch.ones(1, 1)).sum()).backward()
    scaler.unscale_(optimizer)
    assert net.weight.grad.item() == 1.0
    before = net.weight.item()
    scaler.step(optimizer)
    assert net.weight.item() == pytest.approx(before - 1.0, abs=1e-4)


def test_the_fused_optimiser_takes_the_same_steps():
    """Channels-last kernels and frozen parameters included; it is four times faster on a CPU."""
    trained = []
    for fused in (False, True):
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.LayerNorm(6))
        net.to(memory_format=torch.channels_last)
        net[1].bias.requires_grad_(False)
        optimizer = adamw([(net, 1e-2)], 0.05)
        if not fused:
            plain = [
                {k: g[k] for k in ("params", "lr", "weight_decay")} for g in optimizer.param_groups
            ]
            optimizer = torch.optim.AdamW(plain)
        for _ in range(5):
            net(torch.ones(2, 4, 8, 8)).square().mean().backward()
            optimizer.step()
        trained.append(net)
    for ours, theirs in zip(*(net.parameters() for net in trained), strict=True):
        torch.testing.assert_close(ours, theirs)
