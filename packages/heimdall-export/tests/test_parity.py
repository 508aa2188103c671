"""Parity: what passes must be equal, and what is not equal must not pass."""

import copy

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError, check_parity
from hypothesis import given, settings
from hypothesis import strategies as st


def test_the_exported_file_agrees_with_its_network(onnx_path, network, features, scale_m):
    """The promise of the whole package."""
    report = check_parity(onnx_path, network, features, scale_m=scale_m)
    assert report.mean_difference < 1e-5
    assert report.max_difference < 1e-4
    assert report.worst_m == pytest.approx(report.max_difference * scale_m)
    assert (report.n_features, report.batch_sizes) == (70, (1, 4, 8, 16, 32, 64))


@settings(max_examples=10)
@given(north_m=st.floats(20, 2000), east_m=st.floats(20, 2000))
def test_any_difference_that_matters_is_found_and_told_in_metres(
    onnx_path, network, features, scale_m, north_m, east_m
):
    """A file that is off by metres must be stopped, and the message must say by how many."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.bias[:2] += torch.tensor([north_m / 111_120, east_m / 78_850]) / 0.5
    with pytest.raises(ExportError, match=r"differs from its network by .* in the mean") as told:
        check_parity(onnx_path, other, features[:8], scale_m=scale_m, batch_sizes=(8,))
    worst_m = float(str(told.value).split("and by ")[1].split(" m at worst")[0])
    assert worst_m == pytest.approx(max(north_m, east_m), rel=0.06)


@settings(max_examples=10)
@given(n=st.integers(1, 70), batch_size=st.integers(1, 70), data=st.data())
def test_no_sample_is_left_out_of_the_comparison(
    onnx_path, network, features, scale_m, n, batch_size, data
):
    """Neither the last one, which may be in no full batch, nor any other."""
    place = data.draw(st.integers(0, n - 1))
    off = copy.deepcopy(network)

    def forward(batch):
        positions, sigmas = network(batch)
        wrong = (batch == torch.from_numpy(features[place])).flatten(1).all(dim=1)
        return positions + wrong[:, None] * 1.0, sigmas

    off.forward = forward
    with pytest.raises(ExportError, match=f"on {n} feature tensors"):
        check_parity(onnx_path, off, features[:n], scale_m=scale_m, batch_sizes=(batch_size,))


def test_an_answer_of_nan_does_not_pass(onnx_path, network, features, scale_m):
    """NaN compares false with everything, also with the limit."""
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.head.bias.fill_(torch.nan)
    with pytest.raises(ExportError, match="differs from its network by nan"):
        check_parity(onnx_path, broken, features, scale_m=scale_m)


def test_a_file_with_one_changed_weight_does_not_pass(
    onnx_path, network, features, scale_m, tmp_path
):
    """Parity judges the file on disk: damage after export must show."""
    model = onnx.load(onnx_path)
    bias = next(w for w in model.graph.initializer if list(w.dims) == [4])
    changed = onnx.numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ExportError, match="differs from its network"):
        check_parity(tmp_path / "changed.onnx", network, features, scale_m=scale_m)


def test_the_network_keeps_its_mode(onnx_path, network, features, scale_m):
    """Training may go on after an export in between."""
    network.train()
    try:
        check_parity(onnx_path, network, features[:4], scale_m=scale_m, batch_sizes=(4,))
        assert network.training
    finally:
        network.eval()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f[:0], "no features"),
        (lambda f: np.where(np.arange(70)[:, None, None, None] == 3, np.nan, f), "tensor 3 of 70"),
        (lambda f: f[:, :2], r"float32 \(70, 2, 128, 32\)"),
        (lambda f: f.astype(np.float64), r"float64 \(70, 3, 128, 32\)"),
    ],
)
def test_features_that_prove_nothing_are_refused(
    onnx_path, network, features, scale_m, change, said
):
    """A comparison on the wrong features passes for the wrong reason."""
    with pytest.raises(ExportError, match=said):
        check_parity(onnx_path, network, change(features), scale_m=scale_m)


def test_a_file_that_is_not_onnx_is_named(network, features, scale_m, tmp_path):
    """A wrong path is the commonest mistake."""
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ExportError, match=r"cannot load .*notes\.txt"):
        check_parity(tmp_path / "notes.txt", network, features, scale_m=scale_m)
    with pytest.raises(ExportError, match=r"gone\.onnx"):
        check_parity(tmp_path / "gone.onnx", network, features, scale_m=scale_m)
