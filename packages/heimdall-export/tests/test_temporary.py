"""Temporary folders, of processes that end and of those that are killed."""

import contextlib
import subprocess
import sys
import tempfile
import time

import pytest
from heimdall_export.atomic import whole_file
from heimdall_export.temporary import (
    TemporaryFolder,
    abandoned_folders,
    remove_abandoned,
    remove_unfinished,
)

HOLDER = """
import sys
from heimdall_export.temporary import TemporaryFolder
with TemporaryFolder("test") as folder:
    (folder / "model.onnx").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """Temporary folders of these tests alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def holder():
    """A process with a temporary folder, and the folder's path."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER], **pipes) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_the_folder_of_a_killed_process_goes_when_the_next_is_made(own_place, holder):
    """`kill -9` left 15 MB each time, and a disk is finite."""
    process, left = holder
    process.kill()
    process.wait()
    assert [str(path) for path in abandoned_folders()] == [left]
    with TemporaryFolder("next") as folder:
        assert [*own_place.iterdir()] == [folder]
    assert [*own_place.iterdir()] == []


def test_the_folder_of_a_process_that_lives_stays(own_place, holder):
    """Another training on the machine must not lose its files."""
    process, left = holder
    with TemporaryFolder("mine") as folder:
        assert remove_abandoned() == ()
        assert {str(path) for path in own_place.iterdir()} == {left, str(folder)}
    process.stdin.close()
    process.wait()
    assert [*own_place.iterdir()] == []


def test_a_child_that_has_the_lock_keeps_the_folder(own_place):
    """A worker may be killed while its training still writes a checkpoint."""
    code = """
import os, subprocess, sys
from heimdall_export.temporary import TemporaryFolder
temporary = TemporaryFolder("job")
print(temporary.__enter__(), flush=True)
subprocess.Popen(["cat"], pass_fds=[temporary.fileno()])
os.kill(os.getpid(), 9)
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as made:
        folder = made.stdout.readline().strip()
        made.wait()
        assert abandoned_folders() == ()
        made.stdin.close()
        while not (removed := remove_abandoned()):  # until the child has ended
            time.sleep(0.01)
        assert [str(path) for path in removed] == [folder]


def test_what_only_looks_like_one_of_ours_stays(own_place, tmp_path_factory):
    """Users unpack releases and keep backups there, and a link may lead anywhere."""
    with TemporaryFolder("mine") as folder:
        (mark,) = folder.iterdir()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").touch()
    (elsewhere / mark.name).touch()
    (own_place / "heimdall-register-abc123").mkdir()
    (own_place / "heimdall-0.3.0-source").mkdir()
    (own_place / "heimdall-link-abc123").symlink_to(elsewhere)
    (own_place / "heimdall-file-abc123").touch()
    assert remove_abandoned() == ()
    assert len([*own_place.iterdir()]) == 4
    assert (elsewhere / "precious").exists()


def test_what_is_being_written_can_be_removed_from_another_thread(own_place):
    """A service ends while a thread downloads; what is finished stays."""
    (own_place / "whole").touch()
    with (
        contextlib.suppress(FileNotFoundError),  # the file cannot be finished any more
        TemporaryFolder("mine") as folder,
        whole_file(own_place / "model.onnx") as part,
    ):
        (folder / "file").touch()
        part.touch()
        remove_unfinished()
    assert [path.name for path in own_place.iterdir()] == ["whole"]
