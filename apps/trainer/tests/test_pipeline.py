"""One run of the pipeline on a real Postgres, a real S3 server and a real MLflow store."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from heimdall_data import Catalogue, ObjectStore
from heimdall_export.registry.listing import list_versions
from heimdall_features import FeatureExtractor
from heimdall_models.trained import Trained
from heimdall_models.training.batches import make_loader
from heimdall_models.training.fit import fit
from heimdall_trainer.cli.app import main
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.pipeline import TrainingPipeline
from heimdall_trainer.provenance import source_commit
from mlflow import MlflowClient
from mlflow.models import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def data(connections, quick):
    """The sessions of the test catalogue, divided and with their features."""
    return TrainingPipeline(quick, connections).load_data()


def first_batch(dataset, config):
    """What training sees first."""
    return next(iter(make_loader(dataset, config)))


def test_cp5_3_training_loss_falls_and_a_checkpoint_gives_the_same_outputs(
    connections, quick, data
):
    """The core promise of training: it learns, it validates, and what it saves is what it had."""
    config = replace(quick, epochs=5, augment=False)
    pipeline = TrainingPipeline(config, connections)
    module = pipeline.create_lightning_module(data)
    trainer = pipeline.create_trainer()
    trained = fit(trainer, module, data, config)

    losses = [record.train_loss for record in trained.history]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert all(np.isfinite(record.val_error_m_median) for record in trained.history)
    named = {type(callback).__name__ for callback in trainer.callbacks}
    assert {"ModelCheckpoint", "EarlyStopping", "EpochHistory", "EpochSeeds"} <= named
    assert trained.checkpoint.is_file()

    last = Trained.open(trained.checkpoint.with_name("last.ckpt")).single.module
    features = first_batch(data.validation, config)["features"]
    with torch.inference_mode():
        kept, loaded = module.eval()(features), last(features)
    assert torch.equal(kept[0], loaded[0])
    assert torch.equal(kept[1], loaded[1])


def test_the_best_three_checkpoints_stay(finished):
    """Disks fill up; but the best model must survive a bad last epoch.

    What is shipped of it has a checkpoint of its own.
    """
    from pathlib import Path

    folder = Path(finished.summary.checkpoint).parent
    names = {path.name for path in folder.glob("*.ckpt")}
    assert names - {"calibrated.ckpt"} == {"epoch=000.ckpt", "epoch=001.ckpt", "last.ckpt"}


def test_same_seed_same_weights(connections, quick, data):
    """A result that cannot be repeated cannot be argued about."""

    def weights():
        pipeline = TrainingPipeline(replace(quick, epochs=1), connections)
        module = pipeline.create_lightning_module(data)
        fit(pipeline.create_trainer(), module, data, pipeline.config)
        return torch.cat([values.flatten() for values in module.net.parameters()])

    assert torch.equal(weights(), weights())


def test_no_transmitter_is_on_two_sides(data):
    """Recognising a site is not locating it: the test split must be of unseen sites."""
    sides = [
        {session.source_id for session in part.sessions}
        for part in (data.train, data.validation, data.test)
    ]
    assert all(sides)
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])


def test_the_model_file_is_stored_as_the_contract_says(connections, finished):
    """A service finds the file by this name, checks it by this sidecar, and reads this metadata."""
    s3 = connections.need_s3()
    store = ObjectStore(s3, s3.models_bucket)
    bucket, _, key = finished.summary.onnx_uri.removeprefix("s3://").partition("/")
    assert bucket == "heimdall-models"
    stored = store.get(key)
    sidecar = json.loads(store.get(key.replace(".onnx", ".json")))
    assert sidecar["sha256"] == hashlib.sha256(stored).hexdigest()
    assert sidecar["run_id"] == finished.summary.run_id
    assert sidecar["metrics"] == finished.summary.metrics
    onnx.checker.check_model(onnx.load_from_string(stored), full_check=True)


def test_the_contracts_serving_example_works_on_the_stored_file(connections, finished):
    """Eight lines that other teams paste into their service."""
    session = onnxruntime.InferenceSession(finished.summary.onnx_path)
    metadata = session.get_modelmeta().custom_metadata_map
    assert [r["name"] for r in json.loads(metadata["heimdall.receivers"])] == [
        "Torino",
        "Genova",
        "Milano-Baggio",
    ]
    assert metadata["heimdall.run_id"] == finished.summary.run_id
    extract = FeatureExtractor.from_metadata(metadata)
    recordings = finished.data.test.recordings(0)
    features = extract({name: (r.iq, r.sample_rate_hz) for name, r in recordings.items()})
    positions, uncertainties = session.run(None, {"mel_spectrogram": features[None]})[:2]
    assert positions.shape == uncertainties.shape == (1, 2)
    assert positions.dtype == uncertainties.dtype == np.float32
    np.testing.assert_array_equal(features, finished.data.test[0]["features"])
    assert np.abs(positions[0] - [45.0, 8.2]).max() < 2
    assert (uncertainties > 0).all()


def test_parity_was_proven_on_real_features(finished):
    """The file must say what the network says, on what it will be asked."""
    parity = finished.delivery.parity
    assert parity.batch_sizes == (1, 4, 8, 16, 32, 64)
    assert parity.mean_difference < 1e-5


def test_the_run_is_in_mlflow_with_everything(connections, finished):
    """Who asks in a year how this model came to be must find it there."""
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone"] == "convnext_atto"
    assert run.data.params["seed"] == "7"
    for name in ("train/loss", "val/loss", "val/error_m_median", "test/error_m_median"):
        assert np.isfinite(run.data.metrics[name])
    assert run.data.tags["features.fingerprint"] == finished.data.features.fingerprint
    assert len(run.data.tags["dataset.fingerprint"]) == 64
    assert run.data.tags.get("git.commit") == source_commit()
    with connections.artifact_store().environment():
        kept = MlflowClient(connections.tracking_uri()).list_artifacts(finished.summary.run_id)
    names = {artifact.path for artifact in kept}
    card = Path(finished.summary.onnx_path).with_suffix(".md")
    assert names >= {"checkpoints", card.name, f"{finished.run_name}.html"}
    n_test = len(finished.data.test)
    assert f"| test sessions | {n_test}, of " in card.read_text()
    assert "| median error, m |" in card.read_text()
    assert run.info.artifact_uri.startswith("s3://heimdall-mlflow/")


def test_the_registered_version_loads_by_its_alias(connections, finished):
    """Deployment asks for `@staging`, not for a file."""
    versions = list_versions(connections.tracking_uri())
    registered = next(v for v in versions if v.run_id == finished.summary.run_id)
    assert registered.version == finished.summary.model_version
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(connections.tracking_uri())
    try:
        with connections.artifact_store().environment():
            loaded = mlflow.onnx.load_model(
                f"models:/heimdall-localization-onnx/{registered.version}"
            )
    finally:
        mlflow.set_tracking_uri(before)
    assert loaded.graph.input[0].name == "mel_spectrogram"


def test_a_trained_version_can_be_shown_and_promoted(connections, finished, monkeypatch, capsys):
    """It carries the figures that promotion asks for, and of which sessions they are."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", connections.tracking_uri())
    version = finished.summary.model_version
    for words in (["promote", version, "--reason", "a good one"], ["show", version]):
        with pytest.raises(SystemExit) as ended:
            main(["models", *words])
        assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"version {version} of heimdall-localization-onnx is in production" in said
    assert f"run {finished.summary.run_id}" in said
    assert re.search(r"^test/error_m_median +\d", said, re.MULTILINE)
    assert f"promote: version {version}  a good one" in said


