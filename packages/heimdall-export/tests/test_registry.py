"""The registry on a real store: which version is used, and what is refused."""

import json
import re
import sqlite3
import uuid
from contextlib import contextmanager
from dataclasses import asdict

import mlflow
import numpy as np
import onnx
import pytest
from heimdall_export import (
    ExportError,
    evaluation_tags,
    list_versions,
    promote,
    register,
    rollback,
)
from heimdall_export.registry.promotion import moves
from heimdall_export.registry.registry import save_mlflow_model
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.models import Model

pytestmark = pytest.mark.slow


@pytest.fixture
def three(tracker, onnx_path, model_name):
    """Registers three equally good versions; the model's name."""
    for _ in range(3):
        register(tracker, onnx_path, model_name=model_name, tags=judged_by(1000.0))
    return model_name


def judged_by(error_m, nll=5.0, sessions=("a", "b")):
    """Tags of a version with these figures."""
    return evaluation_tags({"test/error_m_median": error_m, "test/nll": nll}, sessions)


def production(tracking_uri, name):
    """The version in production, None where there is none."""
    return next(
        (v.version for v in list_versions(tracking_uri, name) if "production" in v.aliases), None
    )


moves_made = st.lists(
    st.one_of(st.sampled_from("123"), st.sampled_from(["rollback", "elsewhere"])), max_size=12
)


@settings(max_examples=12)
@given(history=moves_made)
@example(history=[*"12" * 12, *["rollback"] * 5])
@example(history=["1", "elsewhere", "3", "rollback", "rollback"])
def test_a_history_of_moves_leads_where_a_stack_would(tracking_uri, history):
    """In an incident the way back must be the way there, also past what others moved.

    After each move one version at most has the stage `Production`, and the log fits into a tag.
    """
    client, three = MlflowClient(tracking_uri), f"model-{uuid.uuid4().hex}"
    client.create_registered_model(three)
    for _ in range(3):
        tags = judged_by(1000.0) | {"stage": "Staging"}
        client.create_model_version(three, "s3://nowhere/model", tags=tags)
    stack = []
    for move in history:
        if move == "elsewhere":  # the backend moves the alias by itself
            client.set_registered_model_alias(three, "production", "2")
            stack += ["2"] if stack[-1:] != ["2"] else []
        elif move != "rollback":
            promote(tracking_uri, three, move, reason="r" * 200)
            stack += [move] if stack[-1:] != [move] else []
        elif len(stack) > 1:
            stack.pop()
            assert rollback(tracking_uri, three) == stack[-1]
        else:
            with pytest.raises(ExportError, match=r"no predecessor|no version of"):
                rollback(tracking_uri, three)
        assert production(tracking_uri, three) == (stack[-1] if stack else None)
        if move != "elsewhere":
            stages = [v.tags["stage"] for v in list_versions(tracking_uri, three)]
            assert stages.count("Production") <= 1
            log = client.get_registered_model(three).tags.get("production.log", "[]")
            done = [asdict(made) for made in moves(tracking_uri, three)]
            # A move of others is written by the next one of ours.
            assert json.loads(log) in (done[-20:], done[:-1][-20:])


def test_versions_are_listed_newest_first_with_aliases_and_tags(tracking_uri, three, tracker):
    """The list is what an operator decides by."""
    promote(tracking_uri, three, "2")
    found = list_versions(tracking_uri, three)
    assert [version.version for version in found] == ["3", "2", "1"]
    assert [version.aliases for version in found] == [("staging",), ("production",), ()]
    assert [version.tags["stage"] for version in found] == ["Staging", "Production", "Staging"]
    assert {version.run_id for version in found} == {tracker.run_id}


def test_a_database_of_another_kind_is_left_to_mlflow(tmp_path):
    """It makes its tables, or says what is wrong with those that are there."""
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE model_versions (name TEXT)")
    with pytest.raises(ExportError, match="MLflow cannot"):
        list_versions(uri)


