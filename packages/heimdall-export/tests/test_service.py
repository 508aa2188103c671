"""`heimdall-serve` over real HTTP, with a real registry and without torch."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import promql_parser
import pytest
import yaml
from heimdall_export import (
    ExportError,
    MLflowTracker,
    Predictor,
    evaluation_tags,
    list_versions,
    promote,
    register,
    rollback,
    upload_model,
)
from heimdall_export.serving.app import Service, ServiceConfig, make_app
from heimdall_export.serving.command import listen, parse_flags
from heimdall_export.serving.metrics import Metrics
from heimdall_export.serving.schema import RECORDINGS, Answer, ModelInUse
from onnx import numpy_helper
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

pytestmark = pytest.mark.slow

OBSERVED = """
import threading

from heimdall_export.serving import app, command

app.ALL_BODIES = 17 * app.SMALLEST
sizes, slow, inside = [], [], []
free = {what: threading.Event() for what in ("network", "slow", "challenger")}
for each in free.values():
    each.set()
answer_each, prepare = app.Predictor.answer_each, app.Predictor.prepare
make_app = app.make_app


def watched(predictor, prepared):
    if inside[0].challenger and predictor is inside[0].challenger.model:
        free["challenger"].wait()
    else:
        sizes.append(len(prepared))
        free["network"].wait()
    return answer_each(predictor, prepared)


def braked(predictor, heard, **more):
    if any(one.sample_rate_hz == 11_111 for one in heard.values()):
        slow.append(heard)
        free["slow"].wait()
    return prepare(predictor, heard, **more)


def with_a_view(service):
    inside.append(service)
    app = make_app(service)

    @app.post("/hold/{what}")
    async def hold(what):
        sizes.clear()
        free[what].clear()

    @app.post("/release/{what}")
    async def release(what):
        free[what].set()

    @app.get("/seen")
    async def seen():
        return {
            "sizes": sizes,
            "waiting": service.ready.qsize(),
            "slow": len(slow),
            "is_turn_taken": service._turn.locked(),
        }

    return app


app.Predictor.answer_each, app.Predictor.prepare = watched, braked
app.make_app = with_a_view
command.main()
"""
"""The service, with a view into it: how large each batch was, and a brake on the network
and on the features of recordings at one rate."""
SLOW_HZ = 11_111
SERVE = (Path(sys.executable).with_name("heimdall-serve"),)


def page(name="inference.md"):
    """A page or a file of docs, if it is above this file; a package alone has none."""
    name = Path("docs", name)
    found = next((p / name for p in Path(__file__).resolve().parents if (p / name).exists()), None)
    if found is None:
        pytest.skip(f"{name} is not above this file")
    return found.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, without_extras):
    """Where a service runs that cannot import what it does not install."""
    place = tmp_path_factory.mktemp("service")
    (place / "observed.py").write_text(OBSERVED)
    (place / "sitecustomize.py").write_text(without_extras)
    return place


@pytest.fixture(scope="module")
def name():
    """The registered model's name."""
    return "followed"


@pytest.fixture(scope="module")
def publish(one_mlflow_server, stack, artifact_store, name):
    """Uploads a file, registers it, and puts it into production; its version."""
    one_mlflow_server.start()
    uri = one_mlflow_server.uri
    tags = evaluation_tags({"test/error_m_median": 1.0, "test/nll": 1.0}, ["a session"])

    def one(path, onnx_path):
        s3 = stack.s3
        model = upload_model(
            s3.client(), s3.models_bucket, path, run_id="r", metrics={}, versions={}
        )
        where = {"onnx_uri": model.uri, "sha256": model.sha256}
        with MLflowTracker(
            uri, artifact_root="s3://heimdall-mlflow", artifact_store=artifact_store
        ) as run:
            version = register(run, onnx_path, model_name=name, tags=tags | where)
        promote(uri, name, version)
        return version

    return one


def environment(registry_uri, store, folder, name):
    """What the service is told, and nothing else of ours."""
    ours = {key: value for key, value in os.environ.items() if "HEIMDALL" not in key}
    return ours | {
        "HEIMDALL_S3_ENDPOINT_URL": store.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": store.access_key,
        "HEIMDALL_S3_SECRET_KEY": store.secret_key,
        "HEIMDALL_MODEL": f"models:/{name}@production",
        "HEIMDALL_MODEL_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": registry_uri,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
    }