def test_no_secret_reaches_mlflow(connections, finished):
    """Everybody in the house can read a run; nobody may read a password there."""
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    told = json.dumps(run.to_dictionary())
    s3 = connections.need_s3()
    for secret in (s3.secret_key, s3.access_key, connections.need_database()):
        assert secret not in told


def test_export_only_makes_a_new_version_of_a_checkpoint(connections, quick, finished):
    """A trained model can be exported again without training again."""
    from pathlib import Path

    config = replace(quick, export_only=True, checkpoint=(Path(finished.summary.checkpoint),))
    again = TrainingPipeline(config, connections).run()
    assert int(again.summary.model_version) > int(finished.summary.model_version)
    assert again.summary.onnx_uri != finished.summary.onnx_uri
    np.testing.assert_array_equal(
        again.delivery.evaluated.evaluation.position_deg,
        finished.delivery.evaluated.evaluation.position_deg,
    )


def test_the_report_is_a_page_that_needs_nothing_else(finished):
    """It is mailed around and opened from disk."""
    page = finished.report.read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    for session in finished.data.test.sessions[:3]:
        assert session.id in page


def test_a_catalogue_without_an_approved_session_says_so(connections, database_url, quick):
    """The most common first error of an operator."""
    with Catalogue(database_url) as catalogue:
        catalogue.create_schema()
    empty = replace(connections, database_url=database_url)
    with pytest.raises(TrainerError, match="no approved and completed session"):
        TrainingPipeline(quick, empty).load_data()


def test_each_side_of_the_split_is_a_dataset_of_the_run(connections, finished):
    """Who compares two runs must see at a glance whether they saw the same sessions."""
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    kept = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    for context, side in (("training", "train"), ("validation", "validation"), ("testing", "test")):
        sessions = getattr(finished.data, side).sessions
        profile = json.loads(kept[context].profile)
        assert profile["sessions"] == sorted(session.id for session in sessions)
        assert json.loads(kept[context].source)["tags"]["recordings"] == "s3://heimdall-raw-iq"


def test_the_registered_model_has_a_signature_and_a_real_example(connections, finished):
    """The example is what a stranger tries first; zeros would say nothing."""
    version = next(
        v for v in list_versions(connections.tracking_uri()) if v.run_id == finished.summary.run_id
    )
    client = MlflowClient(connections.tracking_uri())
    source = client.get_logged_model(version.tags["model_id"]).artifact_location
    with connections.artifact_store().environment():
        model = Model.load(source)
        example = model.load_input_example(source)
    assert model.signature.inputs.input_names() == ["mel_spectrogram"]
    features = finished.data.validation[0]["features"]
    assert abs(example["mel_spectrogram"][0] - features).max() == 0


def test_the_page_of_the_model_has_its_figures_and_their_data(connections, finished):
    """MLflow 3 compares models; every figure of the summary is on the page, with its sessions."""
    client = MlflowClient(connections.tracking_uri())
    run = client.get_run(finished.summary.run_id)
    (made,) = run.outputs.model_outputs
    model = client.get_logged_model(made.model_id)
    shown = {metric.key: metric for metric in model.metrics}
    finite = {name: v for name, v in finished.summary.metrics.items() if np.isfinite(v)}
    assert {name: shown[name].value for name in finite} == finite
    for name, metric in shown.items():
        side = {"val": "validation", "test": "test"}.get(name.partition("/")[0])
        assert metric.dataset_name == (f"heimdall-sessions-{side}" if side else None)
    assert model.params == run.data.params
