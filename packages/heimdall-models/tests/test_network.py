"""The network: its shapes, its bounds, its gradients, and what it refuses."""

import math

import pytest
import torch
from heimdall_models import LocalizationNet, ModelError
from heimdall_models.network import BoundedSigma
from hypothesis import given
from hypothesis import strategies as st

anything = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture(scope="module")
def atto():
    """The demo's network."""
    torch.manual_seed(3)
    return LocalizationNet(backbone="convnext_atto")


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_cp5_1_a_forward_pass_gives_float32_positions_and_positive_sigmas(atto, batch):
    """CP5.1: two numbers and how sure of each; too sure at the start, and first steps explode."""
    with torch.no_grad():
        position, sigma = atto.eval()(torch.randn(batch, 3, 128, 32))
    assert position.shape == sigma.shape == (batch, 2)
    assert position.dtype == sigma.dtype == torch.float32
    assert (sigma > 0).all()
    assert 0.2 < sigma.median() < 0.45


@pytest.mark.parametrize("batch", [1, 64])
def test_cp5_1_gradients_reach_every_parameter(atto, batch):
    """CP5.1: a parameter that nothing reaches is dead weight or a mistake."""
    atto.train().zero_grad()
    position, sigma = atto(torch.randn(batch, 3, 128, 32))
    (position.square() + sigma.log()).sum().backward()
    unreached = [
        name
        for name, parameter in atto.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert unreached == []


@given(anything, st.floats(1e-3, 0.4), st.floats(0.5, 10))
def test_sigma_stays_within_its_bounds_and_keeps_a_gradient(raw, low, high):
    """A clamp stops learning at the bound; an underflowing sigmoid does too."""
    value = torch.tensor(raw, requires_grad=True)
    sigma = BoundedSigma(low, high)(value)
    assert low * (1 - 1e-5) <= sigma.item() <= high * (1 + 1e-5)
    sigma.backward()
    assert value.grad.isfinite()
    # 1/r^2 underflows float32 beyond 1e19; no optimiser comes near.
    assert value.grad > 0 or abs(raw) > 1e18


@given(st.floats(-100, 100), st.floats(0.01, 10))
def test_sigma_grows_with_its_raw_output(raw, step):
    """Otherwise two outputs would claim one sigma, and training could stall between them."""
    bounded = BoundedSigma(0.01, 1.0).double()
    raws = torch.tensor([raw, raw + step], dtype=torch.float64, requires_grad=True)
    lower, upper = bounded(raws)
    assert upper > lower


@given(st.floats(0.02, 0.5))
def test_a_raw_output_is_found_for_any_sigma_within_the_bounds(sigma):
    """Heads correct the posterior's sigma, which must come through when they say nothing."""
    bounded = BoundedSigma(0.01, 1.0).double()
    wanted = torch.tensor(sigma, dtype=torch.float64)
    assert bounded(bounded.raw(wanted)).item() == pytest.approx(sigma)


@given(st.floats(0.01, 0.4), st.floats(0.5, 10))
def test_the_gradient_of_sigma_at_zero_is_that_of_the_curve(low, high):
    """Where training starts, both halves of the curve meet: slope sigma log(max / min) / 2."""
    raw = torch.tensor(0.0, requires_grad=True)
    sigma = BoundedSigma(low, high)(raw)
    sigma.backward()
    assert sigma.item() == pytest.approx(math.sqrt(low * high))
    assert raw.grad.item() == pytest.approx(sigma.item() * math.log(high / low) / 2)


def test_a_level_difference_alone_moves_the_answer(atto):
    """Position is in the differences between the receivers' levels; none may be normalised away."""
    quiet = torch.randn(1, 3, 128, 32)
    louder = quiet + torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        assert (atto.eval()(quiet)[0] - atto(louder)[0]).abs().max() > 1e-3


def test_mixed_precision_leaves_positions_in_float32(atto):
    """A bfloat16 position is 400 m coarse; the same features must give the same position."""
    features, x = torch.randn(4, 320), torch.randn(4, 3, 128, 32)
    with torch.no_grad():
        expected = atto.eval().heads(features, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = atto.heads(features, x)
    assert torch.equal(answer.position, expected.position)
    assert torch.equal(answer.sigma, expected.sigma)


@pytest.mark.parametrize(
    "backbone",
    ["test_convnext", "test_resnet", "test_efficientnet", "test_vit", "mobilenetv3_small_050"],
)
@pytest.mark.parametrize("n_receivers", [1, 7])
def test_any_timm_backbone_serves_any_number_of_receivers(backbone, n_receivers):
    """Convolutions, attention with a fixed input size, and heads of several kinds."""
    net = LocalizationNet(n_receivers, backbone).eval()
    position, sigma = net(torch.randn(2, n_receivers, 128, 32))
    assert position.shape == sigma.shape == (2, 2)


def test_a_frozen_backbone_does_not_move_until_it_is_unfrozen():
    """Neither its weights nor, in training mode, its running statistics."""
    net = LocalizationNet(backbone="test_resnet", freeze_backbone=True).train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    position, sigma = net(torch.randn(4, 3, 128, 32))
    (position.sum() + sigma.sum()).backward()
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    assert net.heads.position.weight.grad is not None
    after = net.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    net.unfreeze()
    assert net.backbone.training
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "convnext_ato"}, "'convnext_ato'; did you mean .*convnext_atto"),
        ({"n_receivers": 0}, "n_receivers is 0"),
        ({"sigma_min": 0.0}, "sigma bounds 0.0 to 1.0"),
        ({"sigma_min": 2.0}, "sigma bounds 2.0 to 1.0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, message):
    """The message names the value; a misspelt name must never become another network."""
    with pytest.raises(ModelError, match=message):
        LocalizationNet(**{"backbone": "test_convnext", **arguments})


def test_an_input_of_another_shape_is_refused(atto):
    """Timm would take it, and answer with confidence."""
    with pytest.raises(ModelError, match=r"takes \(batch, 3, 128, 32\); got \(2, 4, 128, 32\)"):
        atto(torch.randn(2, 4, 128, 32))