def started(folder, variables, command=SERVE):
    """A service on a free port; what it writes begins with its address."""
    with (folder / "serve.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--port=0", "--poll-s=0.1", "--upload-s=10"],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def until(happened):
    """Wait for what must happen; what does not within a minute is taken never to."""
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.05)
    pytest.fail("it has not happened within a minute")


async def eventually(seen):
    """As `until`, of what the service sees."""
    for _ in range(3000):
        if await seen():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it has not been seen within a minute")


def log_of(folder):
    """What the service has written so far."""
    return (folder / "serve.log").read_text()


@pytest.fixture(scope="module")
def way(faulty, one_mlflow_server):
    """The service's way to the registry, and how to close it."""
    with contextlib.ExitStack() as open_way:
        upstream = one_mlflow_server.uri.removeprefix("http://")
        at, _ = open_way.enter_context(faulty.faulty_store(upstream, []))
        yield f"http://{at}", open_way.close


@contextlib.contextmanager
def serving(folder, variables, command=SERVE):
    """A service that has loaded its model; a client of it."""
    process = started(folder, variables, command)
    try:
        until(lambda: "is loaded" in log_of(folder) or process.poll() is not None)
        at = re.search(r"listening on (http://[\d.:]+)", log_of(folder))
        assert at, log_of(folder)
        with httpx.Client(base_url=at[1], timeout=60) as client:
            client.process = process
            yield client
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def service(folder, publish, way, artifact_store, onnx_path, name):
    """The service with version 1 in production and in staging, which is its challenger."""
    assert publish(onnx_path, onnx_path) == "1"
    command = (sys.executable, "observed.py", f"--challenger=models:/{name}@staging")
    with serving(folder, environment(way[0], artifact_store, folder, name), command) as client:
        yield client


def question(recordings):
    """A request's body."""
    return {
        name: {
            "iq": base64.b64encode(iq.astype("<c8").tobytes()).decode(),
            "sample_rate_hz": rate_hz,
        }
        for name, (iq, rate_hz) in recordings.items()
    }


def version_becomes(service, version):
    """Wait until a version answers; meanwhile nobody goes without an answer."""

    def answers():
        assert service.post("/locate", json=question(noise())).status_code == 200
        return service.get("/model").json()["version"] == version

    until(answers)


def noise(receiver="Torino", n_samples=20_000):
    """One receiver's recording."""
    iq = np.random.default_rng(0).normal(scale=0.1, size=n_samples)
    return {receiver: (iq.astype(np.complex64), 12_500.0)}


def said_of(position):
    """An answer's numbers, as `pytest.approx` compares them."""
    major_m = position["ellipse_95"]["semi_major_m"]
    return [position["latitude_deg"], position["longitude_deg"], major_m]


def says(predictor, recordings):
    """What the model says without a service around it."""
    here = predictor.predict(recordings)
    return pytest.approx(
        [here.latitude_deg, here.longitude_deg, here.ellipse_95.semi_major_m], rel=1e-6
    )


def test_it_answers_as_the_model_does(service, onnx_path, recordings_of):
    """The web server must not change a position; and it says which version answered."""
    answer = service.post("/locate", json=question(recordings_of(5))).json()
    assert answer["model_version"] == "1"
    assert said_of(answer["position"]) == says(Predictor(onnx_path), recordings_of(5))
    kinds = [feature["geometry"]["type"] for feature in answer["on_a_map"]["features"]]
    assert kinds == ["Point", "Polygon", "Polygon"]


def test_it_says_which_model_it_uses(service, onnx_path, feature_config):
    """Operators compare it with the registry; clients learn whom to record."""
    told = service.get("/model").json()
    assert told["hears"] == list(feature_config.receivers)
    assert told["sha256"] == hashlib.sha256(onnx_path.read_bytes()).hexdigest()


def test_the_answer_is_the_one_that_is_documented(service):
    """Clients are generated from the OpenAPI page."""
    answer = service.post("/locate", json=question(noise())).json()
    assert Answer.model_validate(answer).model_dump(mode="json") == answer
    model = service.get("/model").json()
    assert ModelInUse.model_validate(model).model_dump() == model
    described = service.get("/openapi.json").json()
    (example,) = described["components"]["schemas"]["Answer"]["examples"]
    assert Answer.model_validate(example).model_dump(mode="json") == example
    asked = described["paths"]["/locate"]["post"]["requestBody"]["content"]["application/json"]
    recordings = RECORDINGS.validate_json(json.dumps(asked["example"]))
    assert {recording.clocked().iq.size for recording in recordings.values()} == {2}


