"""`heimdall doctor` as an operator meets it, after processes were killed."""

import json
import subprocess
import sys

import pytest
from heimdall_trainer.connections import Connections
from mlflow import MlflowClient

KILLED = """
import os, sys
from pathlib import Path
from heimdall_export import MLflowTracker
from heimdall_export.temporary import TemporaryFolder
from heimdall_trainer.connections import Connections
there = Connections(state_dir=Path(sys.argv[1]))
run = MLflowTracker(
    there.tracking_uri(), artifact_root=there.artifact_root(), outbox=there.outbox()
)
print(run.run_id, TemporaryFolder("register").__enter__(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def temporary(tmp_path):
    """The environment's variable for temporary folders of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return {"TMPDIR": str(folder)}


@pytest.mark.slow
def test_what_a_killed_run_left_is_listed_and_mended(run_heimdall, tmp_path, temporary):
    """One command after a power cut, and nobody has to know where things are."""
    there = Connections(state_dir=tmp_path / "state")
    there.state_directory()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(there.state_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "", **temporary},
    )
    run_id, folder = done.stdout.split()
    listed = json.loads(run_heimdall("doctor", "--json", **temporary).stdout)
    assert [(one["kind"], one["name"], one["state"]) for one in listed] == [
        ("run", run_id, "mendable"),
        ("temporary folder", folder, "mendable"),
    ]
    assert f"mended: run {run_id} is RUNNING" in run_heimdall("doctor", "--fix", **temporary).stdout
    assert MlflowClient(there.tracking_uri()).get_run(run_id).info.status == "KILLED"
    said = run_heimdall("doctor", **temporary).stdout
    assert said.endswith("nothing was left behind\n")
    assert "no object store is configured" in said
