"""What is exported: the same answer from ONNX Runtime as from PyTorch, in degrees and metres."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from heimdall_models import LocalizationNet, ModelError, Region, ServingNet, Standardize
from heimdall_models.serving import plane_to_degrees
from hypothesis import given
from hypothesis import strategies as st

STATISTICS = (np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 12.0))


@pytest.fixture(scope="module", params=[18, 20])
def exported(request, region, tmp_path_factory):
    """A network and its file, at the oldest and the newest operator set that we promise."""
    torch.manual_seed(4)
    serving = ServingNet(
        Standardize(*STATISTICS), LocalizationNet(backbone="convnext_atto"), region
    )
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    torch.onnx.export(
        serving.eval(),
        (torch.full((2, 3, 128, 32), -80.0),),
        path,
        dynamo=True,
        opset_version=request.param,
        input_names=["mel_spectrogram"],
        output_names=["positions", "uncertainties"],
        dynamic_shapes={"mel_spectrogram": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    return serving, path


@given(
    st.floats(-85, 85),
    st.floats(-180, 180),
    st.floats(1e3, 5e5),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_tensors_and_arrays_come_to_the_same_place(latitude, longitude, scale_m, point):
    """The exact conversion judges the one that ONNX Runtime can do: 10 cm at 700 km."""
    region = Region(latitude, longitude, scale_m)
    exact = region.to_degrees(np.array([point]))
    ours = plane_to_degrees(region, torch.tensor([point], dtype=torch.float64)).numpy()
    # Longitudes differ by whole turns where the meridian is crossed.
    turns = np.abs((ours - exact + 180) % 360 - 180)
    assert turns[0, 0] * 111_000 < 0.1
    assert turns[0, 1] * 111_000 * np.cos(np.radians(exact[0, 0])) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 8, 16, 32, 64])
def test_onnx_runtime_agrees_at_every_batch_size(exported, batch):
    """The service never sees PyTorch; a float32 degree is 4e-6 coarse, a metre of sigma is not."""
    serving, path = exported
    features = torch.randn(batch, 3, 128, 32, generator=torch.Generator().manual_seed(batch))
    features = features * 12 - 80
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    positions, uncertainties = session.run(None, {"mel_spectrogram": features.numpy()})
    with torch.no_grad():
        expected = serving(features)
    np.testing.assert_allclose(positions, expected[0].numpy(), atol=2e-5)
    np.testing.assert_allclose(uncertainties, expected[1].numpy(), rtol=1e-4)
    assert positions.dtype == uncertainties.dtype == np.float32


@pytest.mark.slow
def test_the_file_is_valid_with_a_dynamic_batch_and_degrees_in_float64(exported):
    """The contract's names; a float32 Earth radius is half a metre coarse, its square far more."""
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    (given,) = model.graph.input
    assert given.name == "mel_spectrogram"
    assert given.type.tensor_type.shape.dim[0].dim_param
    assert [output.name for output in model.graph.output] == ["positions", "uncertainties"]
    casts = [a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute]
    assert onnx.TensorProto.DOUBLE in casts


@given(st.builds(Region, st.floats(-85, 85), st.floats(-179, 179), st.floats(1e3, 5e5)))
def test_a_network_that_answers_zero_is_at_the_centre(region):
    """Zero units are the region's centre, and sigma units are scale metres."""

    class Still(torch.nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 2), x.new_full((len(x), 2), 0.25)

    serving = ServingNet(Standardize(*STATISTICS), Still(), region)
    position, uncertainty = serving(torch.zeros(1, 3, 128, 32))
    assert position[0].tolist() == pytest.approx(
        [region.latitude_deg, region.longitude_deg], abs=1e-5
    )
    assert uncertainty[0].tolist() == pytest.approx([region.scale_m / 4] * 2)


@given(st.floats(-200, 200), st.floats(0.125, 50), st.floats(-5, 5))
def test_standardizing_counts_deviations_from_the_mean(mean, std, deviations):
    """The graph normalises as training did."""
    standardize = Standardize([[[mean]], [[mean]]], [[[std]], [[std]]])
    features = torch.full((1, 2, 1, 1), mean + deviations * std)
    assert standardize(features).flatten().tolist() == pytest.approx([deviations] * 2, abs=1e-3)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([1.0, 2.0], [1.0], r"mean \(2,\) and std \(1,\) differ"),
        ([1.0, 2.0], [1.0, 0.0], "the least deviation is 0"),
        ([1.0, float("nan")], [1.0, 1.0], "finite means"),
    ],
)
def test_statistics_that_cannot_normalise_are_refused(mean, std, message):
    """A silent band has deviation zero, and would divide every session by it."""
    with pytest.raises(ModelError, match=message):
        Standardize(mean, std)


def test_leaning_ellipses_have_one_output_more(region):
    """Two outputs are the contract's; whoever asks for ellipses that lean gets the third."""
    torch.manual_seed(4)
    features = torch.randn(5, 3, 128, 32) * 12 - 80
    for tilted in (False, True):
        net = LocalizationNet(backbone="test_convnext", tilted=tilted)
        serving = ServingNet(Standardize(*STATISTICS), net, region).eval()
        with torch.no_grad():
            found = serving(features)
            answer = net.answer(serving.standardize(features))
        assert torch.equal(found[1], answer.sigma * region.scale_m)
        assert len(found) == 2 + tilted
        if tilted:
            assert torch.equal(found[2], answer.correlation)


def test_features_of_other_receivers_than_the_statistics_are_refused(region):
    """With both shapes, before torch speaks of tensors a and b."""
    net = ServingNet(Standardize(*STATISTICS), LocalizationNet(backbone="test_convnext"), region)
    with pytest.raises(ModelError, match=r"\(2, 7, 128, 32\) do not fit .* \(3, 128, 1\)"):
        net(torch.zeros(2, 7, 128, 32))