def counted(client):
    """Samples of a service's metrics, by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_a_scrape_tells_what_was_asked_and_answered(service):
    """Nobody watches a service that does not count."""
    before = counted(service)
    service.post("/locate", json=question(noise()))
    service.post("/locate", json={})
    grown = {key: value - before.get(key, 0) for key, value in counted(service).items()}
    assert grown["heimdall_requests_total", "200"] == 1
    assert grown["heimdall_requests_total", "422"] == 1
    assert grown["heimdall_request_seconds_count",] == 2
    assert grown["heimdall_batch_size_sum",] == 1
    assert grown["heimdall_answers_total", "champion", "1"] == 1
    assert grown["heimdall_receiver_heard_total", "Torino"] == 1
    assert grown.get(("heimdall_receiver_heard_total", "Genova"), 0) == 0
    assert counted(service)["heimdall_model_info", "champion", "0123abcd", "1"] == 1


def test_a_receiver_that_becomes_louder_is_seen(service):
    """An antenna or a gain has changed; the model was trained with the other one."""
    (iq, rate_hz) = noise()["Torino"]
    levels_db = []
    for gain in (1, 10):
        service.post("/locate", json=question({"Torino": (gain * iq, rate_hz)}))
        levels_db.append(counted(service)["heimdall_receiver_level_db", "Torino"])
    assert levels_db[1] - levels_db[0] == pytest.approx(20, abs=0.1)


@pytest.fixture(scope="module")
def without_registry(folder, onnx_path, artifact_store, tmp_path_factory):
    """The service of one file; a client of it."""
    variables = environment("http://127.0.0.1:1", artifact_store, folder, "")
    variables["HEIMDALL_MODEL"] = str(onnx_path)
    with serving(tmp_path_factory.mktemp("file"), variables) as client:
        yield client


def test_it_needs_no_registry(without_registry, onnx_path, recordings_of):
    """Whoever has one model file has nothing to follow."""
    answer = without_registry.post("/locate", json=question(recordings_of(5))).json()
    assert said_of(answer["position"]) == says(Predictor(onnx_path), recordings_of(5))
    assert answer["model_version"] == Predictor(onnx_path).run_id
    assert without_registry.get("/model").json()["version"] == Predictor(onnx_path).run_id


def test_it_takes_a_model_of_the_object_store(
    folder, onnx_path, artifact_store, stack, recordings_of, tmp_path
):
    """A file need not be copied to the machine first."""
    uploaded = upload_model(
        stack.s3.client(), stack.s3.models_bucket, onnx_path, run_id="r", metrics={}, versions={}
    )
    variables = environment("http://127.0.0.1:1", artifact_store, folder, "")
    with serving(tmp_path, variables, (*SERVE, uploaded.uri)) as client:
        answer = client.post("/locate", json=question(recordings_of(5))).json()
    assert said_of(answer["position"]) == says(Predictor(onnx_path), recordings_of(5))


def test_a_port_that_is_taken_is_told_in_one_line(without_registry):
    """The second start of a service by hand."""
    port = str(without_registry.base_url.port)
    done = subprocess.run([*SERVE, "x", "--port", port], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"heimdall-serve: cannot listen on 127.0.0.1, port {port}: Address already in use; "
        "give another --host or --port\n"
    )


def test_the_end_of_an_answer_does_not_wait_for_the_callers_acknowledgement():
    """Callers on another machine acknowledge after 40 ms, five times what an answer takes."""
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_who_waits_is_answered_before_the_service_stops(without_registry):
    """A deployment replaces services while others ask them."""
    body = json.dumps(question(noise())).encode()
    address = (without_registry.base_url.host, without_registry.base_url.port)

    def is_closed():
        try:
            socket.create_connection(address, 60).close()
        except ConnectionRefusedError:
            return True
        return False

    with socket.create_connection(address, 60) as raw:
        head = f"POST /locate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body[:1000])
        until(lambda: counted(without_registry)["heimdall_requests_inside",] == 1)
        without_registry.process.send_signal(signal.SIGTERM)
        until(is_closed)
        raw.sendall(body[1000:])
        assert raw.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    assert without_registry.process.wait() == 0


@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_a_store_that_never_answers_does_not_keep_the_service_from_stopping(
    role, folder, onnx_path, artifact_store, tmp_path
):
    """A deployment would wait for minutes, then kill it; its temporary folder would stay."""
    models = {
        "champion": ["s3://models/m.onnx"],
        "challenger": [onnx_path, "--challenger=s3://models/m.onnx"],
    }[role]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and nobody accepts
        variables = environment("http://127.0.0.1:1", artifact_store, folder, "")
        variables["HEIMDALL_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables["TMPDIR"] = str(tmp_path)
        del variables["HEIMDALL_MODEL_CACHE"]
        process = started(tmp_path, variables, (*SERVE, *models))
        try:
            until(lambda: [*tmp_path.glob("heimdall-model-*")])
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["serve.log"]
    assert "Traceback" not in log_of(tmp_path)


def test_a_caller_that_reads_no_answer_does_not_keep_the_service_from_stopping(
    folder, onnx_path, artifact_store, tmp_path
):
    """Anyone could, without a token."""
    variables = environment("http://127.0.0.1:1", artifact_store, folder, "")
    with serving(tmp_path, variables, (*SERVE, onnx_path)) as client, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((client.base_url.host, client.base_url.port))
        raw.settimeout(2)
        with contextlib.suppress(TimeoutError):  # until nothing more is taken, as nothing is read
            while True:
                raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        client.process.terminate()
        try:
            assert client.process.wait(120) == 0
        finally:
            client.process.kill()


def test_without_a_token_only_probes_are_answered():
    """Strangers must not use a service, nor learn what it hears; a balancer must see it live."""
    client = TestClient(make_app(Service(ServiceConfig(model="none", token="a secret"))))
    assert client.get("/health").status_code == 200
    for method, place in (("POST", "/locate"), ("GET", "/model"), ("GET", "/metrics")):
        for sent in ({}, {"Authorization": "Bearer a secre"}, {"Authorization": "Bearer é"}):
            headers = {key: value.encode() for key, value in sent.items()}
            refused = client.request(method, place, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        headers = {"Authorization": "Bearer a secret"}
        assert client.request(method, place, headers=headers).status_code != 401


@pytest.mark.parametrize("token", ["", "a\n", " a", "é", "\udce9"])
def test_a_token_that_no_header_carries_is_refused(token):
    """Every caller would be turned away, and nobody would know why."""
    with pytest.raises(ExportError, match="HEIMDALL_SERVE_TOKEN"):
        ServiceConfig(model="none", token=token)


def test_it_is_not_ready_while_the_model_is_loading():
    """A balancer must not send requests to a service that lives and cannot answer yet."""
    client = TestClient(make_app(Service(ServiceConfig(model="none"))))
    assert client.get("/health").json() == {"status": "ok"}
    for asked in (client.get("/ready"), client.get("/model"), client.post("/locate", json={})):
        assert (asked.status_code, asked.json()["detail"]) == (
            503,
            "the model is still loading; try again",
        )


def test_it_is_ready_once_the_model_is_loaded(service):
    """And from then on."""
    assert service.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    "words", [["--port", "70000"], ["--poll-s", "0"], ["--upload-s", "x"], ["--prot", "1"]]
)
def test_a_wrong_flag_is_wrong_usage(words, capsys):
    """A service manager must not start it again and again."""
    with pytest.raises(SystemExit) as ended:
        parse_flags(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_the_pages_question_is_answered(service):
    """The first thing that anyone tries."""
    (program,) = re.findall(r"^```python ask.py\n(.*?)^```$", page(), re.DOTALL | re.MULTILINE)
    said = subprocess.check_output(
        [sys.executable, "-c", program, str(service.base_url).rstrip("/")], text=True
    )
    assert re.fullmatch(r"version 1: \S+ N \S+ E, within \d+ m \(95 %\)\n", said)


def at_once(service, bodies):
    """Send all, wait until each is inside, let the network go on; the replies in order."""

    async def ask():
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
            await client.post("/hold/network")
            asked = [asyncio.create_task(client.post("/locate", json=body)) for body in bodies]
            await eventually(lambda: all_inside(client, asked))
            sizes = client.post("/release/network"), client.get("/seen")
            await sizes[0]
            replies = await asyncio.gather(*asked)
            return replies, (await sizes[1]).json()["sizes"]

    return asyncio.run(ask())


async def all_inside(client, asked):
    """Whether all requests wait in the service, are being answered, or have been refused."""
    seen = (await client.get("/seen")).json()
    return sum(seen["sizes"]) + seen["waiting"] + sum(one.done() for one in asked) == len(asked)


def test_requests_that_come_together_are_answered_together(service, onnx_path, recordings_of):
    """The network does 8 at once in much less than 8 times the time of one."""
    sessions = [recordings_of(seed) for seed in range(8)]
    replies, sizes = at_once(service, [question(session) for session in sessions])
    assert sum(sizes) == 8
    assert len(sizes) <= 2
    predictor = Predictor(onnx_path)
    for reply, session in zip(replies, sessions, strict=True):
        assert said_of(reply.json()["position"]) == says(predictor, session)


def test_a_bad_request_spoils_nobody_elses(service, recordings_of):
    """Strangers share a batch."""
    bad = {"Roma": question(noise())["Torino"]}
    bodies = [question(recordings_of(1)), bad, question(recordings_of(2))]
    replies, _ = at_once(service, bodies)
    assert [reply.status_code for reply in replies] == [200, 422, 200]
    assert "unknown receivers ['Roma']" in replies[1].json()["detail"]


def test_a_full_queue_is_said_at_once(service):
    """Waiting for minutes helps nobody; a balancer asks elsewhere."""

    async def ask():
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
            await client.post("/hold/network")
            first = asyncio.create_task(client.post("/locate", json=question(noise())))
            await eventually(lambda: all_inside(client, [first]))
            asked = [
                asyncio.create_task(client.post("/locate", json=question(noise())))
                for _ in range(16)
            ]
            await eventually(lambda: all_inside(client, [first, *asked]))
            late = await client.post("/locate", json=question(noise()))
            await client.post("/release/network")
            return late, await asyncio.gather(first, *asked)

    late, others = asyncio.run(ask())
    assert (late.status_code, late.json()["detail"]) == (
        503,
        "too many requests are waiting; try again",
    )
    assert {reply.status_code for reply in others} == {200}


def test_a_slow_request_does_not_block_the_others(service):
    """The features of one may take seconds; others, and a health check, are answered meanwhile."""

    async def ask():
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
            await client.post("/hold/slow")
            late = question({"Torino": (noise()["Torino"][0], SLOW_HZ)})
            slow = asyncio.create_task(client.post("/locate", json=late))

            async def is_inside():
                return (await client.get("/seen")).json()["slow"]

            await eventually(is_inside)
            quick = [await client.post("/locate", json=question(noise())) for _ in range(3)]
            health = await client.get("/model")
            was_waiting = not slow.done()
            is_turn_taken = (await client.get("/seen")).json()["is_turn_taken"]
            await client.post("/release/slow")
            return was_waiting, is_turn_taken, [(await slow), health, *quick]

    was_waiting, is_turn_taken, replies = asyncio.run(ask())
    assert was_waiting
    assert not is_turn_taken  # each would wait for it
    assert {reply.status_code for reply in replies} == {200}


def test_a_body_that_does_not_arrive_gives_its_place_back(service):
    """A few connections that send nothing would keep all others out."""
    idle = [
        socket.create_connection((service.base_url.host, service.base_url.port), 60) for _ in "ab"
    ]
    for raw in idle:
        raw.sendall(b"POST /locate HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n")
    answers = [raw.makefile("rb").readline()[:12] for raw in idle]
    assert sorted(answers) == [b"HTTP/1.1 408", b"HTTP/1.1 503"]
    assert service.post("/locate", json=question(noise())).status_code == 200


def test_a_caller_that_hangs_up_is_no_failure_of_the_service(service, folder):
    """Whoever is on duty is called for statuses of 500 and more."""
    with socket.create_connection((service.base_url.host, service.base_url.port), 60) as raw:
        raw.sendall(b"POST /locate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        until(lambda: counted(service)["heimdall_requests_inside",] == 1)
    until(lambda: counted(service).get(("heimdall_requests_total", "499")) == 1)
    assert "Traceback" not in log_of(folder)


@pytest.mark.parametrize(
    "size",
    [
        "Content-Length: 400000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 10\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(service, size):
    """Reading 400 MB took 2.2 GB of memory."""
    with socket.create_connection((service.base_url.host, service.base_url.port), 60) as raw:
        head = (
            f"POST /locate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{size}\r\n\r\n"
        )
        raw.sendall(head.encode())
        status, _, _ = raw.makefile("rb").readline().partition(b"\r\n")
    assert status.startswith(b"HTTP/1.1 413")


def series():
    """Names and labels of all that the service can count."""
    names = {}
    for family in Metrics(32).registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for suffix in suffixes.get(family.type, [""]):
            names[family.name + suffix] = family
    return {name: family for name, family in names.items() if name.startswith("heimdall_")}


def selectors(expression):
    """Every choice of series in a parsed expression of PromQL."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for part in ("lhs", "rhs", "expr", "vector_selector", "args"):
        inner = getattr(expression, part, None) or []
        for one in inner if isinstance(inner, list) else [inner]:
            yield from selectors(one)


