"""What stores, registries and files may say that no model of ours does: one error each."""

import dataclasses
import http.server
import json
import threading

import numpy as np
import onnx
import pytest
from heimdall_export import Estimate, ExportError, Predictor, find_published, upload_model
from heimdall_export.object_store.store import ModelStores
from heimdall_export.object_store.upload import add_to_sidecar
from heimdall_export.serving.geojson import feature_collection
from heimdall_export.session import open_session

ADDRESSES = ("s3://a/x.onnx", "s3://bucket/../x.onnx", "s3://a..b/x.onnx", "s3://bucket/\ud800")
HERE = Estimate(latitude_deg=45.0, longitude_deg=8.0, sigma_east_m=2_000, sigma_north_m=500)


@pytest.fixture
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


def test_an_answer_that_describes_no_version_is_an_error(registry):
    """Something else at the address may speak JSON too."""
    says, stores = registry
    for version in (None, [1], "x", {}, {"version": "1", "tags": [{"value": "x"}]}):
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


@pytest.mark.parametrize("uri", ADDRESSES)
def test_an_address_that_no_store_takes_is_refused(uri, artifact_store, s3_settings):
    """The client's own error is a bare ValueError."""
    with pytest.raises(ExportError, match="is not a model's address"):
        Predictor(uri, stores=ModelStores(s3=artifact_store))
    with pytest.raises(ExportError, match="is not a model's address"):
        add_to_sidecar(s3_settings.client(), uri, "benchmark", 1)


def test_a_sidecar_stays_json_that_anybody_reads(s3_settings, models_bucket, onnx_path):
    """NaN is Python's alone; and figures come as NumPy's numbers."""
    client = s3_settings.client()
    model = upload_model(
        client, models_bucket, onnx_path, run_id="r", metrics={"a": np.float32(0.5)}, versions={}
    )
    for value in (np.nan, {"p95": np.inf}, {1}):
        with pytest.raises(ExportError, match="JSON cannot hold 'benchmark'"):
            add_to_sidecar(client, model.uri, "benchmark", value)
    says = json.loads(client.get_object(models_bucket, f"{model.key[:-5]}.json").data)
    assert (says["metrics"], "benchmark" in says) == ({"a": 0.5}, False)


@pytest.mark.parametrize("field", ["latitude_deg", "sigma_east_m", "sigma_north_m", "unexplained"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_not_drawn(field, value):
    """Its GeoJSON would be no JSON."""
    with pytest.raises(ExportError, match="cannot draw"):
        feature_collection([dataclasses.replace(HERE, **{field: value})])


def test_a_negative_sigma_is_not_drawn():
    """Its outline would go clockwise, which is a hole."""
    with pytest.raises(ExportError, match=r"sigma_east_m=-5\.0"):
        feature_collection([dataclasses.replace(HERE, sigma_east_m=-5.0)])


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


@pytest.mark.parametrize("region", ["null", "[]", "NaN", "1e999"])
def test_a_region_that_is_no_object_is_refused(region, onnx_path):
    """Whoever reads it takes it for one."""
    model = onnx.load(onnx_path)
    for entry in model.metadata_props:
        if entry.key == "heimdall.region":
            entry.value = region
    with pytest.raises(ExportError, match=r"heimdall\.region is "):
        Predictor(model.SerializeToString())


def test_what_is_no_mapping_fails_alone(onnx_path, recordings_of):
    """Nobody's mistake is another's, in one batch."""
    answers = Predictor(onnx_path).predict_each([recordings_of(1), None, []])
    assert isinstance(answers[0], Estimate)
    assert "give recordings by receiver, not NoneType" in str(answers[1])
    assert isinstance(answers[2], ExportError)
