"""Runs in a real MLflow store: what is kept, what never is, and how a run ends."""

import contextlib
import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import mlflow.artifacts
import mlflow.data
import pytest
from heimdall_data.testing.tls import behind_tls
from heimdall_export import ArtifactStore, ExportError, MLflowTracker, TrackedDataset
from heimdall_export.object_store.store import store_errors
from heimdall_export.temporary import TemporaryFolder
from heimdall_export.tracking import client
from heimdall_export.tracking.client import mlflow_errors
from heimdall_features.names import shown_lines
from heimdall_features.testing import hostile_names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.store.artifact import s3_artifact_repo

pytestmark = pytest.mark.slow

NESTED = st.recursive(
    st.integers()
    | st.booleans()
    | st.text(st.characters(codec="ascii", exclude_characters=":@"))
    | hostile_names(),
    lambda inner: st.dictionaries(st.sampled_from("abcdefg"), inner, max_size=3),
    max_leaves=10,
)


on_disk = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def begin(tracking_uri, tmp_path, **changes):
    """A run with its artifacts in a folder."""
    return MLflowTracker(
        tracking_uri,
        artifact_root=(tmp_path / "artifacts").as_uri(),
        **({"experiment_name": "on-disk"} | changes),
    )


def status(tracker):
    """How MLflow says that the run ended."""
    return tracker.client.get_run(tracker.run_id).info.status


OPENING = """
import sys
from heimdall_export.tracking.client import open_client
print("ready", flush=True)
sys.stdin.readline()
client = open_client(sys.argv[1])
client.search_experiments()
client.search_registered_models()
"""