def test_every_alert_is_about_what_is_counted():
    """An alert on a series that nobody writes never fires."""
    (group,) = yaml.safe_load(page("alerts.yml"))["groups"]
    for rule in group["rules"]:
        found = [*selectors(promql_parser.parse(rule["expr"]))]
        assert len(found) == rule["expr"].count("heimdall_") > 0, rule["alert"]
        assert {one.name for one in found} <= set(series()), rule["alert"]


def test_the_page_lists_all_that_is_counted():
    """Operators choose from the table what to watch."""
    rows = re.findall(r"^\| `(heimdall_\w+)` \|", page("ab.md"), re.MULTILINE)
    counted = {re.sub("_(bucket|sum|count)$", "", name) for name in series()}
    assert sorted(rows) == sorted(counted)


def test_the_pages_commands_are_accepted():
    """A flag that was renamed must not stay on a page."""
    lines = (page() + page("ab.md")).replace("\\\n", " ").splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("service/bin/heimdall-serve")]
    (page_s, ab) = map(parse_flags, commands)
    assert page_s.model == "models:/heimdall-localization-onnx@production"
    assert ab.challenger == "models:/heimdall-localization-onnx@staging"
    flags = set(re.findall(r"`(--[a-z-]+)`", page()))
    assert flags <= {f"--{flag.replace('_', '-')}" for flag in vars(page_s)}


