"""A real MLflow server with its runs in Postgres: everything works there too, and it may die."""

import http.server
import json
import math
import os
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import psycopg
import pytest
import urllib3
from heimdall_data.testing.tls import behind_tls
from heimdall_export import (
    ExportError,
    MLflowTracker,
    ModelStores,
    TrackedDataset,
    delete_version,
    evaluation_tags,
    find_published,
    list_versions,
    promote,
    register,
    rollback,
)
from heimdall_export.tracking.address import database_engine, with_driver
from heimdall_export.tracking.client import mlflow_errors
from heimdall_export.tracking.run import Message, send
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

pytestmark = pytest.mark.slow


def status_in_postgres(server, run_id):
    """How a run stands in the database behind the server."""
    with psycopg.connect(server.database_url) as connection:
        asked = connection.execute("SELECT status FROM runs WHERE run_uuid = %s", [run_id])
        (status,) = asked.fetchone()
    return status


def test_a_run_and_its_model_live_on_a_server(mlflow_server, artifact_store, onnx_path, capfd):
    """A team's MLflow is a server with a database, not a file."""
    uri = mlflow_server.uri
    tags = evaluation_tags({"test/error_m_median": 1000.0, "test/nll": 5.0}, ["a session"])
    with MLflowTracker(
        uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        run.log_params({"seed": 42})
        run.log_metrics({"val/loss": 1.5}, step=3)
        for _ in range(2):
            register(run, onnx_path, model_name="m", tags=tags)
    found = run.client.get_run(run.run_id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "42"})
    assert found.data.metrics == {"val/loss": 1.5}
    promote(uri, "m", "1")
    promote(uri, "m", "2")
    assert rollback(uri, "m") == "1"
    assert [v.aliases for v in list_versions(uri, "m")] == [("staging",), ("production",)]
    assert status_in_postgres(mlflow_server, run.run_id) == "FINISHED"
    assert "http" not in capfd.readouterr().out  # MLflow would advertise its page


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_models_page_shows_its_metrics_and_the_data_of_each(
    kind, request, artifact_store, onnx_path, model_name, tmp_path
):
    """MLflow 3 compares models, not runs; `search_logged_models` finds one by its figures."""
    if kind == "file":
        where = request.getfixturevalue("tracking_uri"), tmp_path.as_uri(), None
    else:
        where = request.getfixturevalue("mlflow_server").uri, "s3://heimdall-mlflow", artifact_store
    uri, root, store = where
    figures = {"val/loss": 1.5, "test/loss": 2.5, "export/size": 3.0}
    with MLflowTracker(
        uri, artifact_root=root, artifact_store=store, experiment_name=model_name
    ) as run:
        run.log_params({"seed": 42})
        sides = {"val": "validation", "test": "testing"}
        run.log_datasets(
            TrackedDataset(name=f"sessions-{side}", digest=side, context=context, shape=(3, 4, 5))
            for side, context in sides.items()
        )
        run.log_metrics({"val/loss": 1.5, "val/nll": math.nan}, step=3)
        run.log_metrics({"val/loss": 1.75}, step=4)
        run.log_metrics({"test/loss": 2.5, "export/size": 3.0})
        asked = {**figures, "val/nll": math.nan, "val/new": 4.0}
        version = register(run, onnx_path, model_name=model_name, tags={"a": "b"}, metrics=asked)
    found = run.client.search_logged_models(
        [run.experiment_id],
        filter_string="metrics.`test/loss` < 3",
        datasets=[{"dataset_name": "sessions-test", "dataset_digest": "test"}],
    )
    (model_id,) = (model.model_id for model in found)
    model = run.client.get_logged_model(model_id)
    tied = {m.key: (m.value, m.step, m.dataset_name, m.dataset_digest) for m in model.metrics}
    assert tied == {
        "val/loss": (1.5, 3, "sessions-val", "val"),
        "test/loss": (2.5, 0, "sessions-test", "test"),
        "export/size": (3.0, 0, None, None),
        "val/new": (4.0, 0, "sessions-val", "val"),
    }
    assert (model.status, model.source_run_id) == ("READY", run.run_id)
    assert (model.params, model.tags["a"]) == ({"seed": "42"}, "b")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [
        {"name": model_name, "version": int(version)}
    ]
    named = run.client.get_model_version(model_name, version)
    assert (named.tags["model_id"], named.source) == (model_id, model.artifact_location)
    of_run = run.client.get_run(run.run_id)
    assert [output.model_id for output in of_run.outputs.model_outputs] == [model_id]
    assert steps(run) == [3, 4]


