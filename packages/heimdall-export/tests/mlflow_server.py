"""A real MLflow server with a Postgres behind it, which can die and come back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def free_port():
    """A port of the loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def answers(url):
    """Whether a server is up."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class MlflowServer:
    """One address, behind which a process comes and goes.

    Attributes:
        uri: Where it is, whether it runs or not.
        database_url: The Postgres behind it.
    """

    def __init__(self, folder, database_url):
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.database_url = database_url
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1"]
        self._command += [f"--port={port}", "--workers=1"]
        self._environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": database_url.replace("postgresql:", "postgresql+psycopg:"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # A dozen processes for what nobody here asks of it.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._process = None

    def start(self):
        """Start it if it does not run, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            with (self._folder / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
        while not answers(f"{self.uri}/health"):
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            time.sleep(0.2)

    def die(self):
        """As a machine that fails: no goodbye."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