def test_a_model_says_what_it_takes_and_gives(onnx_path, tmp_path, features):
    """MLflow's own loaders and pages go by signature, example and requirements."""
    shape = features.shape[1:]
    for rows, n_rows in ((None, 1), (features[:3], 3)):
        folder = tmp_path / str(n_rows)
        save_mlflow_model(onnx_path, folder, input_example=rows)
        model = Model.load(folder)
        assert [(end.name, end.type, end.shape) for end in model.signature.inputs] == [
            ("mel_spectrogram", np.float32, (-1, *shape))
        ]
        assert [(end.name, end.type, end.shape) for end in model.signature.outputs] == [
            ("positions", np.float32, (-1, 2)),
            ("uncertainties", np.float32, (-1, 2)),
        ]
        shown = model.load_input_example(str(folder))["mel_spectrogram"]
        assert (shown.dtype, shown.shape) == (np.float32, (n_rows, *shape))
        np.testing.assert_array_equal(shown, np.zeros((1, *shape)) if rows is None else rows)
        assert (folder / "model.onnx").read_bytes() == onnx_path.read_bytes()
        assert [path.name for path in folder.glob("*.onnx*")] == ["model.onnx"]
        needed = [line.partition("==")[0] for line in (folder / "requirements.txt").open()]
        assert needed == ["mlflow", "numpy", "onnx", "onnxruntime"]


def test_an_example_of_another_shape_is_refused(onnx_path, tmp_path):
    """The page of the model would show features that it does not take."""
    with pytest.raises(ExportError, match=r"the input example is \(1, 2\), the model takes"):
        save_mlflow_model(onnx_path, tmp_path / "m", input_example=np.zeros((1, 2), np.float32))
    assert not (tmp_path / "m").exists()


def test_rollback_passes_over_a_version_that_was_deleted(tracking_uri, three):
    """Production must never point at nothing."""
    for version in ("1", "2", "3"):
        promote(tracking_uri, three, version)
    MlflowClient(tracking_uri).delete_model_version(three, "2")
    assert rollback(tracking_uri, three) == "1"


def test_a_model_that_nobody_registered_has_no_versions(tracking_uri, model_name):
    """`heimdall models list` on a fresh machine shows nothing and is no error."""
    assert list_versions(tracking_uri, model_name) == ()


def test_a_version_that_is_not_there_is_refused_with_those_that_are(tracking_uri, three):
    """The operator mistyped, and wants to see what could have been meant."""
    with pytest.raises(ExportError, match="has no version '7'; it has 3, 2, 1"):
        promote(tracking_uri, three, "7")
    assert production(tracking_uri, three) is None


def test_rollback_without_production_says_what_to_do(tracking_uri, three):
    """Nothing was promoted yet."""
    with pytest.raises(ExportError, match=r"no version of .* is in production; promote one"):
        rollback(tracking_uri, three)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text("ab'\"\\`%;-# é", min_size=1))
@example(name="l'été")
@example(name='5" dish')
def test_a_model_is_found_under_every_name_that_is_allowed(tracking_uri, model_name, name):
    """A model that is trained and cannot be promoted is found out after the training."""
    assume(not {"'", '"'} <= {*name})
    own = f"{name}{model_name}{uuid.uuid4()}{name}"
    client = MlflowClient(tracking_uri)
    client.create_registered_model(own)
    client.create_model_version(own, "s3://nowhere/model")
    promote(tracking_uri, own, "1", force=True)
    assert [found.version for found in list_versions(tracking_uri, own)] == ["1"]
    assert [move.version for move in moves(tracking_uri, own)] == ["1"]


@pytest.mark.parametrize("name", ["a.production-journal", "a'b\"c"])
def test_a_name_that_cannot_be_kept_apart_or_found_is_refused(
    tracker, tracking_uri, onnx_path, model_name, name
):
    """Versions of such a model would be decisions about another, or be found by nobody."""
    own = f"{model_name}{name}"
    with pytest.raises(ExportError, match=f"model name .{model_name}.* must be a name"):
        register(tracker, onnx_path, model_name=own, tags={})
    MlflowClient(tracking_uri).create_registered_model(own)
    MlflowClient(tracking_uri).create_model_version(own, "s3://nowhere/model")
    with pytest.raises(ExportError, match=f"model name .{model_name}.* must be a name"):
        promote(tracking_uri, own, "1", force=True)


def test_a_name_that_a_prompt_has_is_refused(tracker, tracking_uri, onnx_path, model_name):
    """MLflow keeps prompts among the models; a model under such a name loads for nobody."""
    MlflowClient(tracking_uri).register_prompt(model_name, "Where is {{transmitter}}?")
    with pytest.raises(ExportError, match=f"'{model_name}'.* already taken by a prompt"):
        register(tracker, onnx_path, model_name=model_name, tags={})
    assert list_versions(tracking_uri, model_name) == ()