class _OlderServer(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a real server, without the endpoints that came with MLflow 3."""

    def _answer(self):
        if "/logged-models" in self.path:
            self.send_error(404)
            return
        length = int(self.headers.get("Content-Length") or 0)
        passed = urllib3.request(
            self.command,
            f"{self.server.behind}{self.path}",
            body=self.rfile.read(length),
            headers={"Content-Type": self.headers.get("Content-Type", "")},
        )
        self.send_response(passed.status)
        self.send_header("Content-Type", passed.headers["Content-Type"])
        self.send_header("Content-Length", str(len(passed.data)))
        self.end_headers()
        self.wfile.write(passed.data)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture
def older_server(mlflow_server):
    """Address of a server as MLflow 2 had it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _OlderServer) as server:
        server.behind = mlflow_server.uri
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_older_than_mlflow_3_has_the_model_with_its_run(
    older_server, artifact_store, onnx_path, model_name, caplog, client
):
    """A team's server is upgraded later than its trainers."""
    with MLflowTracker(
        older_server, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        version = register(run, onnx_path, model_name=model_name, tags={}, metrics={"a": 1.0})
    assert "is older than MLflow 3" in caplog.text
    found = run.client.get_model_version_by_alias(model_name, "staging")
    assert (str(found.version), found.source) == (version, f"runs:/{run.run_id}/model")
    assert found.tags == {"stage": "Staging"}
    with artifact_store.repository(run.artifact_uri) as repository:
        assert [entry.path for entry in repository.list_artifacts()] == ["model"]
    gone = delete_version(
        older_server, model_name, version, objects=client, artifact_store=artifact_store
    )
    assert gone == (run.artifact_uri, f"models:/{model_name}/{version}")


@pytest.mark.parametrize("tag", ["no/such?model", "../m-1", "m-0"])
def test_a_version_whose_model_id_is_no_models_can_be_deleted(
    mlflow_server, artifact_store, s3_settings, model_name, tag
):
    """Anybody may set such a tag; the server's page of HTML once ended the deletion half-way."""
    with MLflowTracker(
        mlflow_server.uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        run.client.create_registered_model(model_name)
        run.client.create_model_version(
            model_name, "s3://nowhere/x", run.run_id, tags={"model_id": tag}
        )
    objects = s3_settings.client()
    delete_version(
        mlflow_server.uri, model_name, "1", objects=objects, artifact_store=artifact_store
    )
    assert list_versions(mlflow_server.uri, model_name) == ()


def test_what_is_published_is_the_same_with_and_without_the_mlflow_package(
    mlflow_server, artifact_store, onnx_path, model_name
):
    """A service asks over HTTP by itself; a trainer has MLflow's own client."""
    where = {"onnx_uri": "s3://bucket/key.onnx", "sha256": "0" * 64}
    with MLflowTracker(
        mlflow_server.uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
    ) as run:
        register(run, onnx_path, model_name=model_name, tags=where)
    for address in (f"models:/{model_name}@staging", f"models:/{model_name}/1"):
        by_http, by_mlflow = (
            find_published(address, ModelStores(tracking_uri=uri))
            for uri in (mlflow_server.uri, mlflow_server.database_url)
        )
        assert by_http == by_mlflow
        assert (by_http.version, by_http.uri) == ("1", where["onnx_uri"])


def listed_without_mlflow(address, name, **variables):
    """What a process in which MLflow cannot be imported prints of a model's versions."""
    program = (
        "import sys\nsys.modules['mlflow'] = None\n"
        "from heimdall_export import ExportError, list_versions\n"
        "try:\n    print(*list_versions(*sys.argv[1:]), sep='\\n')\n"
        "except ExportError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", program, address, name]
    return subprocess.check_output(command, text=True, env=os.environ | variables).splitlines()


def test_what_is_read_without_mlflow_is_what_mlflow_reads(mlflow_server, tracking_uri, model_name):
    """The tables are not ours. A deleted version is still in them."""
    for address in (tracking_uri, mlflow_server.database_url):
        client = MlflowClient(with_driver(address))
        for name in (f"{model_name}'", f"{model_name}é"):
            client.create_registered_model(name)
            for tags in ({"a": "1", "ü": ""}, {}, {"stage": "Deleting"}, {}, {"b": "x" * 500}):
                client.create_model_version(name, "s3://nowhere/model", tags=tags)
            client.delete_model_version(name, "2")
            for alias, version in (("production", 1), ("champion", 1), ("staging", 5)):
                client.set_registered_model_alias(name, alias, version)
            found = list_versions(client, name)
            assert [(v.version, v.aliases) for v in found] == [
                ("5", ("staging",)),
                ("4", ()),
                ("3", ()),
                ("1", ("champion", "production")),
            ]
            assert listed_without_mlflow(address, name) == [*map(str, found)]
        client.register_prompt(f"{model_name}.prompt", "Where is {{transmitter}}?")
        assert listed_without_mlflow(address, f"{model_name}.prompt") == [""]


def test_what_mlflow_alone_knows_is_left_to_it(tracking_uri, model_name):
    """Another workspace has other models of the same name."""
    (said,) = listed_without_mlflow(tracking_uri, model_name, MLFLOW_WORKSPACE="team")
    assert said == "reading the registry needs mlflow: pip install 'heimdall-export[mlflow]'"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("@nobody", "refuses: Registered model alias nobody not found"),
        ("/99", "refuses: Model Version .*not found"),
    ],
)
def test_what_a_server_does_not_know_is_told_in_its_words(mlflow_server, model_name, version, said):
    """They name what is missing."""
    MlflowClient(mlflow_server.uri).create_registered_model(model_name)
    with pytest.raises(ExportError, match=said):
        find_published(
            f"models:/{model_name}{version}", ModelStores(tracking_uri=mlflow_server.uri)
        )


