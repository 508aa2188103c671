"""Smaller files of a model: what changes, what may not, and which one is chosen."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError, Predictor, export_onnx
from heimdall_export.graph.quantize import KINDS, Range, pack_matrix, quantize_model
from heimdall_export.graph.rewrite import fold_channel_scales, pointwise_as_products
from heimdall_export.graph.variants import Variant, at_precision, fastest, is_faithful
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.session import Sample, open_session
from heimdall_models import LocalizationNet, Region, ServingNet, Standardize
from hypothesis import assume, given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

SCALE_M = 80_000.0
CALIBRATION = {"heimdall.calibration": '{"Torino": 1e-06}'}


@pytest.fixture(scope="module")
def serving():
    """A ConvNeXt with products of matrices, as the larger ones have; nothing in it is trained."""
    torch.manual_seed(0)
    mean = np.full((3, 128, 1), -60.0)
    network = LocalizationNet(3, "test_convnext")
    with torch.no_grad():
        for head in (network.heads.position, network.heads.spread):
            head.weight *= 20  # so that what the backbone says moves the position
        for name, values in network.backbone.named_parameters():
            if name.endswith("gamma"):
                values.fill_(1.0)  # a new ConvNeXt's blocks say next to nothing
    serving = ServingNet(
        Standardize(mean, np.full_like(mean, 20.0)), network, Region(45.0, 8.0, SCALE_M)
    )
    return serving.eval()


@pytest.fixture(scope="module")
def float_path(serving, metadata, tmp_path_factory):
    """Its model file."""
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    return export_onnx(serving, path, metadata=metadata | CALIBRATION)


@pytest.fixture(scope="module")
def exported_path(serving, metadata, tmp_path_factory):
    """The same by `torch.export`."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return export_onnx(serving, path, metadata=metadata | CALIBRATION, dynamo=True)


@pytest.fixture(scope="module")
def network_14(serving, metadata, tmp_path_factory):
    """The same for an old runtime."""
    path = tmp_path_factory.mktemp("old") / "model.onnx"
    return export_onnx(serving, path, metadata=metadata, opset=14)


@pytest.fixture(scope="module")
def variants(float_path, features, tmp_path_factory):
    """The model at each precision."""
    folder = tmp_path_factory.mktemp("variants")
    return {
        kind: quantize_model(float_path, folder / f"{kind}.onnx", kind, features=features)
        for kind in KINDS
    }


def positions_m(path, features):
    """Positions north and east of 45 N, 8 E, in metres, roughly."""
    degrees = open_session(path).run(["positions"], {"mel_spectrogram": features})[0]
    return (degrees - [45.0, 8.0]) * [111_132.0, 78_847.0]


@pytest.mark.parametrize(("kind", "most_m"), [("fp16", 60.0), ("bf16", 300.0), ("int8", 900.0)])
def test_a_variant_says_nearly_what_the_model_says(kind, most_m, variants, float_path, features):
    """Positions are spread over 18 km here; rounding may move them, a fault would more."""
    plain = positions_m(float_path, features)
    moved = np.linalg.norm(positions_m(variants[kind], features) - plain, axis=1)
    assert np.linalg.norm(plain.std(axis=0)) > 10_000
    assert 0 < moved.max() < most_m


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_file_of_torchs_other_exporter_becomes_as_small(
    kind, exported_path, variants, float_path, features, tmp_path
):
    """Rewrites look for patterns of nodes; unseen ones would leave weights as they were."""
    small = quantize_model(exported_path, tmp_path / "small.onnx", kind, features=features)
    assert small.stat().st_size < 1.02 * variants[kind].stat().st_size
    apart = positions_m(small, features) - positions_m(variants[kind], features)
    rounding = positions_m(variants[kind], features) - positions_m(float_path, features)
    assert np.abs(apart).max() < np.abs(rounding).max()


