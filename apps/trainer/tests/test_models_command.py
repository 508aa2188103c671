"""`heimdall models delete` on a real registry: asked for twice, and what it says."""

import io
import json
import uuid

import pytest
from heimdall_export import evaluation_tags, list_versions
from heimdall_export.tracking.client import open_client
from heimdall_trainer.cli.app import main
from heimdall_trainer.connections import Connections

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    """A real MLflow store in SQLite; its schema is made once."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def version(stack, tracking_uri, tmp_path, monkeypatch):
    """One version with a file in the object store; the name of its model, and the file's key."""
    there = Connections.to_stack(stack)
    for name, value in {
        "HEIMDALL_S3_ENDPOINT_URL": there.s3_endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": there.s3_access_key,
        "HEIMDALL_S3_SECRET_KEY": there.s3_secret_key,
        "MLFLOW_TRACKING_URI": tracking_uri,
    }.items():
        monkeypatch.setenv(name, value)
    name = f"model-{uuid.uuid4().hex}"
    key = f"models/localization/{name}.onnx"
    objects = there.need_s3().client()
    for each in (key, key.replace(".onnx", ".json")):
        objects.put_object(there.models_bucket, each, io.BytesIO(b"{}"), 2)
    client = open_client(tracking_uri)
    experiment = client.create_experiment(name, artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment).info
    client.log_text(run.run_id, "weights", "model/model.onnx")
    client.create_registered_model(name)
    where = {"onnx_uri": f"s3://{there.models_bucket}/{key}"}
    client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id, tags=where)
    return name, key


def heimdall(*words):
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["models", *words])
    return ended.value.code


def keys(stack):
    """What is in the models' bucket."""
    found = stack.s3.client().list_objects(stack.s3.models_bucket, recursive=True)
    return {each.object_name for each in found}


def test_a_version_is_deleted_with_its_file_and_its_artifacts(
    version, stack, tracking_uri, tmp_path, capsys
):
    """And it is said what went, for whoever has to answer for it."""
    name, key = version
    assert heimdall("delete", "1", "--yes", "--model-name", name) == 0
    assert list_versions(tracking_uri, name) == ()
    assert not {key, key.replace(".onnx", ".json")} & keys(stack)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert f"deleted models:/{name}/1\n" in capsys.readouterr().out


def test_lists_are_for_programs_too(version, tracking_uri, capsys):
    """A script must not read columns."""
    name, _ = version
    assert heimdall("list", "--json", "--model-name", name) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["version"], listed["aliases"]) == ("1", [])
    assert heimdall("show", "1", "--json", "--model-name", name) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == listed | {"moves": []}
    assert heimdall("list", "--model-name", "nobody") == 0
    assert capsys.readouterr().out == f"nobody has no version in {tracking_uri}\n"
    assert heimdall("list", "--model-name", name) == 0
    assert capsys.readouterr().out.startswith(f"{name} in {tracking_uri}\nversion    1 ")


def test_metrics_are_shown_in_their_units(version, tracking_uri, capsys):
    """Nobody reads 28912.80517578125 in a line of JSON, or compares it with another."""
    name, _ = version
    metrics = {"test/error_m_median": 28912.805, "test/nll": -1.23456, "test/coverage_68": 0.7013}
    tags = evaluation_tags(metrics, ["a"])
    for tag in tags.items():
        open_client(tracking_uri).set_model_version_tag(name, "1", *tag)
    assert heimdall("show", "1", "--model-name", name) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    figures = {line[0]: line[1] for line in lines}
    assert figures["test/error_m_median"] == "28.9 km"
    assert figures["test/nll"] == "-1.23"
    assert figures["test/coverage_68"] == "70 %"
    assert "metrics" not in figures


def test_a_version_of_another_program_is_shown_with_its_own_tag(version, tracking_uri, capsys):
    """Registries are shared, and `metrics` is a name that anybody may think of."""
    name, _ = version
    open_client(tracking_uri).set_model_version_tag(name, "1", "metrics", "rmse 3\x1b[1m")
    assert heimdall("show", "1", "--model-name", name) == 0
    told = capsys.readouterr()
    assert (
        next(line for line in told.out.splitlines() if "rmse" in line).split(maxsplit=1),
        told.err,
    ) == (["metrics", r"rmse 3\x1b[1m"], "")


def test_without_a_yes_nothing_is_deleted(version, stack, tracking_uri, monkeypatch, capsys):
    """A script that forgot the flag must not hang, and a slip of the finger not delete."""
    name, key = version
    assert heimdall("delete", "1", "--model-name", name) == 2
    assert "nobody is there to ask; give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert heimdall("delete", "1", "--model-name", name) == 2
    assert "nothing was deleted" in capsys.readouterr().err
    assert key in keys(stack)
    assert len(list_versions(tracking_uri, name)) == 1
    monkeypatch.setattr("builtins.input", lambda question: "Yes")
    assert heimdall("delete", "1", "--model-name", name) == 0
    assert key not in keys(stack)


def test_what_is_in_production_is_refused_before_anything_is_asked(
    version, tracking_uri, monkeypatch, capsys
):
    """A question that can only be answered with no is none."""
    name, _ = version
    open_client(tracking_uri).set_registered_model_alias(name, "production", "1")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("it asked"))
    assert heimdall("delete", "1", "--model-name", name) == 1
    assert "is in production; promote another one or roll back first" in capsys.readouterr().err
