"""One number for all processes."""

import os
import pickle
import subprocess
import sys

from heimdall_data.dataset import SharedEpoch

ANSWER = """
import pickle, sys
epoch = pickle.load(sys.stdin.buffer)
print("ready", flush=True)
while epoch.value != 7:
    pass
epoch.value = 8
"""


def test_a_process_that_runs_already_sees_the_change():
    """Persistent workers are never told anything else."""
    epoch = SharedEpoch()
    child = subprocess.Popen(
        [sys.executable, "-c", ANSWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        child.stdin.write(pickle.dumps(epoch))
        child.stdin.close()
        child.stdout.readline()
        epoch.value = 7
    assert epoch.value == 8


def test_the_end_of_a_forked_copy_takes_nothing_away():
    """Workers end before their maker, after every epoch."""
    epoch = SharedEpoch()
    script = "import os, pickle, sys; pickle.load(sys.stdin.buffer)"
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(epoch), check=True)
    if (child := os.fork()) == 0:
        del epoch
        os._exit(0)
    os.waitpid(child, 0)
    copy = pickle.loads(pickle.dumps(epoch))
    epoch.value = 3
    assert copy.value == 3


def test_a_copy_that_outlives_its_maker_keeps_the_number():
    """A pickled dataset may be read back another day."""
    script = (
        "import pickle, sys; from heimdall_data.shared_epoch import SharedEpoch;"
        "e = SharedEpoch(); e.value = 5; sys.stdout.buffer.write(pickle.dumps(e))"
    )
    written = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    epoch = pickle.loads(written.stdout)
    assert epoch.value == 5
    epoch.value = 6
    assert epoch.value == 6
