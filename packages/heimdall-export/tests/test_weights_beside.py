"""A model whose weights are in a second file: one model to whoever stores, serves or deletes it."""

import dataclasses
import io

import mlflow
import numpy as np
import pytest
from heimdall_export import (
    ExportError,
    MLflowTracker,
    Predictor,
    delete_version,
    export_onnx,
    register,
    upload_model,
)
from heimdall_export.graph.variants import at_precision
from heimdall_export.model_files import model_size, weights_beside
from heimdall_export.object_store.store import ModelStores
from heimdall_export.session import Sample


@pytest.fixture
def path(network, metadata, tmp_path):
    """The small network, exported as one that is too large for one file."""
    return export_onnx(network, tmp_path / "m.onnx", metadata=metadata, largest_file=10)


@pytest.fixture
def uploaded(client, models_bucket, path):
    """Both files in the object store."""
    return upload_model(client, models_bucket, path, run_id="0123abcd", metrics={}, versions={})


def test_both_files_are_stored_and_fetched_as_one_model(
    client, keys, models_bucket, uploaded, path, artifact_store, recordings_of, tmp_path
):
    """Who has the address of the one must get the other, and the same positions."""
    stem = uploaded.key.removesuffix(".onnx")
    assert keys(client, models_bucket) == [f"{stem}.data", f"{stem}.json", f"{stem}.onnx"]
    stores = ModelStores(s3=artifact_store)
    there = Predictor(uploaded.uri, stores=stores, cache_dir=tmp_path / "cache")
    assert there.predict(recordings_of(1)) == Predictor(path).predict(recordings_of(1))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_weights_of_another_model_are_refused_by_their_hash(
    client, models_bucket, uploaded, artifact_store, tmp_path
):
    """The graph alone would be proven, and answer with somebody else's weights."""
    key = uploaded.key.replace(".onnx", ".data")
    size = client.stat_object(models_bucket, key).size
    client.put_object(models_bucket, key, io.BytesIO(bytes(size)), size)
    with pytest.raises(ExportError, match=r"\.data has sha256 .*, the model says"):
        Predictor(uploaded.uri, stores=ModelStores(s3=artifact_store), cache_dir=tmp_path / "c")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda weights: weights.unlink(), r"which is not beside it"),
        (lambda weights: weights.write_bytes(b"other"), r"\.data was changed"),
    ],
)
def test_weights_that_are_not_the_models_are_not_uploaded(
    damage, said, client, keys, models_bucket, path
):
    """Half a model in the store would be found by a service that starts at night."""
    damage(weights_beside(path))
    with pytest.raises(ExportError, match=said):
        upload_model(client, models_bucket, path, run_id="r", metrics={}, versions={})
    assert keys(client, models_bucket) == []


def test_an_interruption_after_the_weights_leaves_nothing(
    client, keys, models_bucket, path, artifact_store, faulty
):
    """The weights are gigabytes; nobody would ever find out whose they were."""
    address = artifact_store.endpoint_url.removeprefix("http://")
    with faulty.faulty_store(address, [("PUT .onnx", faulty.ctrl_c)]) as (at, _):
        store = dataclasses.replace(artifact_store, endpoint_url=f"http://{at}")
        with pytest.raises(KeyboardInterrupt):
            upload_model(store.client(), models_bucket, path, run_id="r", metrics={}, versions={})
    assert keys(client, models_bucket) == []


def test_the_registry_holds_both_and_a_deletion_takes_both(
    client, keys, models_bucket, path, tracking_uri, artifact_store, model_name, features
):
    """MLflow's own loader is in the contract, and deleting must not leave gigabytes behind."""
    with MLflowTracker(
        tracking_uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        model = upload_model(client, models_bucket, path, run_id="r", metrics={}, versions={})
        tags = {"onnx_uri": model.uri, "sha256": model.sha256}
        version = register(run, path, model_name=model_name, tags=tags)
    mlflow.set_tracking_uri(tracking_uri)
    with artifact_store.environment():
        loaded = mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")
    said = loaded.predict({"mel_spectrogram": features[:4]})["positions"]
    wanted = [
        (e.latitude_deg, e.longitude_deg) for e in Predictor(path).predict_features(features[:4])
    ]
    assert np.allclose(said, wanted, atol=1e-5)
    delete_version(tracking_uri, model_name, version, objects=client, artifact_store=artifact_store)
    assert keys(client, models_bucket) == []


def test_sizes_and_leftovers_count_both_files(path, features):
    """`auto` compares sizes, and removes what it did not choose."""
    size = model_size(path)
    assert size > weights_beside(path).stat().st_size > 0

    def judge(_):
        return {"error_m_median": 1.0, "coverage_68": 0.68, "coverage_95": 0.95}

    choice = at_precision(path, "fp16", Sample(features), judge)
    assert choice.tried[0].size_bytes == size
    assert choice.chosen.size_bytes == model_size(choice.chosen.path)
