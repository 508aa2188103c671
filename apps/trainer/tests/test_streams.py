"""Standard output and error that cannot be written: the work goes on, and the loss is told."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, warnings
from heimdall_trainer.streams import error_of, forgive
forgive()
for _ in range(3):
    print("x" * 100_000, flush=True)
    print("ü…", file=sys.stderr)
    warnings.warn("y" * 100_000)
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print("last", file=sys.__stdout__, flush=True)
told = {name: str(error_of(name)) for name in ("stdout", "stderr")}
os.write(opened, f"{told}".encode())
"""


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


def said_by(program_file, stdout, stderr=subprocess.DEVNULL, **variables):
    """What the program found of its streams, after it has ended with status 0."""
    words = [sys.executable, "-c", PROGRAM, str(program_file)]
    env = {**os.environ, **variables}
    subprocess.run(words, stdout=stdout, stderr=stderr, env=env, check=True)
    return program_file.read_text()


def test_a_stream_that_nobody_reads_ends_no_program(closed_pipe, tmp_path):
    """`heimdall train | head`: nothing is raised, not even as Python ends."""
    said = said_by(tmp_path / "said", closed_pipe, closed_pipe)
    assert said.count("Broken pipe") == 2


def test_a_stream_on_a_full_disk_ends_no_program(tmp_path):
    """A log file on the disk that another program has filled."""
    with Path("/dev/full").open("wb") as full:
        said = said_by(tmp_path / "said", full, full)
    assert said.count("No space left on device") == 2


def test_a_closed_stream_gives_its_number_to_no_file(tmp_path):
    """`heimdall train >&-`: what is printed would be in the middle of a checkpoint or database."""
    words = 'exec "$0" "$@" >&- 2>&-'
    subprocess.run(
        ["sh", "-c", words, sys.executable, "-c", PROGRAM, tmp_path / "said"], check=True
    )
    assert (tmp_path / "said").read_text() == "{'stdout': 'None', 'stderr': 'None'}"


def test_a_reader_who_is_slow_gets_all_of_it(tmp_path):
    """Programs that start others, such as Node, make pipes that do not block."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    read = []

    def drain():
        with os.fdopen(ours, "rb") as pipe:
            read.append(pipe.read())

    reader = threading.Thread(target=drain)
    reader.start()
    said = said_by(tmp_path / "said", theirs)
    os.close(theirs)
    reader.join()
    assert said == "{'stdout': 'None', 'stderr': 'None'}"
    assert len(read[0]) == 3 * 100_001 + len("last\n")


def test_what_is_not_to_be_buffered_is_not():
    """Images of containers set PYTHONUNBUFFERED: of what is killed the log is there."""
    program = (
        "import os; from heimdall_trainer.streams import forgive; forgive();"
        "print('epoch', end=' '); print(1, end=''); os._exit(0)"
    )
    words = [sys.executable, "-c", program]
    for variables, said in (
        ({"PYTHONUNBUFFERED": "1"}, b"epoch 1"),
        ({"PYTHONUNBUFFERED": ""}, b""),
    ):
        env = {**os.environ, **variables}
        assert subprocess.run(words, stdout=subprocess.PIPE, env=env, check=True).stdout == said


def test_what_an_encoding_lacks_is_escaped(tmp_path):
    """A log in ASCII ended a training at the three dots of its first line."""
    with (tmp_path / "error").open("wb") as file:
        said_by(tmp_path / "said", subprocess.DEVNULL, file, PYTHONIOENCODING="ascii:strict")
    assert (tmp_path / "error").read_text().startswith("\\xfc\\u2026\n")


@pytest.mark.parametrize("words", ["--help", "train --print_config", "cache status"])
def test_an_answer_that_cannot_be_written_is_a_failure(words, tmp_path):
    """A script that goes on with half a list does harm."""
    words = [sys.executable, "-m", "heimdall_trainer", *words.split()]
    env = {**os.environ, "HEIMDALL_STATE_DIR": str(tmp_path)}
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, env=env, text=True, check=False
        )
    said = "heimdall: standard output could not be written whole: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_a_reader_who_has_read_enough_is_no_failure(closed_pipe):
    """`heimdall train --print_config | head -3` in a script that stops at failures."""
    words = [sys.executable, "-m", "heimdall_trainer", "train", "--print_config"]
    ended = subprocess.run(words, stdout=closed_pipe, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