def test_four_bits_say_about_what_the_model_says(variants, float_path, features):
    """Far coarser, and every weight here counts twenty times; but nothing is shifted as a whole."""
    plain = positions_m(float_path, features)
    moved = positions_m(variants["int4"], features) - plain
    assert (np.abs(moved.mean(axis=0)) < 0.1 * plain.std(axis=0)).all()
    assert (moved.std(axis=0) < 0.45 * plain.std(axis=0)).all()
    assert moved.std() > 500.0


@given(
    values=st.lists(st.floats(-10, 10, width=32), min_size=64, max_size=64),
    columns=st.sampled_from([1, 2, 16]),
)
def test_four_bits_err_by_no_more_than_steps_up_to_the_largest_would(values, columns):
    """A scale that is searched for must be worth it; steps up to the largest are the bound."""
    weight = torch.tensor(values).reshape(-1, columns)
    _, told = pack_matrix(WeightedGraph(onnx.ModelProto(), {}), "w", weight)
    step = weight.abs().amax(dim=0).clamp_min(1e-6) / 7
    even = (weight / step).round() * step
    slack = 1e-3 * weight.square().sum() + 1e-9
    assert (told - weight).square().sum() <= (even - weight).square().sum() + slack


def test_four_bits_are_in_any_file_even_an_old_one(network_14, features, tmp_path):
    """Asked for at an old operator set, the file is of the first one that has four bits."""
    path = quantize_model(network_14, tmp_path / "m.onnx", "int4", features=features)
    assert [entry.version for entry in onnx.load(path).opset_import] == [21]
    assert np.isfinite(positions_m(path, features)).all()


@pytest.mark.parametrize("backbone", ["test_convnext", "convnext_atto"])
def test_layer_scales_are_in_the_weights_and_change_nothing(backbone, metadata, features, tmp_path):
    """One pass over a block's values less for each answer; a wrong axis would be another model."""
    torch.manual_seed(3)
    network = LocalizationNet(3, backbone)
    with torch.no_grad():
        for name, values in network.backbone.named_parameters():
            if name.endswith("gamma"):
                values.uniform_(0.2, 2.0)
    mean = np.full((3, 128, 1), -60.0)
    standard = Standardize(mean, np.full_like(mean, 20.0))
    serving = ServingNet(standard, network, Region(45.0, 8.0, SCALE_M)).eval()
    path = export_onnx(serving, tmp_path / "m.onnx", metadata=metadata)
    graph = WeightedGraph.read(path)
    n_scales = sum(name.endswith("gamma") for name in graph.weights)
    pointwise_as_products(graph)
    fold_channel_scales(graph)
    assert n_scales > 3
    assert not any(name.endswith("gamma") for name in graph.weights)
    graph.write(tmp_path / "folded.onnx")
    moved = positions_m(tmp_path / "folded.onnx", features) - positions_m(path, features)
    assert np.abs(moved).max() < 1.0


@given(least=st.floats(-100, 50), span=st.floats(0.01, 100))
def test_what_calibration_saw_fits_into_the_steps(least, span):
    """What does not fit is cut off; and zero, of which there is much, must stay zero."""
    seen = Range(least, least + span, power=1.0, mean=np.zeros(1))
    for value in (least, least + span / 3, least + span, 0.0):
        step = np.clip(np.round(value / seen.scale) + seen.zero_point, 0, 255)
        assert (step - seen.zero_point) * seen.scale == pytest.approx(value, abs=1.01 * seen.scale)
    assert 0 <= seen.zero_point <= 255


@pytest.mark.parametrize(
    ("kind", "most"), [("fp16", 0.8), ("bf16", 0.8), ("int8", 0.8), ("int4", 0.5)]
)
def test_a_variant_is_smaller(kind, most, variants, float_path):
    """That is half of what it is for; heads and maps of levels stay as they are."""
    assert _matrix_bytes(variants[kind]) < most * _matrix_bytes(float_path)


