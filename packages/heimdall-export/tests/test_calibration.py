"""What integers are calibrated on: what a model takes, and nothing else."""

import numpy as np
import pytest
from heimdall_export import ExportError
from heimdall_export.graph.export import export_onnx
from heimdall_export.graph.quantize import calibrate, quantize_model
from heimdall_export.graph.rewrite import pointwise_as_products
from heimdall_export.graph.variants import at_precision
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.session import Sample
from torch import nn

FIGURES = {"error_m_median": 1000.0, "coverage_68": 0.68, "coverage_95": 0.95}


class Product(nn.Module):
    """One large product of matrices."""

    def __init__(self):
        super().__init__()
        self.wide, self.head = nn.Linear(32, 512), nn.Linear(512, 4)

    def forward(self, mel_spectrogram):
        """Positions and uncertainties, float32 `(batch, 2)` each."""
        out = self.head(self.wide(mel_spectrogram / 100).relu()).mean(dim=(1, 2))
        return 45 + out[:, :2], out[:, 2:].exp()


@pytest.fixture(scope="module")
def some(features):
    """As many as a test needs."""
    return features[:16]


@pytest.fixture
def path(metadata, tmp_path):
    """Its model file."""
    return export_onnx(Product().eval(), tmp_path / "model.onnx", metadata=metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f[:0], "no features to calibrate"),
        (lambda f: f[:, :2], r"\(16, 2, 128, 32\).* takes .*\(3, 128, 32\)"),
        (lambda f: f[0], r"inputs are .*: \(3, 128, 32\)"),
        (lambda f: np.where(np.arange(len(f))[:, None, None, None] == 9, np.nan, f), "are NaN or"),
    ],
)
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_features_that_no_model_takes_calibrate_nothing(kind, change, said, path, some):
    """One NaN among them would make a file that refuses every question."""
    with pytest.raises(ExportError, match=said):
        quantize_model(path, path.with_name("q.onnx"), kind, features=change(some))
    assert not path.with_name("q.onnx").exists()


def test_arrival_times_are_refused_where_no_input_takes_them(path, some):
    """Said by us, in one line, and not by the runtime."""
    with pytest.raises(ExportError, match="arrival_times"):
        quantize_model(path, path.with_name("q.onnx"), "int8", features=some, arrivals=some)


def test_features_of_another_type_calibrate_the_same(path, some):
    """A file of features may hold float64."""
    graph = WeightedGraph.read(path)
    pointwise_as_products(graph)
    (one,) = calibrate(graph, {"mel_spectrogram": some[:9]})[0].values()
    (other,) = calibrate(graph, {"mel_spectrogram": some[:9].astype(float)})[0].values()
    assert (one.least, one.most) == (other.least, other.most)


def test_weights_that_are_gone_are_told_as_such(path, some):
    """A model of more than 2 GiB was copied without its second file."""
    graph = WeightedGraph.read(path)
    graph.write(path, largest=10)
    (weights,) = path.parent.glob("*.data")
    weights.unlink()
    with pytest.raises(ExportError, match=r"model\.onnx"):
        quantize_model(path, path.with_name("q.onnx"), "fp16", features=some)


def test_a_variant_without_a_figure_is_not_delivered(path, some):
    """NaN is neither less nor more than anything: the first of a list would win."""

    def judge(file):
        nan_first = {} if file == path or "keep" in file.name else {"error_m_median": np.nan}
        return {**FIGURES, "coverage_68": 0.5, "error_m_median": 2000.0, **nan_first}

    plain = FIGURES | {"error_m_median": 1.0}
    choice = at_precision(
        path, "int8", Sample(some), lambda file: plain if file == path else judge(file)
    )
    assert choice.chosen.name == "int8-keep10"
    with pytest.raises(ExportError, match="median error of fp16"):
        at_precision(path, "fp16", Sample(some), judge)
    assert {file.name for file in path.parent.iterdir()} == {
        path.name,
        choice.chosen.path.name,
    }


def test_a_judge_that_fails_leaves_no_files_of_what_was_tried(path, some):
    """They would lie beside the model for good, each as large as it."""

    def judge(file):
        if "bf16" in file.name:
            raise OSError("the validation part is out of reach")
        return FIGURES

    with pytest.raises(OSError, match="out of reach"):
        at_precision(path, "auto", Sample(some), judge)
    assert list(path.parent.iterdir()) == [path]


def test_a_model_without_any_error_can_be_compared(path, some):
    """A toy may be exact; that is no division by zero."""
    choice = at_precision(path, "fp16", Sample(some), lambda _: FIGURES | {"error_m_median": 0.0})
    assert choice.chosen.name == "fp16"
