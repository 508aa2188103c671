"""`heimdall demo` as a newcomer runs it, small: in a process of its own, on servers of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import psutil
import pytest
from heimdall_data import Session, split_sessions
from heimdall_trainer.cli.demo import FEWEST_TIMED

SMALL = ("--features", "mel", "--epochs", "2", "--seed", "5", "--sessions")
TIMED = ("--epochs", "1", "--seed", "5", "--sessions", str(FEWEST_TIMED))
"""The default kind of features, as small as it can be."""


def environment(home):
    """Variables of a user who has configured nothing."""
    configured = ("HEIMDALL_", "MLFLOW_", "AWS_")
    bare = {k: v for k, v in os.environ.items() if not k.startswith(configured)}
    return bare | {"HOME": str(home)}


@pytest.fixture
def demo(tmp_path):
    """Start a demo in a process group of its own, with only home and state directory set."""
    bare = environment(tmp_path) | {"HEIMDALL_STATE_DIR": str(tmp_path / "state")}
    begun = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "heimdall_trainer", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=bare,
            cwd=tmp_path,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_the_fewest_sessions_are_enough_with_every_seed():
    """120 were not with the default seed, which the demo said after it had simulated them."""
    sessions = [
        Session(
            id=f"session {k}",
            session_name="",
            source_id=f"source {k}",
            source_name="",
            position_deg=(45.0, 8.0),
            start=datetime(2026, 1, 1, tzinfo=UTC),
            measurements=(),
        )
        for k in range(FEWEST_TIMED * 9 // 10)  # A tenth cannot be used.
    ]
    for seed in range(100):
        assert len(split_sessions(sessions, "session", (0.4, 0.2, 0.4), seed).train) >= 50


def read_until(process, text):
    """What the process says up to the line with `text`."""
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return said
    pytest.fail(f"{text!r} was never said; instead: {''.join(said)}")


def left_running(state_dir):
    """Processes that mention the state directory, once they had time to end."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        every = [p.info["cmdline"] or () for p in psutil.process_iter(["cmdline"])]
        found = [words for words in every if any(str(state_dir) in word for word in words)]
        if not found:
            return []
        time.sleep(0.2)
    return found


def half_written(state_dir):
    """Files that are named as being written."""
    return [p for p in state_dir.rglob("*") if p.suffix in {".part", ".tmp", ".new"}]


@pytest.mark.slow
def test_the_demo_goes_from_nothing_to_a_report_and_reuses_it_the_second_time(demo, tmp_path):
    """The first line of the README is the first thing that anybody tries."""
    first = demo(*TIMED, "--summary", "first.json")
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 0, said
    assert f"simulating {FEWEST_TIMED} sessions" in said
    assert "epoch   1/1" in said
    assert "power-weighted" in said
    summary = json.loads((tmp_path / "first.json").read_text())
    assert summary["model_version"] == "1"
    assert summary["metrics"]["test/error_m_median"] < 1000
    state = tmp_path / "state" / "demo" / "seed-5-timing"
    assert (state / re.search(r"^  report  (\S+)$", said, re.MULTILINE)[1]).is_file()
    assert re.search(r"^Half of \d+ unseen transmitters are within [\d.]+ m of where", said, re.M)
    assert re.search(r"damaged\s+or\s+removed\s+the\s+files\s+of\s+\d", said)
    shown = said.replace(f"{sys.executable} -m heimdall_trainer", "~/heimdall/.venv/bin/heimdall")
    printed = [line for line in shown.splitlines() if not line.startswith("warning: ")]
    assert [line for line in printed if len(line) > 80] == []
    assert not left_running(tmp_path)
    assert not half_written(tmp_path)

    follow(said, tmp_path)

    second = demo(*TIMED, "--summary", "second.json")
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    assert "simulating" not in said
    again = json.loads((tmp_path / "second.json").read_text())
    assert again["model_version"] == "2"
    assert again["metrics"] == summary["metrics"]
    assert not left_running(tmp_path)


def follow(said, tmp_path):
    """What the demo advises next works as printed, in a terminal of its own."""
    script = said.partition("\nNext:\n")[2]
    down = script.splitlines()[-1].replace(" stack up ", " stack down ")
    done = subprocess.run(
        ["sh", "-ec", f"{script}\n{down}"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    truth = map(float, re.search(r"it is at ([\d.]+), ([\d.]+)$", script, re.MULTILINE).groups())
    found = map(float, re.search(r"([\d.]+), ([\d.]+)", done.stdout).groups())
    assert [*found] == pytest.approx([*truth], abs=0.02)
    assert "version    1  staging" in done.stdout
    assert done.stdout.endswith("stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("starting Postgres", signal.SIGINT, 130),
        ("simulating", signal.SIGINT, 130),
        ("simulating", signal.SIGHUP, 129),
        ("epoch   1/2", signal.SIGINT, 130),
        ("epoch   1/2", signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_demo_leaves_no_process_and_no_half_written_file(
    demo, tmp_path, moment, number, status
):
    """Ctrl-C ends what takes minutes, and so do lost connections and service managers."""
    process = demo(*SMALL, "40")
    read_until(process, moment)
    if number == signal.SIGTERM:
        process.terminate()
    else:  # As a terminal, to all processes of the group.
        os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert ("heimdall: interrupted" in said) == (status == 130)
    assert "Traceback" not in said
    assert "--resume" not in said
    assert not left_running(tmp_path)
    assert not half_written(tmp_path)


@pytest.mark.slow
def test_a_second_demo_at_once_is_refused_and_the_first_goes_on(demo):
    """The first to end would stop the servers under the other."""
    first = demo(*SMALL, "40")
    read_until(first, "simulating")
    second = demo(*SMALL, "40")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 1, said
    assert "another demo runs in" in said
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 0, said


@pytest.mark.slow
def test_a_killed_demo_leaves_no_server_and_the_next_one_goes_on(demo, tmp_path):
    """`kill -9` and power cuts happen; nobody should have to hunt processes after them."""
    process = demo(*SMALL, "40")
    read_until(process, "data …")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert not left_running(tmp_path)
    again = demo(*SMALL, "30")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert "simulating" not in said
    sessions = re.search(r"^sessions +(\d+) +(\d+) +(\d+)$", said, re.MULTILINE)
    assert 20 < sum(map(int, sessions.groups())) <= 30
    assert f"percentiles of so few sessions ({sessions[3]}) say little" in said
