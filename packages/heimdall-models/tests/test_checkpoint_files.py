"""Folders of checkpoints: one training at a time, whatever became of the one before."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from heimdall_models.errors import TrainingError
from heimdall_models.training.checkpoint_files import LOCK, exclusive

HOLD = """
import os, sys
from heimdall_models.training.checkpoint_files import exclusive
with exclusive(__import__("pathlib").Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader of data, which outlives a killed training for a while
        os.execlp("sleep", "sleep", "300")
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = """
import os, sys
from heimdall_models.training.checkpoint_files import exclusive
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
os.umask(0o077)
with exclusive(__import__("pathlib").Path(sys.argv[1])):
    print("held")
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder, and has a child that goes on."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_second_training_of_a_folder_is_refused_and_names_the_first(tmp_path, holder):
    """Each would overwrite the checkpoints of the other, and both would be worth nothing."""
    told = rf"{tmp_path} is in use by a training, process {holder.pid} on .*--checkpoint_dir"
    with pytest.raises(TrainingError, match=told), exclusive(tmp_path):
        pass
    with exclusive(tmp_path / "another"):
        pass


@pytest.mark.slow
def test_a_killed_training_holds_nothing(tmp_path, holder):
    """Going on at once is what checkpoints are for; its loaders take seconds to notice."""
    holder.kill()
    holder.wait()
    with exclusive(tmp_path):
        pass


def test_a_folder_is_free_after_its_training(tmp_path):
    """A run may go on in the process that trained it."""
    for _ in range(2):
        with exclusive(tmp_path / "new" / "folder"):
            pass


def test_a_folder_in_which_nothing_can_be_made_needs_no_lock(tmp_path):
    """A checkpoint may be on a disk that is read-only; nobody overwrites it there."""
    (tmp_path / "file").touch()
    with exclusive(tmp_path / "file" / "below"):
        pass


@pytest.fixture
def shared():
    """A folder that every user may write, as a group's disk has; a test's own is private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def held_by_another(folder, user=65534):
    """What another process says that tries to hold a folder; as another user, if root runs this."""
    words = [sys.executable, "-c", TRY, str(folder), str(user)]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_folder_is_held_between_two_users(shared):
    """A group trains on one machine; the lock of the first must not be closed to the second."""
    with exclusive(shared):
        assert f"{shared} is in use by a training, process {os.getpid()} on" in held_by_another(
            shared
        )


@pytest.mark.slow
def test_a_folder_is_free_for_a_second_user_after_the_first(shared):
    """What is left of the first training holds nothing, whatever its user's umask."""
    assert held_by_another(shared, 65534) == held_by_another(shared, 65533) == "held\n"


@pytest.mark.slow
def test_a_lock_that_cannot_be_opened_is_told(shared):
    """Nobody knows whether its training goes on; to go on beside it could cost both runs."""
    (shared / LOCK).touch(0o400)
    said = held_by_another(shared)
    assert f"{shared / LOCK} cannot be opened (Permission denied)" in said
    assert "delete it" in said


def test_a_lock_is_no_way_to_another_file(shared):
    """Who may write the folder could have a training of root empty any file, by a link."""
    mine = shared / "mine"
    mine.write_text("kept")
    (shared / LOCK).symlink_to(mine)
    with pytest.raises(TrainingError, match=rf"{LOCK} cannot be opened"), exclusive(shared):
        pass
    assert mine.read_text() == "kept"


def test_training_goes_on_where_nothing_can_be_locked_and_says_so(tmp_path, monkeypatch, caplog):
    """Some network disks have no locks; a training there is better than none."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with caplog.at_level(logging.WARNING), exclusive(tmp_path):
        assert f"{tmp_path} cannot be locked (No locks available)" in caplog.text
