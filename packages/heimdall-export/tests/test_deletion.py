"""Deleting a version on a real registry and a real object store: all of it, and nothing else."""

import shutil

import pytest
from heimdall_export import (
    ExportError,
    MLflowTracker,
    delete_version,
    list_versions,
    promote,
    register,
    rollback,
    upload_model,
    write_card,
)
from minio import Minio
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

STEPS = [
    (MlflowClient, "set_model_version_tag"),
    (MlflowClient, "delete_registered_model_alias"),
    (Minio, "remove_object"),
    (MlflowClient, "delete_logged_model"),
    (MlflowClient, "set_tag"),
    (MlflowClient, "delete_model_version"),
]


@pytest.fixture
def publish(tracking_uri, artifact_store, client, models_bucket, onnx_path, model_name, tmp_path):
    """Makes a version as training does: a run of its own, a file of its own; the run's id."""
    card = write_card(shutil.copy(onnx_path, tmp_path / "carded.onnx"))

    def one():
        with MLflowTracker(
            tracking_uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
        ) as run:
            model = upload_model(
                client,
                models_bucket,
                onnx_path,
                run_id=run.run_id,
                metrics={},
                versions={},
                card=card,
            )
            run.log_artifact(onnx_path, "checkpoints")
            run.log_metrics({"val/loss": 1.0})
            register(run, onnx_path, model_name=model_name, tags={"onnx_uri": model.uri})
        return run.run_id

    return one


@pytest.fixture
def delete(tracking_uri, artifact_store, client, model_name):
    """Deletes a version."""

    def one(version):
        return delete_version(
            tracking_uri, model_name, version, objects=client, artifact_store=artifact_store
        )

    return one


def numbers(tracking_uri, name):
    """The versions that there are."""
    return [found.version for found in list_versions(tracking_uri, name)]


def artifacts(tracking_uri, store, run_id):
    """The folders of a run's artifacts that hold files; the store may keep empty ones a while."""
    client = MlflowClient(tracking_uri)
    with store.environment():
        folders = [e.path for e in client.list_artifacts(run_id) if e.is_dir]
        return {
            folder
            for folder in folders
            if any(not e.is_dir for e in client.list_artifacts(run_id, folder))
        }


def logged_models(tracking_uri, client, run_id):
    """The LoggedModels of a run that MLflow shows, and whether each of its outputs has files."""
    mlflow = MlflowClient(tracking_uri)
    run = mlflow.get_run(run_id)
    shown = mlflow.search_logged_models([run.info.experiment_id])
    ids = [output.model_id for output in run.outputs.model_outputs]
    files = [
        any(client.list_objects("heimdall-mlflow", f"models/{model_id}/", recursive=True))
        for model_id in ids
    ]
    return {model.model_id for model in shown} & {*ids}, files


def test_a_version_goes_with_all_that_was_stored_of_it(
    publish, delete, tracking_uri, artifact_store, client, keys, models_bucket, model_name
):
    """What is left behind costs money, and is found by somebody who believes it."""
    kept_run = publish()
    kept = keys(client, models_bucket)
    assert [key.rpartition(".")[2] for key in kept] == ["json", "md", "onnx"]
    run_id = publish()
    gone = delete("2")
    assert numbers(tracking_uri, model_name) == ["1"]
    assert keys(client, models_bucket) == kept
    assert artifacts(tracking_uri, artifact_store, run_id) == set()
    assert artifacts(tracking_uri, artifact_store, kept_run) == {"checkpoints"}
    assert logged_models(tracking_uri, client, run_id) == (set(), [False])
    (shown, files) = logged_models(tracking_uri, client, kept_run)
    assert (len(shown), files) == (1, [True])
    assert [address.partition(":")[0] for address in gone] == ["s3"] * 5 + ["models"]


def test_a_copy_under_another_name_keeps_all_that_it_uses(
    publish, delete, tracking_uri, artifact_store, client, keys, models_bucket, model_name
):
    """MLflow promotes between models by `copy_model_version`, whose copies share every file."""
    run_id = publish()
    kept = keys(client, models_bucket)
    mlflow = MlflowClient(tracking_uri)
    copy = mlflow.copy_model_version(f"models:/{model_name}/1", f"{model_name}-copy")
    assert delete("1") == (f"models:/{model_name}/1",)
    assert keys(client, models_bucket) == kept
    assert artifacts(tracking_uri, artifact_store, run_id) == {"checkpoints"}
    (shown, files) = logged_models(tracking_uri, client, run_id)
    assert (len(shown), files) == (1, [True])
    mlflow.delete_model_version(copy.name, copy.version)


def test_the_run_stays_and_says_that_its_files_are_gone(publish, delete, tracking_uri):
    """What was tried, and how it went, is worth more than the file."""
    run_id = publish()
    delete("1")
    data = MlflowClient(tracking_uri).get_run(run_id).data
    assert data.metrics == {"val/loss": 1.0}
    assert data.tags["artifacts"] == "deleted"


