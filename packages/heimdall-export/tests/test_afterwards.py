"""What is added to a model that is stored already, on the real store."""

import io
import json

import pytest
from heimdall_export import ExportError, upload_model
from heimdall_export.object_store.upload import add_to_sidecar
from heimdall_export.tracking.client import store_artifact
from mlflow import MlflowClient


@pytest.fixture
def client(s3_settings):
    """A client of the real store."""
    return s3_settings.client()


@pytest.fixture
def uploaded(client, models_bucket, onnx_path):
    """A model with its sidecar."""
    return upload_model(client, models_bucket, onnx_path, run_id="r", metrics={}, versions={})


def sidecar(client, model):
    """What a model's sidecar says."""
    bucket = model.uri.removeprefix("s3://").partition("/")[0]
    return json.loads(client.get_object(bucket, model.key.replace(".onnx", ".json")).data)


def test_an_entry_is_added_and_replaced_and_nothing_else_changes(client, uploaded):
    """A benchmark is run again when the runtime is new; the identity stays what it was."""
    before = sidecar(client, uploaded)
    for value in ({"ms": 1.0}, {"ms": 2.0}):
        add_to_sidecar(client, uploaded.uri, "benchmark", value)
        assert sidecar(client, uploaded) == before | {"benchmark": value}


def test_what_identifies_the_model_is_not_changed(client, uploaded):
    """A service loads by the hash that the sidecar says."""
    with pytest.raises(ExportError, match="'sha256'"):
        add_to_sidecar(client, uploaded.uri, "sha256", "0" * 64)
    assert sidecar(client, uploaded)["sha256"] == uploaded.sha256


@pytest.mark.parametrize("contents", [b"not json", b"[1]", b"\xff"])
def test_a_sidecar_that_is_none_is_left_alone(client, models_bucket, uploaded, contents):
    """Whoever broke it may want to see how."""
    key = uploaded.key.replace(".onnx", ".json")
    client.put_object(models_bucket, key, io.BytesIO(contents), len(contents))
    with pytest.raises(ExportError, match="not a JSON object"):
        add_to_sidecar(client, uploaded.uri, "benchmark", {})
    assert client.get_object(models_bucket, key).data == contents


def test_a_model_that_is_not_there_is_told(client, models_bucket):
    """The address may be of yesterday."""
    with pytest.raises(ExportError, match=r"gone\.json.*NoSuchKey"):
        add_to_sidecar(client, f"s3://{models_bucket}/gone.onnx", "benchmark", {})


def test_a_run_that_has_ended_takes_a_file(tracker, tracking_uri, artifact_store, tmp_path):
    """The figures belong to the run, months after it."""
    tracker.end()
    path = tmp_path / "figures.json"
    path.write_text("{}")
    place = store_artifact(
        MlflowClient(tracking_uri), tracker.run_id, path, "benchmark", artifact_store=artifact_store
    )
    with artifact_store.environment():
        found = MlflowClient(tracking_uri).list_artifacts(tracker.run_id, "benchmark")
    assert [entry.path for entry in found] == ["benchmark/figures.json"]
    assert place == tracker.artifact_uri
    with pytest.raises(ExportError, match=r"store .*figures\.json with run 0123"):
        store_artifact(MlflowClient(tracking_uri), "0123", path)
