"""The exported file: what is in it, what is not, and that it is whole or absent."""

import json
import logging
import resource
import stat
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError, Predictor, check_parity, export_onnx
from heimdall_export.contract import OPSETS
from heimdall_export.graph.quantize import quantize_model
from heimdall_export.model_files import weights_beside
from heimdall_export.session import open_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


class Doubled(nn.Module):
    """The smallest network of the contract's ends."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, mel_spectrogram):
        """Both outputs follow the mean of the input."""
        mean = mel_spectrogram.mean(dim=(1, 2, 3))[:, None]
        return mean * self.scale, mean.abs() + self.scale.abs()


def export(network, path, metadata, **changes):
    """Export a network of one receiver, four bands and two frames."""
    return export_onnx(network, path, input_shape=(1, 4, 2), metadata=metadata, **changes)


def test_the_file_has_the_ends_and_metadata_of_the_contract(onnx_path, metadata):
    """Services find inputs, outputs and features by these names and nothing else."""
    session = open_session(onnx_path)
    assert [(e.name, e.type, e.shape) for e in session.get_inputs()] == [
        ("mel_spectrogram", "tensor(float)", ["batch", 3, 128, 32])
    ]
    assert [(e.name, e.type, e.shape) for e in session.get_outputs()] == [
        ("positions", "tensor(float)", ["batch", 2]),
        ("uncertainties", "tensor(float)", ["batch", 2]),
    ]
    assert session.get_modelmeta().custom_metadata_map == metadata


@pytest.mark.parametrize("opset", OPSETS)
def test_every_supported_operator_set_is_what_was_asked_for(opset, metadata, tmp_path):
    """An exporter that silently takes another operator set breaks old runtimes in the field."""
    path = export(Doubled(), tmp_path / "m.onnx", metadata, opset=opset)
    assert [entry.version for entry in onnx.load(path).opset_import] == [opset]
    positions, _ = open_session(path).run(None, {"mel_spectrogram": np.ones((3, 1, 4, 2), "f4")})
    assert positions.tolist() == [[1.0, 1.0]] * 3


@given(
    place=st.tuples(*(st.integers(0, n - 1) for n in (3, 128, 32))),
    value=st.sampled_from([np.nan, np.inf, -np.inf]) | st.floats(1001, 2.0**126, width=32),
    sign=st.sampled_from([-1, 1]),
)
def test_an_input_that_no_receiver_measures_has_no_confident_answer(
    onnx_path, features, place, value, sign
):
    """One bad sample in a recording must not become a transmitter on the map."""
    batch = features[:3].copy()
    batch[(1, *place)] = sign * value
    for output in open_session(onnx_path).run(None, {"mel_spectrogram": batch}):
        assert np.isnan(output[1]).all()
        assert np.isfinite(output[[0, 2]]).all()


class Deaf(Doubled):
    """A network that turns what it does not understand into zeros."""

    def forward(self, mel_spectrogram):
        """A position, whatever the input."""
        return super().forward(mel_spectrogram.nan_to_num(0.0, 0.0, 0.0))


def test_not_even_a_network_that_hides_a_nan_answers_one(metadata, tmp_path):
    """Max-pooling and clipping hide a NaN in ONNX Runtime; the file is guarded all the same."""
    bad = np.full((1, 1, 4, 2), np.nan, np.float32)
    assert all(output.isfinite().all() for output in Deaf()(torch.from_numpy(bad)))
    session = open_session(export(Deaf(), tmp_path / "m.onnx", metadata))
    assert all(np.isnan(output).all() for output in session.run(None, {"mel_spectrogram": bad}))


def test_the_file_names_nothing_of_the_machine_that_made_it(onnx_path):
    """The exporter notes a stack trace at every node: folders and user names for everyone."""
    assert b"conftest" not in onnx_path.read_bytes()
    assert not any(node.metadata_props for node in onnx.load(onnx_path).graph.node)


def test_the_file_says_what_it_is_to_any_viewer(onnx_path, metadata, features, tmp_path):
    """Netron and model stores show these fields, and none of the metadata; variants keep them."""
    created = metadata | {"heimdall.created_at": "2026-03-01T12:00:09.5+00:00"}
    path = export(Doubled(), tmp_path / "m.onnx", created)
    smaller = quantize_model(onnx_path, tmp_path / "fp16.onnx", "fp16", features=features[:2])
    for each in (path, smaller):
        model = onnx.load(each)
        assert (model.producer_name, model.domain) == ("heimdall-export", "heimdall")
        assert model.producer_version == version("heimdall-export")
        assert "Position of a radio transmitter" in model.doc_string
    assert onnx.load(path).model_version == 20260301120009


def test_export_is_silent_and_leaves_logging_as_it_was(metadata, tmp_path, capfd, recwarn):
    """A training run's screen belongs to the training run."""
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    try:
        export(Doubled(), tmp_path / "m.onnx", metadata)
        assert logging.getLogger("torch.onnx").level == logging.INFO
    finally:
        logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_network_in_training_is_exported_in_evaluation_mode_and_goes_on(
    network, onnx_path, metadata, features, tmp_path
):
    """Dropout in the file would make its answers random; export must not end the training."""
    network.train()
    network.norm.eval()
    try:
        path = export_onnx(network, tmp_path / "m.onnx", metadata=metadata)
        assert network.training
        assert network.dropout.training
        assert not network.norm.training
    finally:
        network.eval()
    feed = {"mel_spectrogram": features[:2]}
    for one, other in zip(
        open_session(path).run(None, feed), open_session(onnx_path).run(None, feed), strict=True
    ):
        assert np.array_equal(one, other)