def test_the_client_of_mlflow_trusts_and_finds_servers_as_all_others_do(mlflow_server, tmp_path):
    """MLflow goes through another library, with its own variables and its own authorities."""
    program = (
        "import sys\n"
        "from heimdall_export import ExportError\n"
        "from heimdall_export.tracking.client import open_client\n"
        "try:\n    open_client(sys.argv[1])\n    print('open')\n"
        "except ExportError as error:\n    print(error)"
    )
    ambient = {"REQUESTS_CA_BUNDLE": "/nowhere", "AWS_CA_BUNDLE": "/nowhere"}
    ambient |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    said = []
    with behind_tls(urlsplit(mlflow_server.uri).port, tmp_path) as (url, authority):
        for settings in ({"SSL_CERT_FILE": str(authority)} | ambient, {"SSL_CERT_FILE": ""}):
            known = {name: value for name, value in os.environ.items() if "CERT" not in name}
            command = [sys.executable, "-c", program, url]
            said.append(subprocess.check_output(command, text=True, env=known | settings))
    assert said[0] == "open\n"
    assert "set SSL_CERT_FILE" in said[1]


def test_what_is_no_mlflow_is_told(s3_settings):
    """The commonest mistake is another port of the same machine."""
    wrong = ModelStores(tracking_uri=s3_settings.endpoint_url)
    with pytest.raises(ExportError, match="is no MLflow"):
        find_published("models:/m@production", wrong)


def test_a_server_that_is_not_there_is_told_without_its_password():
    """The message goes to a log that many can read."""
    nowhere = ModelStores(tracking_uri="http://me:hunter2@127.0.0.1:1")
    with pytest.raises(
        ExportError, match=r"registry at http://\*\*\*@127\.0\.0\.1:1 is out"
    ) as told:
        find_published("models:/m@production", nowhere)
    assert "hunter2" not in str(told.value)


def test_a_statement_timeout_is_told_from_a_lost_server(stack):
    """Nobody would look for it where "check that it runs" sends them."""
    engine = database_engine(stack.database_url)
    with engine.connect() as connection:
        connection.execute(text("SET statement_timeout = '50ms'"))
        with pytest.raises(ExportError, match="raise statement_timeout"), mlflow_errors("ask"):
            connection.execute(text("SELECT pg_sleep(5)"))
    engine.dispose()


def test_no_engine_prepares_statements(stack):
    """Behind a pooler, such as pgbouncer, the next transaction has another session."""
    database_engine(stack.database_url).dispose()
    mlflows_own = create_engine(with_driver(stack.database_url))
    try:
        for _ in range(8):  # psycopg prepares what was executed six times
            with mlflows_own.begin() as connection:
                assert connection.execute(text("SELECT 7")).scalar_one() == 7
                # Without psycopg's knowledge, as it is behind a pooler.
                connection.connection.driver_connection.pgconn.exec_(b"DEALLOCATE ALL")
    finally:
        mlflows_own.dispose()


