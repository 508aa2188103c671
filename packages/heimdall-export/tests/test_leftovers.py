"""What killed processes leave in MLflow and the object store, and what is done about it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from heimdall_export import ExportError, MLflowTracker, register, upload_model
from heimdall_export.registry.leftovers import find_leftovers
from heimdall_export.tracking.claims import abandoned, claim, is_claimed, release
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

KILLED = """
import os, sys
from heimdall_export import MLflowTracker
run = MLflowTracker(sys.argv[1], artifact_root=sys.argv[2], outbox=sys.argv[3],
                    experiment_name=sys.argv[4])
print(run.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def begin(tracking_uri, tmp_path, model_name):
    """Begins a run in this test's experiment, with an outbox in this test's folder."""
    where = {"artifact_root": tmp_path.as_uri(), "outbox": tmp_path / "outbox"}

    def one(**changes):
        return MLflowTracker(tracking_uri, experiment_name=model_name, **where | changes)

    return one


@pytest.fixture
def killed(begin, tracking_uri, tmp_path, model_name):
    """The id of a run whose process was killed."""
    begin().end()  # makes the experiment here, where MLflow is loaded already
    words = (tracking_uri, tmp_path.as_uri(), str(tmp_path / "outbox"), model_name)
    done = subprocess.run([sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -9
    return done.stdout.strip()


@pytest.fixture
def look(tracking_uri, tmp_path, model_name, client, models_bucket):
    """What is found."""
    return lambda: [
        *find_leftovers(
            tracking_uri,
            tmp_path / "outbox",
            objects=client,
            bucket=models_bucket,
            experiment_name=model_name,
            model_name=model_name,
        )
    ]


def status(tracking_uri, run_id):
    """How MLflow shows a run."""
    return MlflowClient(tracking_uri).get_run(run_id).info.status


def test_a_killed_run_is_ended_by_the_next_and_a_living_one_is_not(begin, killed, tracking_uri):
    """MLflow showed it as running for ever; but a run must never be ended while it trains."""
    living = begin()
    assert status(tracking_uri, killed) == "KILLED"
    begin().end()
    assert status(tracking_uri, living.run_id) == "RUNNING"
    living.end()
    assert status(tracking_uri, living.run_id) == "FINISHED"


def test_a_killed_run_can_be_resumed_and_a_living_one_cannot(begin, killed):
    """Two processes in one run would write each other's metrics."""
    resumed = begin(run_id=killed)
    assert resumed.run_id == killed
    with pytest.raises(ExportError, match=f"run {killed} is going on in another process"):
        begin(run_id=killed)
    resumed.end()
    begin(run_id=killed).end()


def test_a_run_of_another_machine_is_told_and_left_alone(begin, look, tmp_path, tracking_uri):
    """Whether it lives is known there alone."""
    elsewhere = begin(outbox=tmp_path / "of another machine")
    (found,) = look()
    assert (found.kind, found.name, found.mend) == ("run", elsewhere.run_id, None)
    assert os.uname().nodename in found.text
    elsewhere.end()
    assert look() == []


def spare(run, look, tracking_uri):
    """Have a living run looked at by the doctor, who must tell it and leave it alone."""
    (found,) = look()
    assert (found.kind, found.name, found.mend) == ("run", run.run_id, None)
    assert status(tracking_uri, run.run_id) == "RUNNING"


def test_a_killed_run_that_was_resumed_elsewhere_is_left_alone(
    begin, killed, look, tmp_path, tracking_uri, client, models_bucket, onnx_path
):
    """The claim of the process that died says nothing about the one that goes on."""
    elsewhere = begin(run_id=killed, outbox=tmp_path / "of another machine")
    upload_model(client, models_bucket, onnx_path, run_id=killed, metrics={}, versions={})
    tags = elsewhere.client.get_run(killed).data.tags
    assert tags["heimdall.pid"] == str(os.getpid())
    spare(elsewhere, look, tracking_uri)
    begin().end()
    spare(elsewhere, look, tracking_uri)
    elsewhere.end()
    assert status(tracking_uri, killed) == "FINISHED"


def test_a_run_that_is_resumed_while_it_is_marked_as_killed_is_running(
    begin, killed, tmp_path, tracking_uri, monkeypatch
):
    """Two machines act at once; the next doctor would take what the living run uploads."""
    resumed = []
    mark = MlflowClient.set_terminated

    def resume_first(*args):
        if not resumed:
            resumed.append(begin(run_id=killed, outbox=tmp_path / "of another machine"))
        mark(*args)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", resume_first)
        other = begin()
    assert status(tracking_uri, killed) == "RUNNING"
    other.end()
    resumed[0].end()


def test_a_copy_of_a_claim_is_none(
    begin, look, tmp_path, tracking_uri, client, models_bucket, onnx_path
):
    """Homes are synchronized, backups restored, and virtual machines copied."""
    (tmp_path / "original").mkdir()
    run = begin(outbox=tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "outbox")
    upload_model(client, models_bucket, onnx_path, run_id=run.run_id, metrics={}, versions={})
    spare(run, look, tracking_uri)
    begin().end()
    spare(run, look, tracking_uri)
    run.end()


def test_a_claim_that_was_replaced_under_a_living_run_is_none(begin, look, tmp_path, tracking_uri):
    """A restored file is not the one that the process has locked."""
    run = begin()
    (path,) = (tmp_path / "outbox").glob("*.claim")
    shutil.copyfile(path, tmp_path / "restored")
    (tmp_path / "restored").replace(path)
    spare(run, look, tracking_uri)
    begin().end()
    spare(run, look, tracking_uri)
    run.end()


def test_the_end_of_a_run_that_was_resumed_elsewhere_is_not_sent_late(
    begin, tmp_path, tracking_uri
):
    """It failed while the server was down; what it measured counts, its end does not any more."""
    run = begin()
    run.end("FAILED")
    claim_id = run.client.get_run(run.run_id).data.tags["heimdall.claim"]
    lines = (
        {"doing": "record", "metrics": [["a", 1.0, 1, 1]]},
        {"doing": "end", "status": "FAILED", "claim_id": claim_id},
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    elsewhere = begin(run_id=run.run_id, outbox=tmp_path / "of another machine")
    (tmp_path / "outbox" / f"{run.run_id}.jsonl").write_text(text)
    begin().end()
    found = run.client.get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("RUNNING", {"a": 1.0})
    elsewhere.end()


def test_the_messages_of_a_living_run_are_left_to_it(begin, tmp_path):
    """Sent and removed by another, they would be missing where they are still added to."""
    run = begin()
    path = tmp_path / "outbox" / f"{run.run_id}.jsonl"
    path.write_text('{"doing": "record", "metrics": [["a", 1.0, 1, 1]]}\n')
    begin().end()
    assert path.exists()
    run.end()
    path.write_text('{"doing": "record", "metrics": [["a", 1.0, 1, 1]]}\n')
    begin().end()
    assert not path.exists()


def test_a_file_that_a_killed_run_did_not_register_is_found_and_deleted(
    begin, killed, look, client, models_bucket, onnx_path, keys, model_name
):
    """It costs money for ever; but one that a version names, or may soon, stays."""
    upload = (client, models_bucket, onnx_path)
    forgotten = upload_model(*upload, run_id=killed, metrics={}, versions={})
    run = begin()
    kept = upload_model(*upload, run_id=run.run_id, metrics={}, versions={})
    register(run, onnx_path, model_name=model_name, tags={"onnx_uri": kept.uri})
    soon = upload_model(*upload, run_id=run.run_id, metrics={}, versions={})
    foreign = upload_model(*upload, run_id="0" * 32, metrics={}, versions={})
    found = {one.name: one for one in look()}
    assert set(found) == {forgotten.uri, foreign.uri}
    assert "does not know its run" in found[foreign.uri].text
    assert found[foreign.uri].mend is None
    found[forgotten.uri].mend()
    stems = {key.rpartition(".")[0] for key in keys(client, models_bucket)}
    assert stems == {model.key.removesuffix(".onnx") for model in (kept, soon, foreign)}
    run.end()
    assert {one.name for one in look()} == {foreign.uri, soon.uri}


REGISTERING = """
import os, sys
from mlflow import MlflowClient
from heimdall_export import MLflowTracker, register
*where, outbox, name, path, step = sys.argv[1:]
run = MLflowTracker(where[0], artifact_root=where[1], outbox=outbox, experiment_name=name)
setattr(MlflowClient, step, lambda *_, **__: os.kill(os.getpid(), 9))
register(run, path, model_name=name, tags={})
"""


@pytest.mark.parametrize("step", ["log_model_artifacts", "create_model_version"])
def test_the_page_of_a_model_whose_registration_was_killed_is_found_and_deleted(
    begin, look, tmp_path, onnx_path, model_name, tracking_uri, step
):
    """MLflow shows it for ever, as pending or as a model that nobody has a version of."""
    with begin() as run:  # one that a version uses stays
        register(run, onnx_path, model_name=model_name, tags={})
    words = (tracking_uri, tmp_path.as_uri(), tmp_path / "outbox", model_name, onnx_path, step)
    done = subprocess.run([sys.executable, "-c", REGISTERING, *map(str, words)])
    assert done.returncode == -9
    killed, found = look()
    assert (killed.kind, found.kind) == ("run", "logged model")
    begin().end()  # marks the run as killed
    (found,) = look()
    assert found.name in found.text
    found.mend()
    assert look() == []
    kept = MlflowClient(tracking_uri).search_logged_models([run.experiment_id])
    assert [one.name for one in kept] == ["model"]
    left = {path.relative_to(tmp_path).parts[1] for path in tmp_path.glob("models/*/**/model.onnx")}
    assert left == {kept[0].model_id}


def test_a_model_page_in_use_or_without_a_version_is_not_deleted(
    begin, look, onnx_path, model_name, tracking_uri
):
    """Its run may be about to register it, and what a person did in MLflow may be on purpose."""
    run = begin()
    register(run, onnx_path, model_name=model_name, tags={})
    mlflow = MlflowClient(tracking_uri)
    mlflow.create_logged_model(run.experiment_id, name="model", source_run_id=run.run_id)
    foreign = mlflow.create_run(run.experiment_id)
    mlflow.create_logged_model(run.experiment_id, "model", foreign.info.run_id)
    mlflow.set_terminated(foreign.info.run_id, "KILLED")
    assert look() == []
    mlflow.delete_model_version(model_name, "1")
    assert look() == []
    run.end()
    found = look()
    assert {one.kind for one in found} == {"logged model"}
    by_hand = next(one for one in found if "was deleted in MLflow" in one.text)
    assert by_hand.mend is None
    (pending,) = (one for one in found if one is not by_hand)
    pending.mend()
    assert [one.name for one in look()] == [by_hand.name]


def test_a_version_of_a_killed_run_and_an_unfinished_deletion_are_told(
    begin, look, onnx_path, model_name, tracking_uri
):
    """Whether the model is any good is for a person to decide."""
    run = begin()
    for _ in range(2):
        register(run, onnx_path, model_name=model_name, tags={})
    assert look() == []
    run.end("KILLED")
    MlflowClient(tracking_uri).set_model_version_tag(model_name, "2", "stage", "Deleting")
    second, first = look()
    assert "`heimdall models delete 2`, which was interrupted" in second.text
    assert f"its run {run.run_id} ended as KILLED" in first.text
    assert (first.mend, second.mend) == (None, None)


def test_a_production_that_was_not_carried_out_is_found_and_mended(
    begin, look, onnx_path, model_name, tracking_uri, monkeypatch
):
    """A process was killed between the decision and the alias."""
    from heimdall_export import promote

    with begin() as run:
        register(run, onnx_path, model_name=model_name, tags={})

    def ctrl_c(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            promote(tracking_uri, model_name, "1", force=True)
    alias, *_ = found = look()
    assert "version 1 was put into production, the alias is None" in alias.text
    for one in found:
        one.mend()
    assert look() == []
    found = MlflowClient(tracking_uri).get_model_version_by_alias(model_name, "production")
    assert found.tags["stage"] == "Production"


def test_a_claim_ends_with_its_file(tmp_path):
    """The operating system closes the files of a killed process."""
    assert not is_claimed(tmp_path, "run")
    held = claim(tmp_path, "run", "first")
    assert is_claimed(tmp_path, "run")
    with abandoned(tmp_path) as runs:
        assert [*runs] == []
    held.close()
    assert not is_claimed(tmp_path, "run")
    with abandoned(tmp_path) as runs:
        assert {name: ended.id for name, ended in runs.items()} == {"run": "first"}
        with pytest.raises(ExportError, match="run run is going on in another process"):
            claim(tmp_path, "run", "second")
    claim(tmp_path, "run", "third").close()
    with abandoned(tmp_path) as runs:
        assert runs["run"].id == "third"
        release(tmp_path, "run", runs["run"].file)
    with abandoned(tmp_path) as runs:
        assert [*runs] == []


places = st.fixed_dictionaries(
    {}, optional={"host": st.text(), "boot": st.text(), "device": st.integers()}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=places | st.builds(dict, inode=st.integers()))
def test_a_lock_counts_on_the_machine_that_holds_it(tmp_path, changes):
    """Some file systems keep locks on each machine alone; what was before a restart is over."""
    claim(tmp_path, "run", "id").close()
    path = tmp_path / "run.claim"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | changes))
    differs = {name for name, value in changes.items() if value != made[name]}
    is_over = differs <= {"host"} or ("boot" in differs and differs <= {"boot", "device"})
    with abandoned(tmp_path) as runs:
        assert [*runs] == ["run"] * is_over


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.sampled_from(["", "{}", "[]", "7", '{"id": "a"}', "\ud800"]) | st.text())
def test_a_claim_that_cannot_be_read_is_left_alone(tmp_path, text):
    """A full disk, or an earlier heimdall, whose claims were empty."""
    (tmp_path / "run.claim").write_text(text, errors="surrogatepass")
    with abandoned(tmp_path) as runs:
        assert [*runs] == []
