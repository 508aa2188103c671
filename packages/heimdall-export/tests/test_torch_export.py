"""Files whose graph `torch.export` made: they are what the deprecated tracer's are."""

import contextlib
import io

import numpy as np
import onnx
import pytest
from heimdall_export import ExportError, check_parity, export_onnx
from heimdall_export.model_files import file_sha256
from heimdall_export.session import open_session
from torch import nn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(network, metadata, tmp_path_factory):
    """The small network as a model file; the export is silent."""
    path, told = tmp_path_factory.mktemp("exported") / "model.onnx", io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        export_onnx(network, path, metadata=metadata, dynamo=True)
    assert told.getvalue() == ""
    return path


def ends(path):
    """Names, types and shapes of a file's inputs and outputs, and its metadata."""
    session = open_session(path)
    every = (*session.get_inputs(), *session.get_outputs())
    told = session.get_modelmeta().custom_metadata_map
    return [(end.name, end.type, end.shape) for end in every], told


def test_the_file_has_the_same_ends_and_metadata(exported, onnx_path):
    """A service must not notice which of torch's exporters made the file."""
    assert ends(exported) == ends(onnx_path)
    assert [entry.version for entry in onnx.load(exported).opset_import] == [20]
    assert exported.stat().st_size < 1.1 * onnx_path.stat().st_size


def test_the_file_answers_as_the_network_does(exported, network, features, scale_m):
    """The same check that every training makes of its file, at every batch size."""
    assert check_parity(exported, network, features, scale_m=scale_m).mean_difference < 1e-6


def test_the_file_answers_nan_to_nan(exported, features):
    """The guard against confident nonsense is in this graph too."""
    broken = features[:3].copy()
    broken[1, 0, 0, 0] = np.nan
    for answer in open_session(exported).run(None, {"mel_spectrogram": broken}):
        assert np.isnan(answer).all(axis=1).tolist() == [False, True, False]


def test_the_file_names_nothing_of_the_machine_that_made_it(exported):
    """The exporter notes the source line of every node, with the paths of its machine."""
    assert not any(found in exported.read_bytes() for found in (b"conftest", b".py", b"torch"))
    graph = onnx.load(exported).graph
    assert not any(part.metadata_props for part in (graph, *graph.node, *graph.input))


def test_two_exports_are_the_same_file(exported, network, metadata, tmp_path):
    """A file is known by its hash."""
    again = export_onnx(network, tmp_path / "again.onnx", metadata=metadata, dynamo=True)
    assert file_sha256(again) == file_sha256(exported)


class ForTwo(nn.Module):
    """A network that does something else for a batch of two."""

    def forward(self, mel_spectrogram):
        """Both outputs follow the mean of the input."""
        mean = mel_spectrogram.mean(dim=(1, 2, 3))[:, None].expand(-1, 2)
        return (mean, mean.abs() + 1.0) if mel_spectrogram.shape[0] == 2 else (-mean, mean.abs())


def test_a_graph_of_one_batch_size_alone_is_refused(metadata, tmp_path):
    """It would be wrong in a service, at the first request that is not of two moments."""
    with pytest.raises(ExportError, match=r"torch\.onnx\.export cannot make a graph"):
        export_onnx(
            ForTwo(), tmp_path / "m.onnx", input_shape=(1, 4, 2), metadata=metadata, dynamo=True
        )
    assert not list(tmp_path.iterdir())


def test_an_operator_set_of_before_is_refused(network, metadata, tmp_path):
    """This exporter has none older than 18."""
    with pytest.raises(ExportError, match=r"opset 17 .* dynamo=True; use one from 18 on"):
        export_onnx(network, tmp_path / "m.onnx", metadata=metadata, opset=17, dynamo=True)
