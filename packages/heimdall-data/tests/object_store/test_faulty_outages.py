"""An object store that is away, and workers that die: waited for, or a clear end.

A real server, with a proxy before it where the server does not misbehave on command.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data import HeimdallDataset, ObjectStore
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.errors import StoreError
from heimdall_data.testing.fixtures import NPY, ONE_RECEIVER, one_receiver_session
from torch.utils.data import DataLoader

pytestmark = pytest.mark.slow


def test_a_store_that_is_down_at_start_is_given_up_without_waiting(proxy, through, caplog):
    """Its address is wrong or it does not run: patience would only hide that."""
    proxy.down()
    with pytest.raises(StoreError, match=f"{proxy.url} .*refused.*check HEIMDALL_S3"):
        ObjectStore(through, through.raw_iq_bucket).get("key")
    assert not caplog.records
    proxy.up()


def test_ten_seconds_without_a_store_in_mid_epoch_are_waited_out(proxy, through, six):
    """A night's training survives the store's restart, with every sample once and in order."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, through)
    # A forked worker would hold the proxy's own socket, and keep its port from being free.
    batches = iter(
        DataLoader(dataset, num_workers=1, prefetch_factor=1, multiprocessing_context="spawn")
    )
    seen = [next(batches)["session_id"]]
    outage = proxy.down_for(10)
    seen += [batch["session_id"] for batch in batches]
    outage.join()
    assert seen == [[str(n)] for n in range(6)]


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    proxy, through, raw_iq_store, caplog
):
    """Whoever reads the log wants to know why nothing moves."""
    raw_iq_store.put("key", b"x")
    store = ObjectStore(through, through.raw_iq_bucket)
    store.get("key")
    outage = proxy.down_for(2)
    with caplog.at_level(logging.WARNING):
        assert store.get("key") == b"x"
    outage.join()
    told = [record.getMessage() for record in caplog.records if "heimdall" in record.name]
    assert len(told) == 2
    assert all(proxy.url in line for line in told)


def test_a_worker_that_starts_in_an_outage_waits_if_its_parent_had_an_answer(
    proxy, through, raw_iq_store
):
    """Workers are new in each epoch."""
    raw_iq_store.put("key", b"x")
    parent = ObjectStore(through, through.raw_iq_bucket)
    parent.get("key")
    outage = proxy.down_for(3)
    assert pickle.loads(pickle.dumps(parent)).get("key") == b"x"
    outage.join()


def test_a_store_that_is_down_for_good_ends_the_run_in_one_line(proxy, through, six):
    """After its patience, and naming the store."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, replace(through, patience_s=3))
    dataset[0]
    proxy.down()
    with pytest.raises(StoreError, match=proxy.url):
        dataset[1]
    proxy.up()


def test_a_worker_that_is_killed_ends_the_epoch_with_an_error(six, s3_settings):
    """The kernel kills workers that take too much memory; nobody must wait for them for ever."""
    dataset = HeimdallDataset(six * 50, ONE_RECEIVER, s3_settings)
    batches = iter(DataLoader(dataset, num_workers=2, prefetch_factor=1))
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*exited unexpectedly|killed"):
        list(batches)


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory):
    """Servers that may be killed without harm to other tests."""
    with EmbeddedStack(tmp_path_factory.mktemp("outage")) as stack:
        store = ObjectStore(stack.s3, stack.s3.raw_iq_bucket)
        store.ensure_bucket()
        for number in range(6):
            store.put(f"{number}.npy", NPY)
        yield stack


def killed_and_back(stack, after_s):
    """Kill the real S3 server; a thread that starts it again and returns when it answers."""
    (number,) = (server.pid for server in stack.status().servers if server.name == "S3")
    os.kill(number, signal.SIGKILL)
    back = threading.Timer(after_s, stack.start)
    back.start()
    return back


@pytest.fixture
def own_dataset(own_stack):
    """Six sessions in the store that may be killed."""
    bucket = own_stack.s3.raw_iq_bucket
    sessions = [one_receiver_session(n, bucket, f"{n}.npy") for n in range(6)]
    return HeimdallDataset(sessions, ONE_RECEIVER, own_stack.s3)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_real_server_killed_and_started_again_in_mid_epoch_costs_no_sample(
    own_stack, own_dataset, context
):
    """Its sockets close as they do in life, and it answers oddly until it knows its objects."""
    batches = iter(
        DataLoader(own_dataset, num_workers=1, prefetch_factor=1, multiprocessing_context=context)
    )
    seen = [next(batches)]
    back = killed_and_back(own_stack, 3)
    seen += list(batches)
    back.join()
    assert [batch["session_id"] for batch in seen] == [[str(n)] for n in range(6)]
    expected = own_dataset[0]["features"]
    assert all(np.array_equal(batch["features"][0], expected) for batch in seen)


def test_workers_that_are_forked_in_an_outage_wait_for_its_end(own_stack, own_dataset):
    """Each epoch forks new ones, which know what their parent knew of the store."""
    own_dataset[0]
    back = killed_and_back(own_stack, 3)
    batches = DataLoader(own_dataset, num_workers=2, batch_size=3, multiprocessing_context="fork")
    seen = [id_ for batch in batches for id_ in batch["session_id"]]
    back.join()
    assert seen == [str(n) for n in range(6)]


PREPARE = "import pickle, sys; pickle.load(sys.stdin.buffer).prepare(workers=2, progress=False)"
BATCH = "import pickle, sys; d = pickle.load(sys.stdin.buffer); d.__getitems__(range(len(d)))"


@pytest.mark.parametrize("program", [PREPARE, BATCH], ids=["prepare", "batch"])
def test_ctrl_c_in_an_outage_ends_the_waiting(proxy, through, six, program):
    """Whoever looks at a run that hangs wants the prompt back, and not in ten minutes."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, replace(through, patience_s=600))
    dataset[0]
    proxy.down()
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        child.stdin.write(pickle.dumps(dataset))
        child.stdin.flush()
        while b"does not answer" not in (line := child.stderr.readline()):
            assert line, "it ended without a warning"
        child.send_signal(signal.SIGINT)
        try:
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode != 0
    assert b"KeyboardInterrupt" in said
    proxy.up()


def test_what_was_interrupted_waits_again_the_next_time(proxy, through, six):
    """A notebook goes on with the same dataset, whose store fails once more."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, replace(through, patience_s=1))
    dataset[0]
    proxy.down()
    with pytest.raises(StoreError):
        dataset.prepare(progress=False)
    proxy.up()
    proxy.busy_left = 1
    assert len(dataset.prepare(progress=False)[0]) == 6
    assert proxy.busy_left == 0