def _matrix_bytes(path):
    weights = onnx.load(path).graph.initializer
    return sum(len(weight.raw_data) for weight in weights if "backbone" in weight.name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_knows_what_it_is_and_what_the_model_is(kind, variants, metadata):
    """Whoever finds the file must be able to serve it, and see that it is not plain float32.

    Entries that only others read, such as receivers' delays, are kept.
    """
    found = Predictor(variants[kind])
    assert found.metadata == {**metadata, **CALIBRATION, "heimdall.precision": kind}
    assert found.run_id == metadata["heimdall.run_id"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_has_no_confident_answer_to_a_broken_question(kind, variants, features):
    """Rounding to integers makes a number of NaN; the guard stands outside of it."""
    batch = features[:3].copy()
    batch[1, 0, 3, 5] = np.nan
    for output in open_session(variants[kind]).run(None, {"mel_spectrogram": batch}):
        assert np.isnan(output[1]).all()
        assert np.isfinite(output[[0, 2]]).all()


def test_integers_give_the_same_answer_alone_and_in_a_batch(variants, features):
    """Scales measured on each batch would let one request change another one's position."""
    together = positions_m(variants["int8"], features[:12])
    alone = np.concatenate([positions_m(variants["int8"], one[None]) for one in features[:12]])
    assert np.abs(together - alone).max() < 1.0


def test_products_that_are_kept_are_as_they_were(float_path, features, tmp_path):
    """Keeping all of them must give the float32 file's answers: nothing else is rounded."""
    path = quantize_model(float_path, tmp_path / "k.onnx", "int8", features=features, keep=1.0)
    moved = positions_m(path, features) - positions_m(float_path, features)
    assert np.abs(moved).max() < 1.0  # float32 degrees are 0.4 m apart


def test_what_cannot_be_quantised_is_refused(float_path, variants, features, onnx_path, tmp_path):
    """Each mistake has its own message, and leaves no file."""
    for path, kind, said in (
        (float_path, "int9", "unknown precision 'int9'; use one of fp16, bf16, int8, int4"),
        (variants["fp16"], "int8", "is fp16 already"),
        (onnx_path, "int8", "no product of matrices that integers would gain from"),
        (tmp_path / "gone.onnx", "int8", r"gone\.onnx"),
    ):
        with pytest.raises(ExportError, match=said):
            quantize_model(path, tmp_path / "out.onnx", kind, features=features)
    assert not list(tmp_path.iterdir())


PLAIN = {"error_m_median": 1000.0, "coverage_68": 0.68, "coverage_95": 0.95, "nll": 3.0}


@given(st.floats(0, 2000), st.floats(0, 1), st.floats(0, 1))
def test_faithful_is_one_percent_of_the_error_and_one_point_of_coverage(error_m, low, high):
    """A coverage that rises too far is as wrong as one that falls."""
    holds = error_m <= 1010 and abs(low - 0.68) <= 0.01 and abs(high - 0.95) <= 0.01
    found = {"error_m_median": error_m, "coverage_68": low, "coverage_95": high}
    assert is_faithful(found, PLAIN) is holds
    near = {name: 0.99 * PLAIN[name] + 0.01 * value for name, value in found.items()}
    assert is_faithful(near, PLAIN)


def judge(worse):
    """Figures by the file's name: those of `PLAIN`, unless the name is told to be worse."""

    def say(path):
        growth = next((g for name, g in worse.items() if name in path.name), 0.0)
        return {**PLAIN, "error_m_median": 1000.0 * (1 + growth)}

    return say


@pytest.fixture
def copied(float_path, tmp_path):
    """The float32 file in a folder of its own."""
    path = tmp_path / "model.onnx"
    path.write_bytes(float_path.read_bytes())
    return path


def test_auto_never_takes_what_is_not_faithful(copied, features):
    """Speed is worth nothing where positions are wrong."""
    choice = at_precision(copied, "auto", Sample(features), judge({"16": 0.02, "int": 0.02}))
    assert choice.chosen.path == copied
    assert [variant.name for variant in choice.tried] == [
        *("none", "fp16", "bf16", "int8", "int8-keep10", "int8-keep30", "int4")
    ]
    assert [found.name for found in copied.parent.iterdir()] == ["model.onnx"]


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.integers(1, 10**9)), min_size=1, max_size=6),
    st.data(),
)
def test_the_fastest_is_within_five_percent_and_the_smallest_of_those(measured, data):
    """Speed decides first; a difference that noise explains must not cost disk space."""
    variants = [
        Variant(name=str(n), path=Path(str(n)), size_bytes=size, figures={})
        for n, (_, size) in enumerate(measured)
    ]
    latency_ms = {str(n): ms for n, (ms, _) in enumerate(measured)}
    chosen = fastest(variants, latency_ms)
    least_ms = min(latency_ms.values())
    assert latency_ms[chosen.name] <= 1.05 * least_ms
    other = data.draw(st.sampled_from(variants))
    assume(latency_ms[other.name] <= 1.05 * least_ms)
    assert chosen.size_bytes <= other.size_bytes


