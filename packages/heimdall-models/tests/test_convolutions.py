"""Our convolutions against torch's: the same answers, also where torch's are wrong."""

import pytest
import timm
import torch
from heimdall_models.execution import SpareConv2d, spare, without_idle_taps
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

odd = st.sampled_from([1, 3, 5, 7])


def answer_and_gradients(convolution, x):
    """What a layer computes in a training step."""
    x = x.clone().requires_grad_()
    y = convolution(x)
    y.float().square().sum().backward()
    return y, x.grad, convolution.weight.grad, convolution.bias.grad


@given(
    st.tuples(odd, odd),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.integers(0, 1000),
)
def test_idle_taps_are_left_out_without_a_trace(kernel, image, groups, layout, seed):
    """Any kernel on any image, dense or grouped: outputs and gradients are torch's."""
    torch.manual_seed(seed)
    padding = tuple(length // 2 for length in kernel)
    plain = nn.Conv2d(4, 8, kernel, padding=padding, groups=groups).double()
    ours = SpareConv2d(4, 8, kernel, padding=padding, groups=groups).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, *image, dtype=torch.float64).to(memory_format=layout)
    for mine, theirs in zip(
        answer_and_gradients(ours, x), answer_and_gradients(plain, x), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_only_taps_within_reach_are_kept():
    """By hand: in 8 x 2 a tap reaches 3 up and down and 1 to the side; in 4 x 1 none."""
    weight = torch.arange(49.0).reshape(1, 1, 7, 7)
    kept, padding = without_idle_taps(weight, torch.Size((8, 2)))
    assert torch.equal(kept, weight[:, :, :, 2:5])
    assert padding == (3, 1)
    kept, padding = without_idle_taps(weight, torch.Size((4, 1)))
    assert torch.equal(kept, weight[:, :, :, 3:4])
    assert padding == (3, 0)


@pytest.mark.parametrize(
    "layer",
    [
        {"stride": 2, "padding": 0},
        {"stride": 1, "padding": 0},
        {"stride": 1, "padding": 2, "dilation": 2},
        {"stride": 1, "padding": 2},
    ],
)
def test_other_convolutions_keep_all_their_taps(layer):
    """A strided, dilated or unevenly padded kernel reaches elsewhere."""
    torch.manual_seed(1)
    ours = SpareConv2d(4, 4, 3, **layer)
    x = torch.randn(2, 4, 7, 6)
    assert torch.equal(ours(x), conv2d(x, ours.weight, ours.bias, **layer))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "groups", "image"),
    [
        ((48, 64), 2, 2, 0, 1, (8, 2)),
        ((256, 512), 3, 2, 1, 1, (8, 2)),
        ((24, 48), 4, 4, 0, 1, (4, 32)),
        ((64, 64), 7, 2, 3, 1, (8, 1)),
        ((160, 160), 7, 1, 3, 160, (8, 2)),
    ],
)
def test_bfloat16_gives_float32_s_answers(channels, kernel, stride, padding, groups, image):
    """On CPUs with AMX, torch's own leaves parts of the first four unset, or of their gradients."""
    torch.manual_seed(2)
    ours = SpareConv2d(*channels, kernel, stride, padding, groups=groups)
    x = torch.randn(16, channels[0], *image)
    full = answer_and_gradients(ours, x)
    ours.zero_grad()
    # Memory that the allocator hands out again is then not right by chance.
    [torch.full((n,), torch.nan) for n in (10**3, 10**4, 10**5, 10**6)]
    with torch.autocast("cpu", torch.bfloat16):
        half = answer_and_gradients(ours, x)
    assert half[0].dtype == torch.bfloat16
    for mine, theirs in zip(half, full, strict=True):
        torch.testing.assert_close(
            mine.float(), theirs, rtol=0.05, atol=0.02 * theirs.abs().max().item()
        )


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "resnet18"])
def test_a_whole_backbone_stays_finite_in_bfloat16(name):
    """What training sees: a stem and several downsamplings, down to one column."""
    torch.manual_seed(3)
    backbone = timm.create_model(name, in_chans=3, num_classes=0).train()
    spare(backbone)
    for _ in range(3):  # Unset memory differs from one time to the next.
        [torch.full((n,), torch.nan) for n in (10**3, 10**4, 10**5, 10**6)]
        with torch.autocast("cpu", torch.bfloat16):
            features = backbone(torch.randn(16, 3, 128, 32))
        assert features.isfinite().all()


def test_names_and_weights_stay():
    """Checkpoints of before must load, and those of now elsewhere."""
    backbone = timm.create_model("test_convnext")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    spare(backbone)
    assert any(isinstance(module, SpareConv2d) for module in backbone.modules())
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
