"""No command asks a host that the user did not name: `https_proxy` in conftest.py hears them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from heimdall_data.embedded import EmbeddedStack
from heimdall_trainer.cli.app import COMMANDS

pytestmark = pytest.mark.slow

ELSEWHERE = {"train", "demo", "ingest", "worker"}
"""Commands that other tests, which `https_proxy` hears too, run in processes of their own."""
MODEL = "models:/heimdall-localization-onnx/1"
SPLIT = ("--receivers", "Torino", "Genova", "Milano-Baggio", "--seed", "7")
SPLIT = (*SPLIT, "--val_split", "0.25", "--test_split", "0.25")
MOVES = (("promote", "1"), ("rollback",), ("delete", "1", "--yes"))
OURS = """
import json, sys
import numpy as np
from heimdall_trainer.cli.app import main
for status, *words in json.loads(sys.argv[2]):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code != status:
            sys.exit(f"{words}: {ended}")
from heimdall_export import Predictor
Predictor(sys.argv[1]).predict_features(np.full((1, 3, 128, 32), -60, np.float32))
print("all done", flush=True)
sys.stdin.read()
"""
THEIRS = """
import sys, onnxruntime
onnxruntime.InferenceSession(sys.argv[1])
sys.stdin.read()
"""


def test_the_proxy_of_all_tests_hears_who_is_asked(https_proxy):
    """The proxy can fail the tests: a request of a test's process is heard."""
    program = "import urllib.request; urllib.request.urlopen('https://vendor.example')"
    subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    heard = [line for line in https_proxy.asked if "vendor.example:443" in line]
    assert len(heard) == 1
    https_proxy.asked.remove(heard[0])


SEEN = """
import importlib, os, sys
class Finder:
    def find_spec(self, name, *more):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"), flush=True)
sys.meta_path.insert(0, Finder())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ["heimdall_models.module", "heimdall_trainer.pipeline"])
def test_onnx_runtime_is_silenced_whoever_loads_it_first(module):
    """Lightning does, by way of torchmetrics, in a training that has exported nothing yet."""
    command = [sys.executable, "-c", SEEN, module]
    assert "ORT_DISABLE_TELEMETRY" not in os.environ  # this test can fail
    assert subprocess.check_output(command, text=True).split() == ["1"]


def test_no_command_and_no_predictor_reports_on_its_user(finished, connections, listen, tmp_path):
    """ONNX Runtime did for us, to its makers, with an id that lasts; others may after an upgrade.

    It calls after a while. So ours go on until ONNX Runtime alone, which started later, was heard.
    """
    model = finished.summary.onnx_path
    stack = ("--state_dir", str(tmp_path / "stack"))
    commands = [
        (0, "evaluate", model, "--report", "page.html", *SPLIT),
        (0, "compare", model, MODEL, *SPLIT),
        (0, "models", "list"),
        (0, "models", "show", "1"),
        *((1, "models", *words, "--model_name", "nobodys") for words in MOVES),
        (0, "models", "benchmark", model, "--seconds", "0.01", "--batch_sizes", "1", *SPLIT),
        (0, "locate", "--model", model, "--session", finished.data.test.sessions[0].id),
        (1, "calibrate"),  # There are no clocks.
        (0, "cache", "status"),
        (0, "sessions", "list"),
        (0, "doctor"),
        *((0, "stack", do, *stack) for do in ("up", "status", "down")),
    ]
    every = {place.partition(":")[0] for place in COMMANDS}
    assert {words[1] for words in commands} | ELSEWHERE == every

    def started(program, proxy, caches, *arguments):
        variables = connections.environment(defaults=False) | proxy.variables(caches)
        return subprocess.Popen(
            [sys.executable, "-c", program, model, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | variables,
        )

    ours, theirs = listen(), listen()
    service = subprocess.Popen(
        [Path(sys.executable).with_name("heimdall-serve"), model, "--port=0"],
        env=os.environ | ours.variables(tmp_path / "ours"),
    )
    try:
        with started(OURS, ours, tmp_path / "ours", json.dumps(commands)) as process:
            while "all done" not in (line := process.stdout.readline()):
                assert line, "ended early"
            with started(THEIRS, theirs, tmp_path / "theirs") as other:
                deadline = time.monotonic() + 120
                while not theirs.asked:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                other.communicate()
            process.communicate()
    finally:
        service.terminate()
        assert service.wait() == 0
        EmbeddedStack(tmp_path / "stack").stop()
    assert theirs.asked[0].startswith("CONNECT ")
    assert len([*(tmp_path / "theirs").rglob("deviceid")]) == 1
    assert (ours.asked, [*(tmp_path / "ours").rglob("deviceid")]) == ([], [])