SIXTEEN_BIT = np.random.default_rng(0).integers(-32_768, 32_768, 20_000)
SILENT = np.zeros(20_000, np.complex64)
LONG = np.zeros(1_100_000, np.complex64)
NOT_FINITE = {"Torino": (np.full(20_000, np.nan, np.complex64), 12_500.0)}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "no recording at all"),
        (
            question(noise("Roma")),
            "unknown receivers ['Roma']; known: ['Torino', 'Genova', 'Milano-Baggio']",
        ),
        (question(noise(n_samples=0)), "receiver 'Torino'"),
        (question(NOT_FINITE), "receiver 'Torino'"),
        ({"Torino": {"iq": "AAAAAAAAAAA=", "sample_rate_hz": -1}}, "greater than 0"),
        ({"Torino": {"iq": "AAAA", "sample_rate_hz": 12_500}}, "not a multiple of 8"),
        ({"Torino": {"iq": "_-AAAAAAAAA=", "sample_rate_hz": 12_500}}, "base64"),
        ({"Torino": {"sample_rate_hz": 12_500}}, "Field required"),
        ({"Torino": {"iq": "", "sample_rate_hz": 12_500, "start": 1}}, "Torino.start: Extra"),
        ({"Torino": {"iq": "", "sample_rate_hz": "12500"}}, "sample_rate_hz: Input should be"),
        ({"Torino": {"iq": "", "sample_rate_hz": True}}, "sample_rate_hz: Input should be"),
        ({"Torino": {"iq": "", "sample_rate_hz": 1, "start_s": "0"}}, "start_s: Input should be"),
        (question({"Torino": (SIXTEEN_BIT, 12_500.0)}), "'Torino': samples reach 3"),
        (question({"Torino": (SILENT, 12_500.0), "Genova": (SILENT, 12_500.0)}), "only silence"),
        (question({"Torino": (SILENT, 240.0)}), "is the rate in Hz"),
        (question({"Torino": (LONG, 1_500.0)}), "samples at 12500 Hz, and the most are 8388608"),
        (question({f"R{n}": (SILENT[:1], 12_500.0) for n in range(300)}), "and 295 more"),
        ({"Torino": {str(n): 1 for n in range(1_100)}}, "more than 1000 fields"),
        ([1, 2], "Input should be an object"),
        ("Torino", "Input should be an object"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(service, body, said):
    """A caller cannot read the service's log."""
    reply = service.post("/locate", json=body)
    assert reply.status_code == 422
    told = reply.json()["detail"]
    assert said in told
    assert not re.search("pydantic|type=|Value error|\n", told)
    assert len(reply.content) < 2000


RECORDING = json.dumps(question(noise())["Torino"])


@pytest.mark.parametrize(
    "body",
    [
        f'{{"Torino": {RECORDING}, "Torino": {RECORDING}}}',
        f'{{"Torino": {RECORDING}, "T\\u006frino": {RECORDING}}}',
        f'{{"Torino": {{"start_s": 0, "start_s": 1, {RECORDING[1:]}}}',
    ],
)
def test_a_key_that_is_given_twice_is_refused(service, body):
    """One of two recordings would be left out, and nobody would know which."""
    reply = service.post("/locate", content=body.encode())
    assert (reply.status_code, reply.json()["detail"]) == (
        422,
        "a receiver or a field is given twice; give each once",
    )


def test_a_colon_in_a_name_is_no_second_key(service):
    """Names are the users'; this one is refused because the model does not know it."""
    told = service.post("/locate", json=question(noise("Torino: roof"))).json()["detail"]
    assert told.startswith("unknown receivers ['Torino: roof']")


def test_what_is_not_json_is_told_too(service):
    """A form, or a file by itself."""
    reply = service.post("/locate", content=b"iq=1", headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert "JSON" in str(reply.json()["detail"])


@pytest.fixture(scope="module")
def other_path(onnx_path, tmp_path_factory):
    """A model that says something else: the small network with another last weight."""
    model = onnx.load(onnx_path)
    bias = next(held for held in model.graph.initializer if held.name.endswith("head.bias"))
    changed = numpy_helper.to_array(bias) + np.float32(0.25)
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    onnx.save(model, path)
    return path


def test_a_new_version_in_production_answers_without_a_restart(
    service, publish, onnx_path, other_path, one_mlflow_server, name
):
    """A promotion reaches those who ask, and a rollback does, while they go on asking."""
    assert publish(other_path, other_path) == "2"
    version_becomes(service, "2")
    answer = service.post("/locate", json=question(noise())).json()
    assert answer["model_version"] == "2"
    assert said_of(answer["position"]) == says(Predictor(other_path), noise())
    assert said_of(answer["position"]) != says(Predictor(onnx_path), noise())
    rollback(one_mlflow_server.uri, name)
    version_becomes(service, "1")


def test_the_challenger_is_asked_in_silence(
    service, publish, other_path, folder, one_mlflow_server, name
):
    """Two versions are compared on what callers ask, and callers see only one of them."""
    version = publish(other_path, other_path)
    rollback(one_mlflow_server.uri, name)
    until(lambda: ("heimdall_model_info", "challenger", "0123abcd", version) in counted(service))
    version_becomes(service, "1")
    answered = ("heimdall_challenger_requests_total", "answered")
    before = counted(service).get(answered, 0)
    answer = service.post("/locate", json=question(noise())).json()
    assert answer["model_version"] == "1"
    until(lambda: counted(service).get(answered, 0) > before)
    assert counted(service)["heimdall_answers_total", "challenger", version] >= 1
    told = [line for line in log_of(folder).splitlines() if "apart_m" in line][-1]
    told = json.loads(told.partition("INFO: ")[2])
    assert told["champion"]["latitude_deg"] == answer["position"]["latitude_deg"]
    assert told["challenger"]["version"] == version
    assert told["apart_m"] > 1000
    example = json.loads(re.search(r"```json\n(.*?)```", page("ab.md"), re.DOTALL)[1])
    assert (told.keys(), told["champion"].keys()) == (example.keys(), example["champion"].keys())


def test_nobody_waits_for_the_challenger(service, publish, other_path, one_mlflow_server, name):
    """It may be ten times as large; what it has no time for is counted."""
    version = publish(other_path, other_path)
    rollback(one_mlflow_server.uri, name)
    until(lambda: ("heimdall_model_info", "challenger", "0123abcd", version) in counted(service))
    version_becomes(service, "1")
    service.post("/hold/challenger")
    skipped = ("heimdall_challenger_requests_total", "skipped")
    before = counted(service).get(skipped, 0)
    answers = [service.post("/locate", json=question(noise())) for _ in range(3)]
    service.post("/release/challenger")
    assert {answer.status_code for answer in answers} == {200}
    assert counted(service)[skipped] - before >= 2


@pytest.fixture(scope="module")
def failing_path(onnx_path, tmp_path_factory):
    """A model that warms up on zeros, and then takes a level for the place of a value."""
    model = onnx.load(onnx_path)
    taken, said = model.graph.input[0].name, model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == said else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "values"))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Cast", [taken], ["whole"], to=onnx.TensorProto.INT64),
            onnx.helper.make_node("ReduceMin", ["whole"], ["place"], keepdims=0),
            onnx.helper.make_node("Gather", ["values", "place"], ["value"]),
            onnx.helper.make_node("Add", ["before", "value"], [said]),
        ]
    )
    (run_id,) = (one for one in model.metadata_props if one.key == "heimdall.run_id")
    run_id.value = "failing"
    path = tmp_path_factory.mktemp("failing") / "failing.onnx"
    onnx.save(model, path)
    return path


