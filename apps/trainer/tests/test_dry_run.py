"""`--dry_run`: everything that a training needs is asked for, and nothing is stored."""

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import psycopg
import pytest
from heimdall_data import ObjectStore
from heimdall_data.errors import StoreError
from heimdall_export import ExportError
from heimdall_export.tracking.client import artifact_location
from heimdall_trainer import dry_run as module
from heimdall_trainer.cli import app as cli
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.dry_run import dry_run
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import logged_as
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def fresh(connections, tmp_path):
    """The test stack, with a state directory in which nothing ever ran."""
    return replace(connections, state_dir=tmp_path / "state")


@pytest.fixture
def config(quick):
    """A training on a network that is made in no time."""
    return replace(quick, backbone="test_convnext", experiment_name="never run")


@pytest.fixture
def checks(capsys):
    """Run a dry run, and give what each check said, by name."""

    def run(config, connections):
        error = ""
        with logged_as("json"):
            try:
                dry_run(config, connections)
            except TrainerError as found:
                error = str(found)
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {e["check"]: e for e in events if e["event"] == "check"}, error

    return run


def stored(connections):
    """What is in the object store."""
    s3 = connections.need_s3()
    buckets = s3.client().list_buckets()
    return {
        bucket.name: [item.key for item in ObjectStore(s3, bucket.name).list()]
        for bucket in buckets
    }


def test_a_dry_run_checks_everything_and_stores_nothing(checks, config, fresh):
    """It is run before a night of training, on servers that others use."""
    before = stored(fresh)
    found, error = checks(config, fresh)
    assert error == ""
    names = "state configuration database recordings models mlflow data batch disk"
    assert list(found) == names.split()
    assert all(check["ok"] for check in found.values()), found
    assert stored(fresh) == before
    assert sorted(path.name for path in fresh.state_directory().iterdir()) == ["features"]


def test_it_says_how_long_an_epoch_takes_and_how_much_memory(checks, config, fresh):
    """Whether to wait, or to look for another machine."""
    found, _ = checks(replace(config, epochs=7, ensemble=3), fresh)
    said = found["batch"]["said"]
    assert re.fullmatch(
        r"[\d.]+ s a step of 8 on cpu, \d+ MB of memory; an epoch will take about [\d.]+ s, "
        r"all of 21 at most [\d.:]+ (s|min)",
        said,
    )
    assert "will be made" in found["mlflow"]["said"]
    assert re.search(r"GB free in .*, checkpoints take 0\.\d GB", str(found["disk"]))


def test_every_failure_is_said_before_it_gives_up(checks, config, fresh):
    """One run, and all that is wrong is known: not one thing a morning."""
    wrong = replace(
        fresh,
        database_url=f"postgresql://u:geheim@{NOWHERE}/x",
        models_bucket="no--bucket.name.of.S3",
        mlflow_tracking_uri=f"http://u:geheim@{NOWHERE}",
    )
    found, error = checks(replace(config, backbone="convnext_ato"), wrong)
    assert error == "4 of 7 checks failed: configuration, database, models, mlflow"
    assert "convnext_atto" in found["configuration"]["said"]
    assert NOWHERE in found["database"]["said"]
    assert found["recordings"]["ok"]
    assert found["disk"]["ok"]
    assert found["data"]["ok"] is found["batch"]["ok"] is None
    assert "geheim" not in json.dumps(found)


def test_data_that_cannot_be_used_fail_with_their_number(checks, config, fresh):
    """A filter that leaves too little is found before the night, not after."""
    only = replace(config.only, sources=("nobody",))
    found, error = checks(replace(config, only=only), fresh)
    assert error == "1 of 8 checks failed: data"
    assert "no approved and completed session with {'sources': ['nobody']}" in found["data"]["said"]


def test_a_bucket_that_is_not_there_is_not_made(fresh):
    """A typing error in its name must not leave a bucket behind."""
    assert ObjectStore(fresh.need_s3(), "heimdall-never-made").is_writable() is False
    assert "heimdall-never-made" not in stored(fresh)


def test_a_bucket_that_may_only_be_read_is_refused(fresh):
    """The model of a night must have somewhere to go."""
    stranger = replace(fresh.need_s3(), access_key="stranger", secret_key="unknown")
    with pytest.raises(StoreError, match="'heimdall-models'"):
        ObjectStore(stranger, "heimdall-models").is_writable()


def test_a_state_directory_that_is_full_is_said_with_what_is_needed(
    checks, config, fresh, monkeypatch
):
    """A disk that fills up at night ends the training."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    found, error = checks(config, fresh)
    assert error == "1 of 9 checks failed: disk"
    assert re.search(r"0.0 GB free in .*, and checkpoints take 0.0 GB: make", str(found["disk"]))


def test_a_network_that_does_not_fit_says_what_to_lower(checks, config, fresh, monkeypatch):
    """The most frequent end of a first training on a GPU."""
    import torch

    def fit(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.pl.Trainer, "fit", fit)
    found, _ = checks(config, fresh)
    assert found["batch"]["ok"] is False
    assert "a batch of 8 does not fit into the memory of cpu: lower --batch_size" in str(found)


def test_an_experiment_is_found_without_writing(tmp_path, finished, connections):
    """MLflow's client would make a database where there is none."""
    root = artifact_location(connections.tracking_uri(), "heimdall-localization")
    assert root.startswith("s3://heimdall-mlflow")
    empty = Connections(mlflow_tracking_uri=f"sqlite:///{tmp_path}/x.db", state_dir=tmp_path)
    assert artifact_location(empty.tracking_uri(), "heimdall-localization") is None
    assert list(tmp_path.iterdir()) == []


def test_an_empty_postgres_stays_empty(database_url, tmp_path):
    """MLflow's tables are made by the first run, not by a question."""
    there = Connections(mlflow_tracking_uri=database_url, state_dir=tmp_path)
    assert artifact_location(there.tracking_uri(), "any") is None
    with psycopg.connect(database_url) as connection:
        (n,) = connection.execute(
            "select count(*) from information_schema.tables where table_schema = 'public'"
        ).fetchone()
    assert n == 0


def test_a_deleted_experiment_is_refused(tmp_path):
    """MLflow would refuse the run when all the data has been read."""
    there = Connections(mlflow_tracking_uri=f"sqlite:///{tmp_path}/m.db", state_dir=tmp_path)
    client = MlflowClient(there.tracking_uri())
    client.delete_experiment(client.create_experiment("gone", tmp_path.as_uri()))
    with pytest.raises(ExportError, match="'gone'"):
        artifact_location(there.tracking_uri(), "gone")


def test_the_command_ends_with_status_1_where_a_check_failed(tmp_path, monkeypatch, capsys):
    """Scripts ask for the status, people read the lines."""
    for name in [name for name in os.environ if name.startswith("HEIMDALL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    command = ("train", "--dry_run", "--state-dir", "state", "--backbone", "test_convnext")
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split()[:2] == ["ok", "state"]
    assert any(re.match(r"FAILED +database +no catalogue is configured", line) for line in lines)
    assert any(re.match(r"skipped +data +needs", line) for line in lines)
    assert re.fullmatch(r"heimdall: 3 of \d checks failed: .*\n", said.err)


def test_export_only_needs_no_batch(checks, fresh, finished):
    """What trains nothing is checked without training."""
    config = TrainingConfig(
        export_only=True,
        checkpoint=(finished.summary.checkpoint,),
        receivers=("Torino", "Genova", "Milano-Baggio"),
        validation_split=0.25,
        test_split=0.25,
    )
    found, error = checks(config, fresh)
    assert error == ""
    assert found["batch"]["ok"] is None
