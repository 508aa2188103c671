"""CP5.5: the run is in MLflow with everything, and the registered version loads by its alias."""

import re

import mlflow
import onnx
from heimdall_export import register
from mlflow import MlflowClient


def test_cp5_5_the_run_is_in_mlflow_and_the_registered_version_loads_by_its_alias(
    tracker, tracking_uri, artifact_store, onnx_path, features, tmp_path
):
    """Who asks in a year how a model came to be finds it, and deployment asks for an alias."""
    (tmp_path / "report.html").write_text("<p>good</p>")
    tracker.log_params({"backbone": "convnext_atto", "optimizer": {"lr": 1e-3}})
    tracker.log_metrics({"val/error_m_median": 2000.0}, step=1)
    tracker.log_metrics({"val/error_m_median": 1000.0}, step=2)
    tracker.set_tags({"seed": "42"})
    tracker.log_artifact(tmp_path / "report.html")
    version = register(tracker, onnx_path, tags={"sha256": "ab"}, input_example=features[:1])
    tracker.end()

    client = MlflowClient(tracking_uri)
    run = client.get_run(tracker.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "heimdall-localization"
    assert re.fullmatch(r"rf-localization_\d{8}_\d{6}", run.info.run_name)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"backbone": "convnext_atto", "optimizer.lr": "0.001"}
    assert run.data.metrics == {"val/error_m_median": 1000.0}
    assert run.data.tags["seed"] == "42"
    assert run.info.artifact_uri.startswith("s3://heimdall-mlflow/")
    with artifact_store.environment():
        assert {a.path for a in client.list_artifacts(tracker.run_id)} == {"model", "report.html"}

    found = client.get_model_version_by_alias("heimdall-localization-onnx", "staging")
    assert (str(found.version), found.tags) == (version, {"stage": "Staging", "sha256": "ab"})
    loaded = _loaded(tracking_uri, artifact_store, "models:/heimdall-localization-onnx@staging")
    assert loaded == onnx.load(onnx_path)


def _loaded(tracking_uri, artifact_store, model_uri):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with artifact_store.environment():
            return mlflow.onnx.load_model(model_uri)
    finally:
        mlflow.set_tracking_uri(before)
