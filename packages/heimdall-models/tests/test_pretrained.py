"""Pretrained weights: fitted where they fit, refused where they do not, never random by silence."""

import pickle
import re

import pytest
import timm
import torch
from heimdall_models import LocalizationNet, ModelError
from heimdall_models.backbone import repeated_stem
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def donor():
    """A classifier of colour pictures, as the hub has them."""
    torch.manual_seed(8)
    return timm.create_model("test_convnext", in_chans=3, num_classes=10)


@pytest.fixture(
    params=[
        ("safetensors", "", None),
        ("safetensors", "model.", None),
        ("pth", "", None),
        ("pth", "module.", None),
        ("pth", "module._orig_mod.", "state_dict"),
        ("ckpt", "model.", "state_dict"),
        ("ckpt", "net.backbone.", "state_dict"),
        ("tar", "", "model_ema"),
    ],
    ids=lambda form: "-".join(str(part) for part in form),
)
def weights_file(request, donor, tmp_path):
    """The donor's weights in each form that people hand around."""
    ending, prefix, wrapper = request.param
    state = {f"{prefix}{name}": value for name, value in donor.state_dict().items()}
    path = tmp_path / f"weights.{ending}"
    if ending == "ckpt":
        state["loss.weight"] = torch.ones(1)
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, wrapper: state} if wrapper else state, path)
    return path


@pytest.mark.parametrize("n_receivers", [1, 3, 7])
def test_weights_from_a_file_fit_any_number_of_receivers(weights_file, donor, n_receivers):
    """All but the stem is the donor's; the stem answers equal channels as it answered grey."""
    net = LocalizationNet(n_receivers, "test_convnext", weights=weights_file)
    theirs, ours = donor.state_dict(), net.backbone.state_dict()
    stem = "stem.0.weight"
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name != stem)
    torch.testing.assert_close(ours[stem].sum(dim=1), theirs[stem].sum(dim=1))


def authors_name(name):
    """What the ConvNeXt authors call a tensor of timm's."""
    for timms, theirs in (
        (r"stem\.", "downsample_layers.0."),
        (r"stages\.(\d)\.downsample", r"downsample_layers.\1"),
        (r"\.blocks", ""),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"head\.norm", "norm"),
        (r"head\.fc", "head"),
    ):
        name = re.sub(timms, theirs, name)
    return name


def test_an_older_layout_is_found_behind_a_prefix(tmp_path):
    """The ConvNeXt authors' own names, as their training script on several devices saved them."""
    donor = timm.create_model("convnext_atto", num_classes=10)
    state = donor.state_dict()
    prefixed = {f"module.{authors_name(name)}": value for name, value in state.items()}
    assert "module.stages.0.1.dwconv.weight" in prefixed
    torch.save({"model": prefixed}, path := tmp_path / "authors.pth")
    ours = LocalizationNet(3, "convnext_atto", weights=path).backbone.state_dict()
    assert all(torch.equal(ours[name], state[name]) for name in ours)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_a_stem_answers_equal_channels_as_it_answered_grey(channels, n_receivers, seed):
    """And with as many channels it does not change."""
    weight = torch.rand(4, channels, 2, 2, generator=torch.Generator().manual_seed(seed)) + 0.1
    found = repeated_stem(weight, n_receivers)
    torch.testing.assert_close(found.sum(dim=1), weight.sum(dim=1))
    if n_receivers == channels:
        torch.testing.assert_close(found, weight)


@pytest.mark.parametrize(
    ("other", "dropped", "message"),
    [
        ("test_resnet", (), "its tensor .* does not belong there"),
        ("test_convnext2", (), "have another shape"),
        ("test_convnext", ("stem.0.bias",), r"1 of \d+ tensors .*\(stem.0.bias\)"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, other, dropped, message):
    """Loading what fits and keeping the rest random would look like success."""
    state = timm.create_model(other).state_dict()
    kept = {name: value for name, value in state.items() if name not in dropped}
    save_file(kept, path := tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=f"another architecture than test_convnext: .*{message}"):
        LocalizationNet(backbone="test_convnext", weights=path)


def test_pickled_code_is_not_run(tmp_path):
    """A weights file from a stranger is a program unless it is refused."""
    ran = tmp_path / "ran"

    class Malice:
        def __reduce__(self):
            return ran.touch, ()

    (path := tmp_path / "weights.pth").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(ModelError, match="not loaded, because it could run code"):
        LocalizationNet(backbone="test_convnext", weights=path)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path, name, content):
    """The path is in the message, since a command line gives several."""
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        LocalizationNet(backbone="test_convnext", weights=path)


def test_a_file_without_tensors_or_none_at_all_is_refused(tmp_path):
    """An optimiser's state is a PyTorch file too; a misspelt path is the commonest mistake."""
    torch.save({"epoch": 3}, path := tmp_path / "state.pth")
    with pytest.raises(ModelError, match="holds no named tensors"):
        LocalizationNet(backbone="test_convnext", weights=path)
    with pytest.raises(ModelError, match=r"no weights file at .*absent\.pth"):
        LocalizationNet(backbone="test_convnext", weights=tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("convnext_atto", "no pretrained weights of convnext_atto from the hub .*file"),
        ("convnextv2_small", "hub has no pretrained weights of 'convnextv2_small'"),
    ],
)
def test_weights_that_the_hub_cannot_give_are_an_error(backbone, message):
    """Random weights instead would waste days (tests are offline)."""
    with pytest.raises(ModelError, match=message):
        LocalizationNet(backbone=backbone, weights="hub")