def test_a_name_that_mlflow_forbids_is_told(tracker, onnx_path):
    """Slashes would make `models:/` addresses ambiguous."""
    with pytest.raises(ExportError, match=r"MLflow cannot register 'a/b'"):
        register(tracker, onnx_path, model_name="a/b", tags={})


@pytest.mark.parametrize(
    ("contents", "said"),
    [(b"not a model", "is not an ONNX file"), (b"", "has inputs \\[\\]")],
)
def test_a_file_that_is_no_model_is_not_registered(
    tracker, tracking_uri, model_name, tmp_path, contents, said
):
    """A registered version that does not load stops a deployment."""
    (tmp_path / "m.onnx").write_bytes(contents)
    with pytest.raises(ExportError, match=said):
        register(tracker, tmp_path / "m.onnx", model_name=model_name, tags={})
    assert list_versions(tracking_uri, model_name) == ()


def test_an_example_that_does_not_fit_is_refused(tracker, onnx_path, model_name, features):
    """The example in the registry is what people try first."""
    with pytest.raises(ExportError, match=r"input example is \(1, 2, 128, 32\)"):
        register(tracker, onnx_path, model_name=model_name, tags={}, input_example=features[:1, :2])


@contextmanager
def interrupted(monkeypatch, step):
    """Ctrl-C arrives as MLflow is asked for one step."""

    def ctrl_c(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            yield


STEPS = (
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
    "set_registered_model_tag",
)


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_was_interrupted_can_be_repeated(tracking_uri, three, monkeypatch, step):
    """The operator sees an error, and types the same line again."""
    promote(tracking_uri, three, "1")
    with interrupted(monkeypatch, step):
        promote(tracking_uri, three, "2")
    promote(tracking_uri, three, "2")
    stages = {v.version: v.tags["stage"] for v in list_versions(tracking_uri, three)}
    assert stages == {"1": "Archived", "2": "Production", "3": "Staging"}
    assert production(tracking_uri, three) == "2"
    assert rollback(tracking_uri, three) == "1"


@pytest.mark.parametrize("step", STEPS)
def test_a_rollback_that_was_interrupted_goes_to_the_same_version(
    tracking_uri, three, monkeypatch, step
):
    """In an incident, typing it twice must not bring the bad version back."""
    for version in ("3", "2", "3"):
        promote(tracking_uri, three, version)
    with interrupted(monkeypatch, step):
        rollback(tracking_uri, three)
    assert rollback(tracking_uri, three) == "2"
    assert production(tracking_uri, three) == "2"
    assert rollback(tracking_uri, three) == "3"


def test_a_registration_that_was_interrupted_leaves_no_version(
    tracker, tracking_uri, onnx_path, model_name, monkeypatch
):
    """A version without an alias would be a model that nobody decided about."""
    with interrupted(monkeypatch, "set_registered_model_alias"):
        register(tracker, onnx_path, model_name=model_name, tags={"name": model_name})
    assert list_versions(tracking_uri, model_name) == ()
    assert models_named(tracker, model_name) == []


def models_named(tracker, model_name):
    """The LoggedModels of an experiment with this tag."""
    return tracker.client.search_logged_models(
        [tracker.experiment_id], filter_string=f"tags.name = '{model_name}'"
    ).to_list()


def test_the_run_is_in_mlflow_and_the_registered_version_loads_by_its_alias(
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
        assert {a.path for a in client.list_artifacts(tracker.run_id)} == {"report.html"}

    found = client.get_model_version_by_alias("heimdall-localization-onnx", "staging")
    (model,) = run.outputs.model_outputs
    tags = {"stage": "Staging", "sha256": "ab", "model_id": model.model_id}
    assert (str(found.version), found.tags) == (version, tags)
    for place in (
        "models:/heimdall-localization-onnx@staging",
        f"models:/{model.model_id}",
        f"runs:/{tracker.run_id}/model",
    ):
        assert _loaded(tracking_uri, artifact_store, place) == onnx.load(onnx_path)


def _loaded(tracking_uri, artifact_store, model_uri):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    try:
        with artifact_store.environment():
            return mlflow.onnx.load_model(model_uri)
    finally:
        mlflow.set_tracking_uri(before)