def test_what_is_in_production_is_refused(
    publish, delete, tracking_uri, client, keys, models_bucket, model_name
):
    """Services load it when they restart."""
    publish()
    promote(tracking_uri, model_name, "1", force=True)
    before = keys(client, models_bucket)
    with pytest.raises(ExportError, match=r"in production; promote another one or roll back first"):
        delete("1")
    assert keys(client, models_bucket) == before
    assert list_versions(tracking_uri, model_name)[0].tags["stage"] == "Production"


@pytest.mark.parametrize(("where", "step"), STEPS)
def test_interrupted_it_leaves_nothing_that_looks_usable_and_can_be_repeated(
    publish,
    delete,
    tracking_uri,
    artifact_store,
    client,
    keys,
    models_bucket,
    model_name,
    monkeypatch,
    where,
    step,
):
    """Ctrl-C, or a store that goes away, between any two steps."""
    run_id = publish()

    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, step, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            delete("1")
    (left,) = list_versions(tracking_uri, model_name)
    untouched = step == "set_model_version_tag"
    assert left.is_being_deleted is not untouched
    if not untouched:
        with pytest.raises(ExportError, match=r"is being deleted; `heimdall models delete 1` fin"):
            promote(tracking_uri, model_name, "1", force=True)
    delete("1")
    assert numbers(tracking_uri, model_name) == []
    assert keys(client, models_bucket) == []
    assert artifacts(tracking_uri, artifact_store, run_id) == set()
    assert logged_models(tracking_uri, client, run_id) == (set(), [False])


def test_the_model_goes_before_the_sidecar_that_vouches_for_it(
    publish, delete, client, keys, models_bucket, monkeypatch
):
    """A model without a sidecar would be one that nobody vouches for; a sidecar alone is a name."""
    publish()
    real = Minio.remove_object

    def once(self, *args):
        monkeypatch.setattr(Minio, "remove_object", real)
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Minio, "remove_object", once)
    with pytest.raises(KeyboardInterrupt):
        delete("1")
    assert [key.rpartition(".")[2] for key in keys(client, models_bucket)] == ["json", "md"]


def test_rollback_passes_over_a_version_that_is_being_deleted(
    publish, tracking_uri, delete, model_name, monkeypatch
):
    """Its file may be gone already."""
    for version in ("1", "2", "3"):
        publish()
        promote(tracking_uri, model_name, version, force=True)

    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Minio, "remove_object", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            delete("2")
    assert rollback(tracking_uri, model_name) == "1"


def test_what_another_version_uses_stays(
    tracker,
    tracking_uri,
    artifact_store,
    client,
    keys,
    models_bucket,
    onnx_path,
    model_name,
    delete,
):
    """One run may be registered twice, and the second may be in production."""
    model = upload_model(client, models_bucket, onnx_path, run_id="r", metrics={}, versions={})
    for _ in range(2):
        register(tracker, onnx_path, model_name=model_name, tags={"onnx_uri": model.uri})
    promote(tracking_uri, model_name, "1", force=True)
    own, version = delete("2")
    assert "/models/m-" in own
    assert version == f"models:/{model_name}/2"
    assert model.key in keys(client, models_bucket)
    (kept,), files = logged_models(tracking_uri, client, tracker.run_id)
    assert kept not in own
    assert sorted(files) == [False, True]  # MLflow tells a run's outputs in no order


def test_a_tag_that_is_no_address_is_told(tracker, onnx_path, model_name, delete):
    """Tags can be edited by hand; the client's own error is a bare ValueError."""
    register(tracker, onnx_path, model_name=model_name, tags={"onnx_uri": "s3://models/../x.onnx"})
    with pytest.raises(ExportError, match=r"tag onnx_uri: 's3://models/../x\.onnx' is no"):
        delete("1")


def test_artifacts_in_a_folder_go_too(tracking_uri, tmp_path, onnx_path, model_name, delete):
    """A small installation has no object store for them."""
    with MLflowTracker(
        tracking_uri, artifact_root=tmp_path.as_uri(), experiment_name=model_name
    ) as run:
        register(run, onnx_path, model_name=model_name, tags={})
    delete("1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_refuses_is_told_and_the_version_stays_marked(
    publish, tracking_uri, artifact_store, model_name, s3_settings
):
    """The version alone knows where the files are; without it they would be forgotten."""
    publish()
    nobody = Minio(
        s3_settings.endpoint_url.removeprefix("http://"), "nobody", "wrong-key", secure=False
    )
    with pytest.raises(ExportError, match=r"cannot delete s3://.*refuses") as told:
        delete_version(tracking_uri, model_name, "1", objects=nobody, artifact_store=artifact_store)
    assert "wrong-key" not in str(told.value)
    assert list_versions(tracking_uri, model_name)[0].is_being_deleted