def test_a_challenger_that_fails_is_counted(
    folder, onnx_path, failing_path, artifact_store, tmp_path
):
    """Otherwise nobody learns that the two versions are not being compared."""
    variables = environment("http://127.0.0.1:1", artifact_store, folder, "")
    command = (*SERVE, onnx_path, f"--challenger={failing_path}")
    with serving(tmp_path, variables, command) as client:
        until(
            lambda: ("heimdall_model_info", "challenger", "failing", "failing") in counted(client)
        )
        assert client.post("/locate", json=question(noise())).status_code == 200
        until(lambda: counted(client).get(("heimdall_challenger_requests_total", "failed")) == 1)
    assert "challenger: version failing fails: [ONNXRuntimeError]" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)


def test_requests_that_wait_during_a_promotion_are_answered_by_the_version_that_took_them(
    service, publish, onnx_path, other_path, one_mlflow_server, name
):
    """Their features may be another version's, and the answer names one."""

    async def ask():
        async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:

            async def send():
                body = question(noise())
                asked.extend(asyncio.create_task(client.post("/locate", json=body)) for _ in "1234")
                await eventually(lambda: all_inside(client, asked))

            async def is_new():
                return (await client.get("/model")).json()["version"] == version

            asked = []
            await client.post("/hold/network")
            await send()
            version = await asyncio.to_thread(publish, other_path, other_path)
            await eventually(is_new)
            await send()
            await client.post("/release/network")
            return version, await asyncio.gather(*asked)

    version, replies = asyncio.run(ask())
    rollback(one_mlflow_server.uri, name)
    version_becomes(service, "1")
    answers = [reply.json() for reply in replies]
    assert [answer["model_version"] for answer in answers] == ["1"] * 4 + [version] * 4
    for path, ours in ((onnx_path, answers[:4]), (other_path, answers[4:])):
        for answer in ours:
            assert said_of(answer["position"]) == says(Predictor(path), noise())


