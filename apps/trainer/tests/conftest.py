"""A catalogue with a few simulated sessions on the real servers, for the tests that train."""

import contextlib
import importlib
import os
import socketserver
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.ingest.ingest import ingest
from heimdall_simulation import simulate_sessions
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
pytest_plugins = ["heimdall_data.testing.fixtures"]

N_SESSIONS = 48


@pytest.fixture(autouse=True)
def own_registry():
    """`mlflow.set_tracking_uri` sets a variable that later tests' processes would inherit."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


SILENCERS = (
    "ORT_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
    "DO_NOT_TRACK",
)


class Proxy(socketserver.ThreadingTCPServer):
    """Hears who is asked for by HTTPS, and lets nothing pass."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), None)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        """Keep the first line, and hang up."""
        self.asked.append(request.recv(300).partition(b"\r\n")[0].decode())

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)

    def variables(self, caches):
        """Environment of those whom it hears, and who write their caches into a folder."""
        address = f"http://127.0.0.1:{self.server_address[1]}"
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), address),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
            **dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(caches)),
        }


@pytest.fixture(scope="session", autouse=True)
def https_proxy(tmp_path_factory):
    """All tests and their processes have it, so that no command can call home unnoticed.

    Processes have nothing of what our packages have set in this one to silence others. Most are
    over before ONNX Runtime would call, but not before it has given the user an id.
    """
    # Those of this process are silenced before.
    for name in ("heimdall_export.tracking.client", "onnxruntime"):
        importlib.import_module(name)
    caches = tmp_path_factory.mktemp("caches")
    with Proxy() as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.variables(caches).items():
            patch.setenv(name, value)
        for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "TRAVIS", "JENKINS_URL", *SILENCERS):
            patch.delenv(name, raising=False)  # Some are silent where they see one of these.
        for name in ("COLUMNS", "FORCE_COLOR", "CLICOLOR_FORCE"):
            patch.delenv(name, raising=False)  # Others would print otherwise.
        yield proxy
    assert proxy.asked == []
    assert [*caches.rglob("deviceid"), *caches.rglob("telemetry.json")] == []


@pytest.fixture
def listen():
    """Make a proxy of a test's own."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(Proxy())


@pytest.fixture(scope="session")
def connections(stack, tmp_path_factory):
    """Connections to the test stack, whose catalogue holds simulated sessions."""
    there = replace(Connections.to_stack(stack), state_dir=tmp_path_factory.mktemp("state"))
    s3 = there.need_s3()
    made = (session.new_session for session in simulate_sessions(N_SESSIONS, seed=3))
    with Catalogue(there.need_database()) as catalogue:
        ingest(catalogue, ObjectStore(s3, s3.raw_iq_bucket), made, progress=False)
    return there


@pytest.fixture
def empty(s3_settings, database_url, tmp_path):
    """Connections to this test's own empty database and bucket."""
    return Connections(
        database_url=database_url,
        s3_endpoint_url=s3_settings.endpoint_url,
        s3_access_key=s3_settings.access_key,
        s3_secret_key=s3_settings.secret_key,
        raw_iq_bucket=s3_settings.raw_iq_bucket,
        state_dir=tmp_path / "state",
    )


@pytest.fixture
def run_heimdall(tmp_path):
    """Run `heimdall` in a process and a folder of its own, with nothing else configured."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("HEIMDALL_", "MLFLOW_"))}

    def run(*words, connections=None, **variables):
        there = connections or Connections(state_dir=tmp_path / "state")
        return subprocess.run(
            [sys.executable, "-m", "heimdall_trainer", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=bare | there.environment(defaults=False) | variables,
            timeout=300,
        )

    return run


@pytest.fixture
def heimdall_here(tmp_path, monkeypatch, capfd):
    """As `run_heimdall`, in this process: seconds sooner."""
    from heimdall_trainer.cli.app import main

    for name in [name for name in os.environ if name.startswith(("HEIMDALL_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*words, connections, **variables):
        for name, value in (connections.environment(defaults=False) | variables).items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        told = capfd.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code, told.out, told.err)

    return run


@pytest.fixture(scope="session")
def quick():
    """The smallest training that still goes through everything."""
    return TrainingConfig(
        epochs=2,
        batch_size=8,
        backbone="convnext_atto",
        receivers=("Torino", "Genova", "Milano-Baggio"),
        validation_split=0.25,
        test_split=0.25,
        seed=7,
    )


@pytest.fixture(scope="session")
def finished(connections, quick):
    """One whole run of the pipeline; several tests look at what it left."""
    from heimdall_trainer.pipeline import TrainingPipeline

    return TrainingPipeline(quick, connections).run()