@pytest.fixture
def impatient(monkeypatch):
    """MLflow asks once, so that these tests do not wait for its half a minute."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def begin(server, tmp_path, **changes):
    """A run with its artifacts in a folder."""
    return MLflowTracker(server.uri, artifact_root=tmp_path.as_uri(), **changes)


def steps(run):
    """The steps at which MLflow knows the loss."""
    return [entry.step for entry in run.client.get_metric_history(run.run_id, "val/loss")]


def kept(outbox):
    """The runs whose messages wait."""
    return {path.stem for path in outbox.glob("*.jsonl")}


def test_a_message_that_is_told_twice_is_kept_once(mlflow_server, tmp_path):
    """The server may die after it has understood and before it says so."""
    with begin(mlflow_server, tmp_path) as run:
        losses = tuple(("val/loss", 1.0 / step, 1_000 + step, step) for step in (1, 2))
        message = Message(doing="record", metrics=losses, params=(("a", "1"),), tags=(("b", "2"),))
        for _ in range(2):
            send(run.client, run.run_id, message)
        assert steps(run) == [1, 2]


def test_a_server_that_dies_and_comes_back_costs_a_run_nothing(
    mlflow_server, tmp_path, impatient, caplog
):
    """Training goes on; two runs, one that sees the server again and one that does not."""
    outbox = tmp_path / "outbox"
    with begin(mlflow_server, tmp_path, outbox=outbox) as lucky:
        with begin(mlflow_server, tmp_path, outbox=outbox) as unlucky:
            for step in range(4):
                if step == 2:
                    mlflow_server.die()
                for run in (lucky, unlucky):
                    run.log_metrics({"val/loss": 1.0 / (1 + step)}, step=step)
                    run.set_tags({"epoch": str(step)})
        assert f"MLflow has not taken all of run {unlucky.run_id}" in caplog.text
        assert kept(outbox) == {lucky.run_id, unlucky.run_id}
        mlflow_server.start()
        assert status_in_postgres(mlflow_server, unlucky.run_id) == "RUNNING"
    assert kept(outbox) == {unlucky.run_id}
    cut_off = '{"doing": "record metrics", "metr'
    (outbox / f"{unlucky.run_id}.jsonl").open("a").write(cut_off)
    with begin(mlflow_server, tmp_path, outbox=outbox):
        pass
    for run in (lucky, unlucky):
        assert steps(run) == [0, 1, 2, 3]
        assert run.client.get_run(run.run_id).data.tags["epoch"] == "3"
        assert status_in_postgres(mlflow_server, run.run_id) == "FINISHED"
    assert kept(outbox) == set()


def test_what_is_no_outbox_stays_and_is_told(mlflow_server, tmp_path, caplog):
    """A file that somebody edited must not keep a training from starting."""
    (tmp_path / "abc.jsonl").write_text(json.dumps({"metrics": []}) + "\n")
    with begin(mlflow_server, tmp_path, outbox=tmp_path):
        pass
    assert "abc.jsonl: not a file of messages: Message.__init__() missing" in caplog.text
    assert (tmp_path / "abc.jsonl").exists()


def test_what_a_server_refuses_is_an_error_with_an_outbox_too(mlflow_server, tmp_path):
    """A parameter with two values is a mistake in the program, and no outage."""
    with begin(mlflow_server, tmp_path, outbox=tmp_path / "outbox") as run:
        run.log_params({"a": 1})
        with pytest.raises(ExportError, match=r"cannot record the parameters: .*already logged"):
            run.log_params({"a": 2})
        run.log_params({"b": 3})
    assert run.client.get_run(run.run_id).data.params == {"a": "1", "b": "3"}
    assert kept(tmp_path / "outbox") == set()


def test_a_server_that_is_gone_is_waited_for_half_a_minute_unless_told_otherwise():
    """Long enough for it to be restarted, and not the four minutes that MLflow would take."""
    code = (
        "import heimdall_export.tracking.client, os\n"
        "from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as retries\n"
        "print(retries.get())"
    )
    said = [
        subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ | given)
        for given in ({}, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
    ]
    assert said == ["4\n", "1\n"]


def test_a_run_without_an_outbox_hears_of_a_server_that_dies(
    mlflow_server, tmp_path, impatient, caplog
):
    """Each call says so in one line, and what ended the run is not hidden behind it."""
    run = begin(mlflow_server, tmp_path)
    with pytest.raises(ZeroDivisionError):
        diverge(run, mlflow_server)
    assert f"MLflow cannot mark run {run.run_id} as FAILED" in caplog.text


def diverge(run, server):
    """A run whose server dies before it fails by itself."""
    with run:
        server.die()
        with pytest.raises(
            ExportError, match=r"^MLflow cannot record metrics: .*Connection"
        ) as told:
            run.log_metrics({"val/loss": 1.5})
        assert "\n" not in str(told.value)
        _ = 1 / 0
