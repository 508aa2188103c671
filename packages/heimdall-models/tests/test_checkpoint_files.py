"""Folders of checkpoints: one training at a time, whatever became of the one before."""

import os
import signal
import subprocess
import sys

import pytest
from heimdall_models.errors import TrainingError
from heimdall_models.training.checkpoint_files import exclusive

HOLD = """
import os, sys
from heimdall_models.training.checkpoint_files import exclusive
with exclusive(__import__("pathlib").Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader of data, which outlives a killed training for a while
        os.execlp("sleep", "sleep", "300")
    print("held", flush=True)
    sys.stdin.read()
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


def test_a_second_training_of_a_folder_is_refused_and_names_the_first(tmp_path, holder):
    """Each would overwrite the checkpoints of the other, and both would be worth nothing."""
    told = rf"{tmp_path} is in use by a training, process {holder.pid} on .*--checkpoint_dir"
    with pytest.raises(TrainingError, match=told), exclusive(tmp_path):
        pass
    with exclusive(tmp_path / "another"):
        pass


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
