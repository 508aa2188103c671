"""A real MLflow server, over HTTP: everything works there too, and it may die."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from heimdall_export import (
    ExportError,
    MLflowTracker,
    evaluation_tags,
    list_versions,
    promote,
    register,
    rollback,
)


def free_port():
    """A port of the loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def answers(uri):
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server's process and address; it takes half a minute to start, so there is one."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    options = ["--host=127.0.0.1", f"--port={port}", "--workers=1"]
    store = f"--backend-store-uri=sqlite:///{folder / 'server.db'}"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", store, *options],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        while not answers(uri):
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield process, uri
    finally:
        end(process)


def end(process):
    """As a machine that fails: no goodbye."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_and_its_model_live_on_a_server(server, artifact_store, onnx_path):
    """A team's MLflow is a server, not a file."""
    _, uri = server
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


def test_a_server_that_dies_takes_nothing_but_the_bookkeeping(
    server, tmp_path, monkeypatch, caplog
):
    """Each call says so in one line, and what ended the run is not hidden behind it."""
    process, uri = server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = MLflowTracker(uri, artifact_root=tmp_path.as_uri())
    with pytest.raises(ZeroDivisionError):
        diverge(run, process)
    assert f"MLflow cannot mark run {run.run_id} as FAILED" in caplog.text


def diverge(run, process):
    """A run whose server dies before it fails by itself."""
    with run:
        end(process)
        with pytest.raises(
            ExportError, match=r"^MLflow cannot record metrics: .*Connection"
        ) as told:
            run.log_metrics({"val/loss": 1.5})
        assert "\n" not in str(told.value)
        _ = 1 / 0


def test_a_server_that_is_gone_is_waited_for_half_a_minute_unless_told_otherwise():
    """Long enough for it to be restarted, and not the four minutes that MLflow would take."""
    code = (
        "import heimdall_export.tracking, os\n"
        "from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as retries\n"
        "print(retries.get())"
    )
    said = [
        subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ | given)
        for given in ({}, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
    ]
    assert said == ["4\n", "1\n"]
