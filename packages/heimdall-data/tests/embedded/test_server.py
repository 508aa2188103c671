import subprocess
import sys

import psutil
import pytest
from heimdall_data.embedded import server as processes
from heimdall_data.embedded import state as ownership
from heimdall_data.embedded.state import exclusive
from heimdall_data.errors import StackError

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
    """No file remembers its number, so no file can be wrong about it."""
    assert processes.find(*program(tmp_path)).pid == sleeper.pid


def test_a_process_on_another_directory_is_not_ours(sleeper, tmp_path):
    """Two stacks on one machine must not stop each other."""
    assert processes.find(*program(tmp_path / "other")) is None


def test_a_process_that_ended_is_not_found_before_its_parent_noticed(sleeper, tmp_path):
    """A zombie has a number and serves nobody."""
    sleeper.kill()
    psutil.wait_procs([psutil.Process(sleeper.pid)], timeout=5)
    assert processes.find(*program(tmp_path)) is None


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["/opt/bin/postgres", "-D", "/state/postgres", "-c", "x=1"], True),
        (["postgres", "-D", "/state/postgres2"], False),
        (["vi", "-D", "/state/postgres"], False),
        (["postgres", "/state/postgres", "-D"], False),
        ([], False),
    ],
)
def test_a_command_line_matches_by_name_and_neighbouring_arguments(command, ours):
    """`grep` for our directory is not our server."""
    assert processes.matches(command, "postgres", ("-D", "/state/postgres")) is ours


def test_a_process_that_ignores_the_signal_is_killed(tmp_path):
    """Ctrl-C must not wait for ever for a server that hangs."""
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", stubborn], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        processes.stop(psutil.Process(process.pid), 15, patience_s=0.2)
        assert process.wait() == -9


def test_a_living_process_owns_until_it_ends(sleeper):
    """The watchdog acts on this, and on nothing else."""
    started_s = psutil.Process(sleeper.pid).create_time()
    token = f"{sleeper.pid} {started_s}"
    assert ownership.is_alive(token)
    sleeper.kill()
    sleeper.wait()
    assert not ownership.is_alive(token)


def test_another_process_under_the_same_number_is_not_the_owner(sleeper):
    """After a reboot the number on file belongs to somebody else."""
    earlier_s = psutil.Process(sleeper.pid).create_time() - 60
    assert not ownership.is_alive(f"{sleeper.pid} {earlier_s}")


@pytest.mark.parametrize("token", ["", "{}", "12", "x 1.0", "1 x", "1 2 3", "-4 1.0"])
def test_a_token_that_is_none_owns_nothing(token):
    """A half-written file of a killed process must not keep a stack for ever."""
    assert not ownership.is_alive(token)


def test_who_holds_the_lock_keeps_others_out(tmp_path):
    """Two starts at once on one directory would spoil it."""
    told = r"another process .* holds .*stack\.lock; wait for it"
    with (
        exclusive(tmp_path),
        pytest.raises(StackError, match=told),
        exclusive(tmp_path, patience_s=0.1),
    ):
        pytest.fail("both hold it")


def test_the_lock_is_free_again_afterwards(tmp_path):
    """The test above can fail."""
    for _ in range(2):
        with exclusive(tmp_path, patience_s=0.1):
            pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """The first thing a new user may get wrong, told in one line."""
    (tmp_path / "file").touch()
    told = r"state directory .*file.* is not writable .*HEIMDALL_STATE_DIR"
    with pytest.raises(StackError, match=told), exclusive(tmp_path / "file" / "state"):
        pytest.fail("it was written")