def test_others_may_read_the_file(onnx_path):
    """Services run as other users; a temporary file's mode 0600 must not survive."""
    assert onnx_path.stat().st_mode & stat.S_IRGRP


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(metadata, tmp_path):
    """Half a model under the right name is worse than none."""
    path = export(Doubled(), tmp_path / "m.onnx", metadata)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))
    try:
        with pytest.raises(ExportError, match=rf"{path}: File too large"):
            export(Doubled(), path, metadata)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["m.onnx"]


def test_who_reads_the_old_file_goes_on_reading_it(metadata, tmp_path):
    """A service may be loading the model that is being replaced; half of each would be neither."""
    path = export(Doubled(), tmp_path / "m.onnx", metadata)
    before = path.read_bytes()
    with path.open("rb") as reader:
        export(Doubled(), path, metadata | {"heimdall.run_id": "another"})
        assert reader.read() == before
    assert path.read_bytes() != before


def test_a_folder_that_is_a_file_is_named(metadata, tmp_path):
    """The user gave the path; the message must show which one."""
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"/file/m\.onnx"):
        export(Doubled(), tmp_path / "file" / "m.onnx", metadata)


@in_folder
@given(opset=st.integers().filter(lambda opset: opset not in OPSETS))
def test_an_operator_set_that_is_not_supported_is_refused(metadata, tmp_path, opset):
    """Torch would fall back to another one and only mention it in its log."""
    with pytest.raises(ExportError, match=f"opset {opset} .* 14 to 26"):
        export(Doubled(), tmp_path / "m.onnx", metadata, opset=opset)
    assert not list(tmp_path.iterdir())


