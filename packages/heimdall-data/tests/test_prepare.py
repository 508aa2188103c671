"""Preparing features: in order, and interrupted."""

import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from itertools import islice

from heimdall_data.dataset import HeimdallDataset
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.prepare import in_order
from heimdall_data.testing.fixtures import NPY, ONE_RECEIVER, one_receiver_session
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 20), st.integers(0, 10), st.integers(0, 20))
def test_results_come_in_order_and_what_is_not_wanted_is_cancelled(n, ahead, n_wanted):
    """A million sessions must not all be submitted at once, nor go on after an error."""
    submitted, cancelled = [], []
    handles = (submitted.append(number) or number for number in range(n))
    results = in_order(handles, str, cancelled.append, ahead)
    found = list(islice(results, n_wanted))
    results.close()
    assert found == [str(number) for number in range(min(n, n_wanted))]
    assert len(submitted) <= n_wanted + ahead
    assert cancelled == submitted[len(found) :]


def test_a_second_pass_asks_for_no_object_by_itself(
    s3_settings, raw_iq_store, tmp_path, monkeypatch
):
    """A request for each recording takes minutes where the store is far away."""
    sessions = []
    for number in range(20):
        raw_iq_store.put(f"{number}.npy", NPY)
        sessions.append(one_receiver_session(number, s3_settings.raw_iq_bucket, f"{number}.npy"))
    dataset = HeimdallDataset(sessions, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    assert dataset.prepare(progress=False)[0].n_computed == 20
    asked = []
    stat = ObjectStore.stat
    monkeypatch.setattr(ObjectStore, "stat", lambda *given: asked.append(given) or stat(*given))
    assert dataset.prepare(progress=False)[0].n_computed == 0
    assert asked == []

    monkeypatch.setattr(ObjectStore, "find", lambda *_: {})
    assert dataset.prepare(progress=False)[0].n_computed == 0
    assert len(asked) == 20


PREPARE = "import pickle, sys; pickle.load(sys.stdin.buffer).prepare(workers=2, progress=False)"


def test_an_interrupt_ends_at_once_and_leaves_no_half_written_file(
    s3_settings, raw_iq_store, tmp_path
):
    """Whoever presses Ctrl-C wants the prompt back, and a cache that can be trusted."""
    raw_iq_store.put("a.npy", NPY)
    some = one_receiver_session(0, s3_settings.raw_iq_bucket, "a.npy")
    sessions = [
        replace(some, id=str(n), start=some.start + timedelta(seconds=n)) for n in range(3000)
    ]
    dataset = HeimdallDataset(sessions, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", PREPARE], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        child.stdin.write(pickle.dumps(dataset))
        child.stdin.close()
        while not list(tmp_path.glob("??/*")):
            pass
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert list((tmp_path / "partial").iterdir()) == []
    assert len(list(tmp_path.glob("??/*"))) < len(sessions)
