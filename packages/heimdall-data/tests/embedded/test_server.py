"""Processes of servers, found and ended."""

import subprocess
import sys

import psutil
import pytest
from heimdall_data.embedded import server as processes
from hypothesis import given
from hypothesis import strategies as st

SLEEPER = "import sys, time; print('up', flush=True); time.sleep(60)"
PYTHON = psutil.Process().cmdline()[0].rpartition("/")[2]


@pytest.fixture
def sleeper(tmp_path):
    """A process with a command line of its own."""
    with subprocess.Popen(
        [PYTHON, "-c", SLEEPER, "-D", str(tmp_path)],
        executable=sys.executable,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def program(tmp_path):
    """How the sleeper on `tmp_path` is recognised."""
    return PYTHON, ("-D", str(tmp_path))


def test_a_process_is_found_by_what_it_was_started_with(sleeper, tmp_path):
    """No file can be wrong about its number, and two stacks must not stop each other."""
    assert processes.find(*program(tmp_path)).pid == sleeper.pid
    assert processes.find(*program(tmp_path / "other")) is None


def test_a_process_that_ended_is_not_found_before_its_parent_noticed(sleeper, tmp_path):
    """A zombie has a number and serves nobody."""
    sleeper.kill()
    psutil.wait_procs([psutil.Process(sleeper.pid)], timeout=5)
    assert processes.find(*program(tmp_path)) is None


words = st.lists(st.sampled_from(["-D", "/state/postgres", "-c", "x=1"]), max_size=6)


@given(st.sampled_from(["postgres", "/opt/bin/postgres", "vi", "/postgres/vi"]), words)
def test_a_command_line_matches_by_name_and_neighbouring_arguments(program, arguments):
    """`grep` for our directory is not our server."""
    ours = program.endswith("postgres") and "-D /state/postgres" in " ".join(arguments)
    command = [program, *arguments]
    assert processes.matches(command, "postgres", ("-D", "/state/postgres")) is ours
    assert not processes.matches([], "postgres", ("-D", "/state/postgres"))


def test_a_process_that_ignores_the_signal_is_killed(tmp_path):
    """Ctrl-C must not wait for ever for a server that hangs."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", stubborn], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        processes.stop(psutil.Process(process.pid), 15, patience_s=0.2)
        assert process.wait() == -9
