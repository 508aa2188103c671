"""What stores, registries and files may say that no model of ours does: one error each."""

import dataclasses
import http.server
import json
import threading
import traceback
from base64 import b64decode
from urllib.parse import urlsplit

import onnx
import pytest
from heimdall_data.testing.tls import behind_tls
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
            Says.authorization = self.headers["Authorization"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Says.text)

        def log_message(self, *_):
            """Not on the screen."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Says, ModelStores(tracking_uri=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@settings(max_examples=30)
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
    said = (
        r"MLFLOW_TRACKING_URI cannot be taken apart|http://\*\*\*@127.0.0.1:99999 is out of reach"
    )
    with pytest.raises(ExportError, match=said) as told:
        find_published("models:/m@production", ModelStores(tracking_uri=uri))
    assert "secret" not in f"{told.value}{told.value.__cause__}"
    store = dataclasses.replace(artifact_store, endpoint_url=uri)
    with pytest.raises(ExportError, match=r"S3 endpoint 'http://\*|S3 endpoint '\*") as told:
        Predictor("s3://models/x.onnx", stores=ModelStores(s3=store))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("key", ["access_key", "secret_key"])
def test_a_key_with_a_line_break_is_not_repeated(artifact_store, key):
    """The library shows the header that it refuses."""
    with pytest.raises(ExportError, match="line break") as told:
        dataclasses.replace(artifact_store, **{key: "hunter2\n"})
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("name", ["TOKEN", "PASSWORD"])
def test_credentials_with_a_line_break_are_not_repeated(registry, monkeypatch, name):
    """A file's last line ends so; the library showed the header that it refused."""
    says, stores = registry
    says.text = b"{}"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "hunter2\n")
    said = "MLFLOW_TRACKING_TOKEN has" if name == "TOKEN" else "describes no version"
    with pytest.raises(ExportError, match=said) as told:
        find_published("models:/m@production", stores)
    assert "hunter2" not in "".join(traceback.format_exception(told.value))


def test_an_escaped_login_arrives_as_it_was_meant(registry):
    """The advice of the error above must work."""
    says, stores = registry
    says.text = b"{}"
    uri = stores.tracking_uri.replace("http://", "http://me:p%40ss%2Fw@")
    with pytest.raises(ExportError, match="describes no version"):
        find_published("models:/m@production", ModelStores(tracking_uri=uri))
    kind, _, login = says.authorization.partition(" ")
    assert (kind, b64decode(login)) == ("Basic", b"me:p@ss/w")


def test_a_private_authority_of_a_registry_is_trusted_as_mlflow_trusts_it(
    registry, tmp_path, monkeypatch
):
    """The error asked whether it runs, and MLflow's own variables had no effect."""
    says, stores = registry
    says.text = b"{}"
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    for name in (*names, "MLFLOW_TRACKING_INSECURE_TLS"):
        monkeypatch.delenv(name, raising=False)
    with behind_tls(urlsplit(stores.tracking_uri).port, tmp_path) as (url, authority):
        there = ModelStores(tracking_uri=url)
        with pytest.raises(ExportError, match=r"its certificate .* set SSL_CERT_FILE"):
            find_published("models:/m@production", there)
        trusts = [(name, str(authority)) for name in names]
        for trust in (*trusts, ("MLFLOW_TRACKING_INSECURE_TLS", "true")):
            with monkeypatch.context() as only:
                only.setenv(*trust)
                with pytest.raises(ExportError, match="describes no version"):
                    find_published("models:/m@production", there)


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
