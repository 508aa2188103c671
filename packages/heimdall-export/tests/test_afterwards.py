"""What is added to a model that is stored already, on the real store."""

import io
import json
import math
from dataclasses import replace

import pytest
from heimdall_export import ExportError
from heimdall_export.object_store.upload import add_to_sidecar
from heimdall_export.tracking.client import store_artifact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

on_the_store = settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5)
not_objects = scalars | st.lists(scalars, max_size=3)
json_values = not_objects | st.dictionaries(st.text(max_size=3), not_objects, max_size=3)


def sidecar(client, model):
    """What a model's sidecar says."""
    bucket = model.uri.removeprefix("s3://").partition("/")[0]
    return json.loads(client.get_object(bucket, model.key.replace(".onnx", ".json")).data)


@on_the_store
@given(values=st.lists(json_values, min_size=1, max_size=2))
def test_an_entry_is_added_and_replaced_and_nothing_else_changes(client, uploaded, values):
    """A benchmark is run again when the runtime is new; the identity stays what it was."""
    before = sidecar(client, uploaded)
    for value in values:
        add_to_sidecar(client, uploaded.uri, "benchmark", value)
        assert sidecar(client, uploaded) == before | {"benchmark": value}


@on_the_store
@given(name=st.sampled_from(["uri", "key", "sha256", "size", "created_at", "run_id"]))
def test_what_identifies_the_model_is_not_changed(client, uploaded, name):
    """A service loads by the hash in the sidecar."""
    before = sidecar(client, uploaded)
    with pytest.raises(ExportError, match=f"'{name}'"):
        add_to_sidecar(client, uploaded.uri, name, before[name])
    assert sidecar(client, uploaded) == before


@on_the_store
@given(
    value=st.sampled_from([math.nan, math.inf, -math.inf, {1}, object()]), depth=st.integers(0, 3)
)
def test_what_json_cannot_hold_is_not_added(client, uploaded, value, depth):
    """NaN is JSON for Python alone, and the sidecar is read by anybody."""
    before = sidecar(client, uploaded)
    for _ in range(depth):
        value = {"p95": [value]}
    with pytest.raises(ExportError, match="JSON cannot hold 'benchmark'"):
        add_to_sidecar(client, uploaded.uri, "benchmark", value)
    assert sidecar(client, uploaded) == before


@on_the_store
@given(contents=st.binary(max_size=9) | not_objects.map(lambda value: json.dumps(value).encode()))
def test_a_sidecar_that_is_not_an_object_is_left_alone(client, models_bucket, contents):
    """Whoever broke it may want to see how."""
    client.put_object(models_bucket, "x.json", io.BytesIO(contents), len(contents))
    with pytest.raises(ExportError, match="not a JSON object"):
        add_to_sidecar(client, f"s3://{models_bucket}/x.onnx", "benchmark", {})
    assert client.get_object(models_bucket, "x.json").data == contents


def test_a_model_that_is_deleted_meanwhile_does_not_get_its_sidecar_back(
    client, uploaded, s3_settings, models_bucket, keys, faulty
):
    """It would be the file of a version that is no more."""
    key = uploaded.key.replace(".onnx", ".json")

    def delete_first(handler):
        client.remove_object(models_bucket, key)
        handler.answer(*handler.upstream())

    place = s3_settings.endpoint_url.removeprefix("http://")
    with faulty.faulty_store(place, [(f"PUT {models_bucket}/{key}", delete_first)]) as (address, _):
        through = replace(s3_settings, endpoint_url=f"http://{address}").client()
        with pytest.raises(ExportError, match=r"\.json in bucket .* changed or deleted meanwhile"):
            add_to_sidecar(through, uploaded.uri, "benchmark", {"p95": 1})
    assert keys(client, models_bucket) == [uploaded.key]


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