def test_a_version_that_does_not_load_leaves_the_old_one(
    service, publish, onnx_path, folder, tmp_path, one_mlflow_server, name
):
    """Three in the morning, and somebody promoted half a file."""
    (tmp_path / "half.onnx").write_bytes(onnx_path.read_bytes()[:1000])
    publish(tmp_path / "half.onnx", onnx_path)
    until(lambda: "champion: version 1 stays: ONNX Runtime" in log_of(folder))
    assert counted(service)["heimdall_model_load_failures_total", "champion"] >= 1
    assert service.get("/model").json()["version"] == "1"
    assert service.post("/locate", json=question(noise())).status_code == 200
    rollback(one_mlflow_server.uri, name)
    assert {v.version for v in list_versions(one_mlflow_server.uri, name)} >= {"1", "2", "3"}


def test_without_anything_in_production_it_does_not_start(
    mlflow_server, artifact_store, folder, tmp_path
):
    """A service that starts and cannot answer passes for one that works."""
    variables = environment(mlflow_server.uri, artifact_store, folder, "nobodys-model")
    assert started(tmp_path, variables).wait() == 1
    assert "Registered Model with name=nobodys-model not found" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)


def test_the_extras_are_really_out_of_reach_there(folder, one_mlflow_server, artifact_store, name):
    """The tests above would not notice torch otherwise; this one sees that it is blocked."""
    variables = environment(one_mlflow_server.uri, artifact_store, folder, name)
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env=variables, capture_output=True
    )
    assert b"No module named 'torch'" in done.stderr


def test_a_registry_that_goes_away_leaves_the_service_answering(service, way, folder):
    """The registry is asked what to serve, not whether to."""
    registry, close = way
    close()
    until(lambda: f"version 1 stays: the registry at {registry} is out of" in log_of(folder))
    assert service.post("/locate", json=question(noise())).status_code == 200