def test_auto_measures_and_tells_the_figures_of_all(copied, features):
    """They go into a sidecar, which is JSON, and are what a choice is answered for by."""
    choice = at_precision(copied, "auto", Sample(features), judge({}))
    told = json.loads(json.dumps(choice.figures()))
    assert set(told) == {"none", "fp16", "bf16", "int8", "int4"}
    assert all(figures["latency_ms"] > 0 for figures in told.values())


def test_auto_goes_without_what_a_model_does_not_gain_from(onnx_path, features, tmp_path):
    """A network of other layers must not fail at the end of its training."""
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_path.read_bytes())
    choice = at_precision(path, "auto", Sample(features), judge({}))
    assert [variant.name for variant in choice.tried] == ["none", "fp16", "bf16"]
    with pytest.raises(ExportError, match="no product of matrices"):
        at_precision(path, "int8", Sample(features), judge({}))


def test_int8_leaves_in_float_what_it_must(copied, features):
    """With the most rounded products in float32 the model may be as good as before."""
    choice = at_precision(copied, "int8", Sample(features), judge({"int8.onnx": 0.05}))
    assert choice.chosen.name == "int8-keep10"


def test_int8_that_is_never_faithful_is_the_best_there_is(copied, features):
    """Who asks for int8 gets it, and its figures say what it costs."""
    worse = {"int8.onnx": 0.03, "keep10": 0.02, "keep30": 0.05}
    choice = at_precision(copied, "int8", Sample(features), judge(worse))
    assert choice.chosen.name == "int8-keep10"
    assert choice.figures()["int8-keep10"]["error_m_median"] == pytest.approx(1020.0)


def test_none_is_the_file_itself_and_a_misspelt_precision_is_refused(copied, features):
    """The default changes nothing, and must not be what a mistake leads to."""
    assert at_precision(copied, "none", Sample(features), judge({})).chosen.path == copied
    with pytest.raises(ExportError, match="unknown precision 'int2'; use one of none, fp16, bf16"):
        at_precision(copied, "int2", Sample(features), judge({}))


class Pointwise(torch.nn.Module):
    """Convolutions of one tap with and without a bias, one with a stride, one of groups."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.one = torch.nn.Conv2d(3, 96, 1)
        self.two = torch.nn.Conv2d(96, 96, 1, bias=False)
        self.grouped = torch.nn.Conv2d(96, 96, 1, groups=96)
        self.strided = torch.nn.Conv2d(96, 96, 1, stride=2)
        self.head = torch.nn.Linear(96, 4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        maps = self.two(self.one(mel_spectrogram / 100).relu())
        out = self.head(self.strided(self.grouped(maps)).mean(dim=(2, 3)))
        return 45 + out[:, :2], out[:, 2:].exp()


def test_convolutions_of_one_tap_are_products_too(metadata, features, tmp_path):
    """The smaller ConvNeXts have them; without, int8 would gain nothing there."""
    path = export_onnx(Pointwise().eval(), tmp_path / "m.onnx", metadata=metadata)
    small = quantize_model(path, tmp_path / "i.onnx", "int8", features=features)
    kinds = [node.op_type for node in onnx.load(small).graph.node]
    assert (kinds.count("Conv"), kinds.count("MatMul"), kinds.count("QuantizeLinear")) == (2, 2, 1)
    moved = positions_m(small, features) - positions_m(path, features)
    assert 0 < np.abs(moved).max() < 0.02 * np.ptp(positions_m(path, features))
