"""Files as they are written and named: whole text files, models with weights, addresses."""

import hashlib
import os

import numpy as np
import onnx
import pytest
import torch
from heimdall_export import ExportError
from heimdall_export.atomic import whole_file, write_whole
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.model_files import file_sha256, model_size, remove_model, weights_beside
from heimdall_export.object_store.store import split_address, temporary_environment
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = (torch.float32, torch.float16, torch.int8, torch.uint8, torch.int64)


@st.composite
def graphs(draw):
    """Graphs of one sum each of some weights, transposed or not, of several types."""
    n = draw(st.integers(1, 4))
    shapes = st.lists(st.integers(1, 5), min_size=2, max_size=3)
    weights = {}
    for name in (f"w{number}" for number in range(n)):
        values = 100 * torch.rand(draw(shapes)) - 50
        weight = values.abs().to(draw(st.sampled_from(TYPES)))
        weights[name] = weight.transpose(0, 1) if draw(st.booleans()) else weight
    node = onnx.helper.make_node("Identity", ["w0"], ["y"])
    user = onnx.helper.make_node("Concat", [*weights], ["z"], axis=0)
    model = onnx.helper.make_model(onnx.helper.make_graph([node, user], "g", [], []))
    return WeightedGraph(model, weights)


@in_folder
@given(graph=graphs(), beside=st.booleans())
def test_weights_come_back_bit_for_bit(tmp_path, graph, beside):
    """The writer is ours, and onnx's own reader is the oracle; both places must hold the same."""
    path = tmp_path / "m.onnx"
    graph.save(path, largest=0 if beside else 2**20)
    found = onnx.load(path).graph.initializer
    assert [weight.name for weight in found] == [*graph.weights]
    for weight, values in zip(found, graph.weights.values(), strict=True):
        assert np.array_equal(onnx.numpy_helper.to_array(weight), values.numpy())
    assert (weights_beside(path) is not None) is beside
    assert model_size(path) >= sum(values.nbytes for values in graph.weights.values())
    remove_model(path)
    assert list(tmp_path.iterdir()) == []


@in_folder
@given(graph=graphs())
def test_the_file_beside_a_model_is_named_for_its_contents(tmp_path, graph):
    """A model whose hash is verified verifies its weights by this name."""
    graph.save(tmp_path / "m.onnx", largest=0)
    weights = weights_beside(tmp_path / "m.onnx")
    assert weights.stem == hashlib.sha256(weights.read_bytes()).hexdigest() == file_sha256(weights)
    remove_model(tmp_path / "m.onnx")


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_values_of_four_bits_come_back(values):
    """Two share a byte, and the last one may be alone; onnx's reader is the oracle."""
    graph = WeightedGraph(onnx.ModelProto(), {})
    graph.add_four_bits("w", torch.tensor(values))
    declared = graph.declared().graph.input[0].type.tensor_type
    tensor = onnx.TensorProto(
        data_type=declared.elem_type,
        dims=[size.dim_value for size in declared.shape.dim],
        raw_data=graph.weights["w"].numpy().tobytes(),
    )
    assert onnx.numpy_helper.to_array(tensor).astype(int).tolist() == values


@in_folder
@given(contents=st.binary(max_size=200))
def test_a_model_without_a_name_of_weights_has_none_beside_it(tmp_path, contents):
    """A name that is found by mistake would make a whole model look like half of one."""
    assume(b".data" not in contents)
    (tmp_path / "m.onnx").write_bytes(contents)
    assert weights_beside(tmp_path / "m.onnx") is None
    assert model_size(tmp_path / "m.onnx") == len(contents)


@in_folder
@given(text=st.text(st.characters()), mode=st.sampled_from([0o600, 0o640, 0o644]))
def test_a_text_file_is_written_whole_with_its_mode(tmp_path, text, mode):
    """Names of files may hold lone surrogates, which UTF-8 cannot encode."""
    write_whole(tmp_path / "a.txt", text, mode=mode)
    assert (tmp_path / "a.txt").read_bytes() == text.encode(errors="backslashreplace")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert len(list(tmp_path.iterdir())) == 1


@in_folder
@given(old=st.binary(), new=st.binary())
def test_a_failure_in_writing_leaves_the_old_file(tmp_path, old, new):
    """Half of a new file is worse than all of the old one."""
    (tmp_path / "f").write_bytes(old)
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "f") as part:
        _ = part.write_bytes(new) / 0
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [old]


def test_a_name_as_long_as_a_system_allows_is_written(tmp_path):
    """The temporary one beside it must not be longer."""
    write_whole(tmp_path / ("x" * 255), "text")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text"]


buckets = st.from_regex(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]", fullmatch=True)
names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


@given(buckets, st.lists(names, min_size=1, max_size=4))
def test_an_address_is_its_bucket_and_key(bucket, folders):
    """A key may have any number of folders."""
    key = "/".join(folders)
    assert split_address(f"s3://{bucket}/{key}") == (bucket, key)


@given(
    st.one_of(
        st.text().filter(lambda text: not text.startswith("s3://")),
        buckets.map(lambda bucket: f"s3://{bucket}"),
        st.builds("s3://{}/{}/../{}".format, buckets, names, names),
        st.builds("s3://{}..{}/{}".format, buckets, buckets, names),
        st.builds("s3://{}/{}\n".format, buckets, names),
        st.builds("s3://a/{}".format, names),
    )
)
def test_any_other_text_is_refused_as_an_address(text):
    """The MinIO client's own error is a bare ValueError."""
    with pytest.raises(ExportError, match="is not a model's address"):
        split_address(text)


@given(
    before=st.dictionaries(st.sampled_from("ABC"), st.sampled_from(["1", "2"])),
    within=st.dictionaries(st.sampled_from("ABC"), st.none() | st.sampled_from(["3", "4"])),
)
def test_the_environment_is_as_it_was_afterwards(before, within):
    """Another store's AWS variables belong to somebody else, and must come back."""
    empty = dict.fromkeys("ABC")
    with temporary_environment(empty | before):
        with temporary_environment(within):
            assert {n: os.environ.get(n) for n in "ABC"} == empty | before | within
        assert {n: os.environ.get(n) for n in "ABC"} == empty | before
