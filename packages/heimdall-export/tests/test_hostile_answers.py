"""What stores, registries and files may say that no model of ours does: one error each."""

import dataclasses
import http.server
import json
import threading

import onnx
import pytest
from heimdall_export import ExportError, Predictor, find_published
from heimdall_export.object_store.store import ModelStores
from heimdall_export.session import open_session
from heimdall_locate import Position
from hypothesis import given, settings
from hypothesis import strategies as st

values = st.none() | st.integers() | st.text(max_size=5)


@pytest.fixture(scope="module")
def registry():
    """A server at MLflow's address that says what a test wants."""

    class Says(http.server.BaseHTTPRequestHandler):
        text = b""

        def do_GET(self):
            """Say it."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Says.text)

        def log_message(self, *_):
            """Not on the screen."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Says, ModelStores(tracking_uri=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@settings(max_examples=30, deadline=None)
@given(
    version=values | st.lists(values) | st.dictionaries(st.sampled_from(["tags", "name"]), values)
)
def test_an_answer_that_describes_no_version_is_an_error(registry, version):
    """Something else at the address may speak JSON too."""
    says, stores = registry
    says.text = json.dumps({"model_version": version}).encode()
    with pytest.raises(ExportError, match="describes no version"):
        find_published("models:/m@production", stores)


@pytest.mark.parametrize("uri", ["http://u:secret@[::1", "http://u:secret@127.0.0.1:99999"])
def test_an_address_that_is_no_url_is_told_without_its_password(uri, artifact_store):
    """The libraries' own errors repeat it whole."""
    with pytest.raises(ExportError, match="MLFLOW_TRACKING_URI is not a URL") as told:
        find_published("models:/m@production", ModelStores(tracking_uri=uri))
    assert told.value.__cause__ is None
    store = dataclasses.replace(artifact_store, endpoint_url=uri)
    with pytest.raises(ExportError, match="HEIMDALL_S3_ENDPOINT_URL is not a URL"):
        Predictor("s3://models/x.onnx", stores=ModelStores(s3=store))


def test_a_damaged_name_is_an_error_in_one_line(onnx_path, tmp_path):
    """ONNX Runtime passes the broken text on, and its own messages have many lines."""
    contents = onnx_path.read_bytes()
    (tmp_path / "name.onnx").write_bytes(contents.replace(b"Conv", b"Co\xf4v"))
    model = onnx.load(onnx_path)
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "opset.onnx")
    for name in ("name.onnx", "opset.onnx"):
        with pytest.raises(ExportError, match="cannot load") as told:
            open_session(tmp_path / name)
        assert "\n" not in str(told.value)


def test_what_is_no_mapping_fails_alone(onnx_path, recordings_of):
    """Nobody's mistake is another's, in one batch."""
    answers = Predictor(onnx_path).predict_each([recordings_of(1), None, []])
    assert isinstance(answers[0], Position)
    assert "give recordings by receiver, not NoneType" in str(answers[1])
    assert isinstance(answers[2], ExportError)