@in_folder
@given(place=st.integers(0, 1), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_weights_that_are_not_finite_are_refused_by_name(metadata, tmp_path, place, value):
    """A diverged training must end here, not in production."""
    network = Doubled()
    network.scale.data[place] = value
    with pytest.raises(ExportError, match="scale holds NaN"):
        export(network, tmp_path / "m.onnx", metadata)


def test_metadata_that_are_not_text_are_refused(metadata, tmp_path):
    """ONNX keeps text alone; a dictionary would become something else."""
    with pytest.raises(ExportError, match=r"'heimdall\.run_id' is 7; it must be text"):
        export(Doubled(), tmp_path / "m.onnx", {**metadata, "heimdall.run_id": 7})


def test_a_network_for_another_input_is_refused_with_the_shape(network, metadata, tmp_path):
    """Three receivers' network with two receivers' input is a mistake of the caller."""
    with pytest.raises(ExportError, match=r"\(2, 2, 128, 32\)"):
        export_onnx(network, tmp_path / "m.onnx", input_shape=(2, 128, 32), metadata=metadata)


def test_a_network_with_other_outputs_is_refused(metadata, tmp_path):
    """The contract fixes two outputs of two columns."""
    said = r"torch\.float32 \(2, 8\) .*positions torch\.float32 \(2, 2\)"
    with pytest.raises(ExportError, match=said):
        export(nn.Flatten(), tmp_path / "m.onnx", metadata)


def test_a_model_of_spectrograms_whose_ellipses_lean_says_so(network, metadata, features, tmp_path):
    """A third output without its name would be lost on the way to the map."""

    class Leaning(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, mel_spectrogram):
            positions, sigmas = self.network(mel_spectrogram)
            return positions, sigmas, (positions[:, 0] - 45).tanh()

    path = export_onnx(Leaning().eval(), tmp_path / "m.onnx", metadata=metadata)
    report = check_parity(path, Leaning().eval(), features[:4], scale_m=80_000.0, batch_sizes=(4,))
    assert 0 <= report.max_correlation_difference < 1e-4
    (here,) = Predictor(path).predict_features(features[:1])
    assert here.correlation == pytest.approx(np.tanh(here.latitude_deg - 45), abs=1e-4)
    assert here.correlation != 0
    assert here.unexplained is None


def test_a_graph_that_cannot_be_captured_is_refused_with_the_reason(metadata, tmp_path, capfd):
    """Python that decides by values cannot become a graph; the message names the network."""

    class Curious(Doubled):
        def forward(self, mel_spectrogram):
            loud = mel_spectrogram.sum() > 0
            return super().forward(mel_spectrogram if loud else -mel_spectrogram)

    with pytest.raises(ExportError, match="Curious"):
        export(Curious(), tmp_path / "m.onnx", metadata)
    assert "Traceback" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_graph_of_one_batch_size_alone_is_refused(metadata, tmp_path):
    """A trace holds whatever Python made a number of; services ask for any number at once."""

    class Counting(Doubled):
        def forward(self, mel_spectrogram):
            return super().forward(mel_spectrogram.reshape(int(mel_spectrogram.shape[0]), 1, 2, 4))

    with pytest.raises(ExportError, match="Counting has a fixed batch size in positions, unc"):
        export(Counting(), tmp_path / "m.onnx", metadata)
    assert not list(tmp_path.iterdir())


def test_export_gives_the_network_its_own_weights_back(metadata, tmp_path):
    """The exporter is lent other tensors; a network that kept them could not be trained on."""
    network = Doubled()
    before = dict(network.named_parameters())
    export(network, tmp_path / "m.onnx", metadata)
    assert all(weight is before[name] for name, weight in network.named_parameters())


def test_a_weight_with_two_names_is_in_the_file_once(metadata, tmp_path):
    """Tied weights are one tensor; a copy of each would make the file larger and may differ."""

    class Tied(Doubled):
        def __init__(self):
            super().__init__()
            self.again = self.scale

        def forward(self, mel_spectrogram):
            positions, uncertainties = super().forward(mel_spectrogram)
            return positions, uncertainties * self.again.abs()

    model = onnx.load(export(Tied(), tmp_path / "m.onnx", metadata))
    assert [weight.name for weight in model.graph.initializer if weight.dims] == ["network.scale"]


class Wide(Doubled):
    """With a matrix that is used both ways round."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 6)
        self.back = nn.Linear(6, 2)

    def forward(self, mel_spectrogram):
        """Both outputs follow what two layers make of the rows."""
        return super().forward(self.back(self.layer(mel_spectrogram).relu()))


@pytest.mark.parametrize("largest_file", [10, 2**20])
@pytest.mark.parametrize("opset", [14, 20, 26])
def test_weights_beside_the_model_are_the_weights_within(opset, largest_file, metadata, tmp_path):
    """A model of more than 2 GiB answers as a smaller one would, and parity reads both files."""
    network = Wide().eval()
    path = export(network, tmp_path / "m.onnx", metadata, opset=opset, largest_file=largest_file)
    beside = [found for found in tmp_path.iterdir() if found != path]
    assert len(beside) == (largest_file == 10)
    features = np.random.default_rng(0).normal(size=(8, 1, 4, 2)).astype(np.float32)
    assert check_parity(path, network, features, scale_m=1e3).worst_m < 1e-2
    onnx.checker.check_model(path, full_check=True)
    if beside:
        assert beside[0].stat().st_size == sum(w.nbytes for w in network.state_dict().values())


def test_weights_beside_a_model_are_never_replaced_by_others(metadata, tmp_path):
    """Who has the old model open goes on reading its weights: a new model's have another name."""
    path = export(Wide(), tmp_path / "m.onnx", metadata, largest_file=10)
    old = weights_beside(path)
    other = Wide()
    other.scale.data += 1
    export(other, path, metadata, largest_file=10)
    new = weights_beside(path)
    assert new != old
    assert new.exists()
    assert old.exists()


def test_a_model_whose_weights_were_left_behind_is_refused_by_their_name(metadata, tmp_path):
    """Half a model is easily copied; the message must say which file is missing."""
    path = export(Wide(), tmp_path / "m.onnx", metadata, largest_file=10)
    weights = weights_beside(path)
    weights.unlink()
    with pytest.raises(ExportError, match=rf"cannot load .*{weights.name}"):
        open_session(path)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(), further=st.text())
def test_metadata_survive_any_language(metadata, tmp_path, name, further):
    """Receivers are named by people."""
    named = json.dumps([{"name": name, "latitude": 46.0, "longitude": 7.1}], ensure_ascii=False)
    given_ = {**metadata, "heimdall.receivers": named, "further": further}
    path = export(Doubled(), tmp_path / "m.onnx", given_)
    assert open_session(path).get_modelmeta().custom_metadata_map == given_