def test_processes_that_begin_at_once_make_the_tables_once(tmp_path):
    """MLflow makes them without a lock: the others' trainings ended as these were done."""
    words = [sys.executable, "-c", OPENING, f"sqlite:///{tmp_path / 'mlflow.db'}"]
    processes = [
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[1][-500:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_a_registry_in_a_folder_that_stays_locked_is_opened(monkeypatch):
    """Another process may be stopped while it opens it, or lock its folder for itself."""
    monkeypatch.setattr(client, "TABLES_S", 0.1)
    with TemporaryFolder("registry") as folder:
        client.open_client(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()


@on_disk
@given(params=st.dictionaries(st.sampled_from("abcdefg"), NESTED, max_size=4))
def test_every_parameter_is_kept_under_its_path(tracking_uri, tmp_path, params):
    """A run that forgets a setting cannot be repeated; control characters are escaped."""
    with begin(tracking_uri, tmp_path) as tracker:
        tracker.log_params(params)
    kept = tracker.client.get_run(tracker.run_id).data.params
    for name, value in kept.items():
        found = params
        for step in name.split("."):
            found = found[step]
        assert value == shown_lines(str(found))
    assert len(kept) == sum(1 for _ in leaves(params))


def leaves(values):
    """The values at the ends of nested dictionaries."""
    for value in values.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


@pytest.mark.parametrize("count", [1, 100, 101, 250])
def test_more_parameters_than_one_request_takes_are_all_kept(tracking_uri, tmp_path, count):
    """MLflow refuses more than 100 at once."""
    with begin(tracking_uri, tmp_path) as tracker:
        tracker.log_params({f"p{n}": n for n in range(count)})
    assert len(tracker.client.get_run(tracker.run_id).data.params) == count


def test_metrics_keep_their_steps_and_a_nan_stays_one(tracking_uri, tmp_path):
    """A loss that became NaN is what the reader of the curve must see."""
    with begin(tracking_uri, tmp_path) as tracker:
        for step, loss in enumerate([3.0, math.nan, 1.0]):
            tracker.log_metrics({"val/loss": loss}, step=step)
    history = tracker.client.get_metric_history(tracker.run_id, "val/loss")
    assert [entry.step for entry in history] == [0, 1, 2]
    assert [entry.value for entry in history][::2] == [3.0, 1.0]
    assert math.isnan(history[1].value)


words = st.text("abc_-", max_size=5)
secret_names = st.builds(
    "{}{}{}".format,
    words,
    st.sampled_from(["password", "SECRET", "access_key", "api-key", "token", "database_url"]),
    words,
)
harmless = st.sampled_from(
    ["s3://models/v1.onnx", "postgresql://user@host:80/path", "12:00", "a@b:c"]
)
addresses = st.builds(
    "{}://{}:{}@{}/0".format, st.sampled_from(["redis", "https"]), words, st.just("hunter2"), words
)


@on_disk
@given(secret=st.tuples(secret_names, harmless) | st.tuples(words, addresses))
def test_what_may_be_a_secret_is_refused_and_not_repeated(tracking_uri, tmp_path, secret):
    """Everybody in the house can read a run, and MLflow forgets nothing."""
    name, value = secret
    with begin(tracking_uri, tmp_path) as tracker:
        for log in (tracker.log_params, tracker.set_tags):
            with pytest.raises(ExportError, match=f"'{name}' may hold a secret") as told:
                log({"harmless": "1", name: value})
            assert value not in str(told.value)
    data = tracker.client.get_run(tracker.run_id).data
    assert (data.params, "harmless" in data.tags) == ({}, False)


@on_disk
@given(value=harmless)
def test_an_address_without_a_password_is_no_secret(tracking_uri, tmp_path, value):
    """The rule above must not refuse the addresses that help to find things again."""
    with begin(tracking_uri, tmp_path) as tracker:
        tracker.set_tags({"onnx_uri": value})
        tracker.log_params({"at": value})
    assert tracker.client.get_run(tracker.run_id).data.params == {"at": value}


def sessions(context, **changes):
    """A part of the data."""
    return TrackedDataset(
        name="heimdall-sessions",
        digest=hashlib.sha256(context.encode()).hexdigest(),
        context=context,
        shape=(3, 128, 32),
        profile={"n_sessions": 7},
        **({"source": {"bucket": "heimdall-raw-iq"}} | changes),
    )


def test_what_a_run_was_trained_on_is_in_mlflows_record_of_datasets(tracking_uri, tmp_path):
    """Its page compares runs by their data; and its own functions can read the source."""
    with begin(tracking_uri, tmp_path) as tracker:
        tracker.log_datasets([sessions("training"), sessions("testing")])
    inputs = tracker.client.get_run(tracker.run_id).inputs.dataset_inputs
    assert {(tag.key, tag.value) for each in inputs for tag in each.tags} == {
        ("mlflow.data.context", "training"),
        ("mlflow.data.context", "testing"),
    }
    kept = inputs[0].dataset
    digests = {hashlib.sha256(side).hexdigest()[:36] for side in (b"training", b"testing")}
    assert {each.dataset.digest for each in inputs} == digests
    assert kept.name == "heimdall-sessions"
    assert json.loads(kept.profile) == {"n_sessions": 7}
    assert "mel_spectrogram" in kept.schema
    assert mlflow.data.get_source(inputs[0]).to_dict() == {"tags": {"bucket": "heimdall-raw-iq"}}


def test_a_source_with_a_password_is_refused(tracking_uri, tmp_path):
    """The catalogue's address is at hand where the source is written."""
    catalogue = {"catalogue": "postgresql://me:hunter2@db.example/heimdall"}
    with begin(tracking_uri, tmp_path) as tracker:
        with pytest.raises(ExportError, match="'catalogue' may hold a secret") as told:
            tracker.log_datasets([sessions("training", source=catalogue)])
        assert "hunter2" not in str(told.value)
    assert tracker.client.get_run(tracker.run_id).inputs.dataset_inputs == []


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, "FINISHED"),
        (ValueError("diverged"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_run_ends_as_its_body_ended(tracking_uri, tmp_path, error, ended):
    """A run that says RUNNING forever hides that it died."""

    def body():
        with begin(tracking_uri, tmp_path) as tracker:
            runs.append(tracker)
            if error is not None:
                raise error

    runs = []
    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    assert status(runs[0]) == ended


def test_the_name_of_a_run_is_its_utc_second(tracking_uri, tmp_path):
    """The contract's name, under which other systems look for it."""
    before = datetime.now(UTC).replace(microsecond=0)
    with begin(tracking_uri, tmp_path, run_name_prefix="trial") as tracker:
        named = datetime.strptime(tracker.run_name, "trial_%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert before <= named <= datetime.now(UTC)
    assert tracker.client.get_run(tracker.run_id).info.run_name == tracker.run_name


def test_a_trial_is_found_below_the_run_of_its_search(tracking_uri, tmp_path):
    """Forty trials beside the trainings of every day are found by nobody."""
    with begin(tracking_uri, tmp_path) as parent:
        with begin(tracking_uri, tmp_path, parent_run_id=parent.run_id) as trial:
            pass
        below = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
        (found,) = parent.client.search_runs([parent.experiment_id], below)
    assert found.info.run_id == trial.run_id


def test_the_second_run_goes_into_the_same_experiment(tracking_uri, tmp_path):
    """Runs are compared within an experiment."""
    with begin(tracking_uri, tmp_path) as one, begin(tracking_uri, tmp_path) as other:
        assert one.experiment_id == other.experiment_id
        assert one.run_id != other.run_id


def test_a_run_that_goes_on_is_the_one_that_was_interrupted(tracking_uri, tmp_path):
    """A training is one run, and who resumes it must know what MLflow has."""
    first = begin(tracking_uri, tmp_path)
    first.log_metrics({"val/loss": 1.0}, step=3)
    first.end("KILLED")
    assert (first.is_resumed, first.logged) == (False, frozenset())
    second = begin(tracking_uri, tmp_path, experiment_name="another", run_id=first.run_id)
    assert (second.is_resumed, second.logged) == (True, {("val/loss", 3)})
    for name in ("run_id", "run_name", "artifact_uri", "experiment_id"):
        assert getattr(second, name) == getattr(first, name)
    assert status(second) == "RUNNING"
    second.end()
    assert status(second) == "FINISHED"


def test_a_run_that_mlflow_does_not_know_cannot_go_on(tracking_uri, tmp_path):
    """It was of another server, or was deleted for good."""
    with pytest.raises(ExportError, match=r"MLflow cannot resume run 0a0a: .*not found"):
        begin(tracking_uri, tmp_path, run_id="0a0a")


def test_files_and_folders_are_stored_with_the_run(tracking_uri, tmp_path):
    """Reports are files, checkpoints come in folders; also without any S3."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.svg").write_text("<svg/>")
    with begin(tracking_uri, tmp_path) as tracker:
        tracker.log_artifact(tmp_path / "plots" / "curve.svg")
        tracker.log_artifact(tmp_path / "plots", "report")
    paths = {entry.path for entry in tracker.client.list_artifacts(tracker.run_id, "report")}
    assert paths == {"report/curve.svg"}
    assert {e.path for e in tracker.client.list_artifacts(tracker.run_id)} >= {"curve.svg"}


def test_a_file_that_is_not_there_is_named(tracking_uri, tmp_path):
    """MLflow's own message would name its temporary copy."""
    with (
        pytest.raises(ExportError, match=r"gone\.html"),
        begin(tracking_uri, tmp_path) as tracker,
    ):
        tracker.log_artifact(tmp_path / "gone.html")
    assert status(tracker) == "FAILED"


def test_keys_reach_neither_the_environment_nor_a_representation(
    tracker, artifact_store, tmp_path, monkeypatch
):
    """Child processes inherit the environment, and tracebacks show representations."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of another account")
    before = dict(os.environ)
    (tmp_path / "a.txt").write_text("a")
    tracker.log_artifact(tmp_path / "a.txt")
    assert dict(os.environ) == before
    with artifact_store.environment():
        assert os.environ["AWS_ACCESS_KEY_ID"] == artifact_store.access_key
    assert dict(os.environ) == before
    assert artifact_store.secret_key not in repr(artifact_store)
    assert artifact_store.access_key not in repr(artifact_store)


def test_settings_for_other_stores_do_not_reach_that_of_the_artifacts(
    tracking_uri, artifact_store, tmp_path, monkeypatch
):
    """A profile of another account ended a training where the model should have been stored."""
    (tmp_path / "config").write_text("[default]\nretry_mode = nonsense\n")
    for name, value in {
        "AWS_PROFILE": "clinic",
        "AWS_DEFAULT_PROFILE": "clinic",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_RETRY_MODE": "nonsense",
        "AWS_MAX_ATTEMPTS": "none",
        "AWS_ENDPOINT_URL_S3": "http://192.0.2.1",
        "AWS_CA_BUNDLE": "/nowhere",
        "AWS_SESSION_TOKEN": "of another account",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms"}',
        "MLFLOW_S3_EXPECTED_BUCKET_OWNER": "another account",
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "virtual",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    (tmp_path / "a.txt").write_text("a")
    before = dict(os.environ)
    with MLflowTracker(
        tracking_uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        run.log_artifact(tmp_path / "a.txt")
    with artifact_store.environment():
        assert mlflow.artifacts.load_text(f"{run.artifact_uri}/a.txt") == "a"
    assert dict(os.environ) == before


def test_a_private_authority_is_trusted_for_artifacts_too(artifact_store, tmp_path, monkeypatch):
    """One store had two clients, each of which wanted a variable of its own."""
    port = urlsplit(artifact_store.endpoint_url).port
    with behind_tls(port, tmp_path) as (url, authority):
        store = replace(artifact_store, endpoint_url=url)
        for trusted in (False, True):
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(authority))
            # MLflow keeps a client of S3 for some minutes.
            s3_artifact_repo._cached_get_s3_client.cache_clear()
            refused = pytest.raises(ExportError, match="set SSL_CERT_FILE")
            with (
                contextlib.nullcontext() if trusted else refused,
                mlflow_errors("look"),
                store.repository("s3://heimdall-mlflow") as repository,
            ):
                repository.list_artifacts("none")
            refused = pytest.raises(ExportError, match="set SSL_CERT_FILE")
            with contextlib.nullcontext() if trusted else refused, store_errors("look"):
                assert store.client().bucket_exists("heimdall-mlflow")


def test_a_setting_that_storing_would_stumble_over_is_named_before(artifact_store, monkeypatch):
    """MLflow reads it when the model is stored, at the end of the training."""
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", "nonsense")
    monkeypatch.setattr("heimdall_export.object_store.store.is_local", lambda _: False)
    with pytest.raises(ExportError, match="MLFLOW_S3_UPLOAD_EXTRA_ARGS"):
        artifact_store.check_artifacts("s3://heimdall-mlflow")


def test_the_bucket_of_a_new_experiment_is_made(
    tracking_uri, artifact_store, s3_settings, tmp_path
):
    """The first run of a new installation must not fail at its end, where the model goes."""
    client, bucket = s3_settings.client(), f"test-{uuid.uuid4()}"
    (tmp_path / "a.txt").write_text("a")
    with MLflowTracker(
        tracking_uri,
        artifact_root=f"s3://{bucket}/runs",
        artifact_store=artifact_store,
        experiment_name=bucket,
    ) as run:
        run.log_artifact(tmp_path / "a.txt")
    (kept,) = client.list_objects(bucket, recursive=True)
    assert kept.object_name.endswith("a.txt")
    client.remove_object(bucket, kept.object_name)
    client.remove_bucket(bucket)


def test_wrong_keys_of_the_artifact_store_are_told_before_the_run(tracking_uri, artifact_store):
    """An hour of training must not end in a page of boto3."""
    wrong = ArtifactStore(
        endpoint_url=artifact_store.endpoint_url,
        access_key=artifact_store.access_key,
        secret_key="not-the-key",
    )
    with (
        pytest.raises(ExportError, match=r"signature|AccessDenied") as told,
        MLflowTracker(tracking_uri, artifact_root="s3://heimdall-mlflow", artifact_store=wrong),
    ):
        pass
    assert "not-the-key" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////proc/nowhere/mlflow.db", r"cannot open sqlite:////proc/nowhere/mlflow\.db"),
        ("gopher://me:hunter2@somewhere", r"cannot open gopher://\*\*\*@somewhere: "),
        (
            "postgresql://me:hunter2@127.0.0.1:1/m",
            r"cannot open postgresql://\*\*\*@127\.0\.0\.1:1/m: ",
        ),
        (
            "postgresql://127.0.0.1:1/m?user=me&password=hunter2",
            r"cannot open .*127\.0\.0\.1:1/m\?",
        ),
        ("http://me:hunter2@127.0.0.1:1", r"cannot open http://\*\*\*@127\.0\.0\.1:1: "),
        ("postgresql://me:hunter2@a:1,b:2/m", r"cannot open .*/m: its port is no number"),
        ("mysql://me:hunter2@a/m", r"cannot open mysql://\*\*\*@a/m: No module named"),
        ("postgres://me:hunter2@2@127.0.0.1:1/m", "_TRACKING_URI cannot be taken apart: .* @ is"),
        ("postgresql://me:a/hunter2@127.0.0.1:1/m", "_TRACKING_URI cannot be taken apart: "),
        ("http://me:a hunter2@127.0.0.1:1", "_TRACKING_URI cannot be taken apart: "),
        ('http://me:"hunter2/@127.0.0.1:1', "_TRACKING_URI cannot be taken apart: "),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_in_one_line(uri, said, tmp_path):
    """Its address, wrong or right, may hold a password."""
    with pytest.raises(ExportError, match=f"^(MLflow|MLFLOW) ?{said}") as told:
        begin(uri, tmp_path)
    assert "\n" not in str(told.value)
    # What `--debug` prints: the error with all that led to it.
    assert "hunter2" not in "".join(map(str, causes(told.value)))


def causes(error):
    """An error, and those that a traceback shows above it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_folder_in_place_of_a_database_is_told_at_once(tmp_path, capfd):
    """MLflow alone would try for 100 s, with a page of warnings."""
    with pytest.raises(ExportError, match="unable to open database file"):
        begin(f"sqlite:///{tmp_path}", tmp_path)
    assert capfd.readouterr().err == ""


def test_a_run_is_kept_in_postgres(database_url, tmp_path):
    """`postgresql://` is what the contract's variable holds; SQLAlchemy wants a driver's name."""
    with begin(database_url, tmp_path) as tracker:
        tracker.log_metrics({"val/loss": 1.0})
    assert tracker.client.get_run(tracker.run_id).data.metrics == {"val/loss": 1.0}
    tracker.client._tracking_client.store.engine.dispose()


def test_a_deleted_experiment_is_not_brought_back_silently(tracking_uri, tmp_path):
    """Somebody deleted it for a reason; MLflow alone would say that a run cannot be created."""
    with begin(tracking_uri, tmp_path, experiment_name="gone") as tracker:
        pass
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(ExportError, match="'gone' was deleted in MLflow; restore it"):
        begin(tracking_uri, tmp_path, experiment_name="gone")


def end_badly(tracker):
    """MLflow forgets the run, and then the training fails."""
    tracker.run_id = "no-such-run"
    raise ValueError("diverged")


def test_what_ended_the_run_is_told_even_if_mlflow_is_gone(tracking_uri, tmp_path, caplog):
    """The error of the training must not be hidden behind one of the bookkeeping."""
    tracker = begin(tracking_uri, tmp_path)
    run_id = tracker.run_id
    with (
        caplog.at_level(logging.WARNING, "heimdall_export.tracking.run"),
        pytest.raises(ValueError, match="diverged"),
        tracker,
    ):
        end_badly(tracker)
    assert "MLflow cannot mark run no-such-run as FAILED" in caplog.text
    MlflowClient(tracking_uri).set_terminated(run_id, "FAILED")


SILENT_RUN = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError(f"network: {args[1:]}")

socket.socket.connect = refuse
import mlflow  # before us, as another library might
from heimdall_export import MLflowTracker
from mlflow.telemetry import get_telemetry_client

with MLflowTracker(sys.argv[1], artifact_root=sys.argv[2]) as run:
    run.log_params({"a": 1})
    run.log_metrics({"b": 2.0})
assert get_telemetry_client() is None
"""


def test_a_run_asks_no_network_and_prints_nothing(tmp_path):
    """MLflow reports home by default, and its database talks about every table it makes."""
    quiet = {
        name: value for name, value in os.environ.items() if name not in ("CI", "DO_NOT_TRACK")
    }
    quiet.pop("PYTEST_CURRENT_TEST", None)
    arguments = [f"sqlite:///{tmp_path / 'm.db'}", (tmp_path / "artifacts").as_uri()]
    done = subprocess.run(
        [sys.executable, "-c", SILENT_RUN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**quiet, "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_mlflow_is_there_for_a_user_without_a_home(nameless):
    """Container platforms run images as users with neither HOME nor a name."""
    program = "import os, heimdall_export.tracking.client; assert 'HOME' not in os.environ"
    subprocess.run([*nameless, sys.executable, "-c", program], check=True)
