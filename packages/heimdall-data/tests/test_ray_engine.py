"""`heimdall cache build --engine ray`, on a real cluster of two nodes on this machine.

The tests without a cluster come first: where one is connected, it is used.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from heimdall_data import HeimdallDataset
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.catalogue.session import Session
from heimdall_data.errors import EngineError
from heimdall_data.ray_engine import RayEngine, refuse_secrets_in_command
from heimdall_data.session_features import FeatureSource
from heimdall_data.testing.entries import entries_in_bucket, entries_on_disk
from heimdall_data.testing.fixtures import NPY, ONE_RECEIVER, one_receiver_session
from heimdall_data.testing.proxy import FaultyProxy

pytestmark = pytest.mark.slow

N_SESSIONS = 60
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture
def sessions(s3_settings, raw_iq_store):
    """Sixty sessions of one receiver; the last has no recording."""
    raw_iq_store.put("a.npy", NPY)
    keys = [*["a.npy"] * (N_SESSIONS - 1), "lost.npy"]
    some = [one_receiver_session(n, s3_settings.raw_iq_bucket, key) for n, key in enumerate(keys)]
    return [replace(s, start=s.start + timedelta(seconds=n)) for n, s in enumerate(some)]


@pytest.fixture
def shared(s3_settings):
    """The bucket that the cluster fills."""
    return SharedCache(s3_settings, f"s3://{s3_settings.raw_iq_bucket}/features", writes=True)


@pytest.fixture
def dataset(sessions, s3_settings, shared):
    """The sessions, whose features are wanted in the bucket."""
    return HeimdallDataset(sessions, ONE_RECEIVER, s3_settings, shared_cache=shared)


@pytest.fixture
def built(raw_iq_store):
    """The entries in the bucket by key."""
    return lambda: entries_in_bucket(raw_iq_store, "features/")


@pytest.fixture(scope="module")
def ray_folder():
    """Where Ray logs. Its sockets' names end at 107 bytes, and TMPDIR may be deep in a tree."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(ray_folder):
    """Two nodes of one core each, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(ray_folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        nodes.add_node(**NODE)
        ray.init(nodes.address, logging_level=logging.WARNING)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


@dataclass
class SlowBuild:
    """Work that cannot end before something happens to it."""

    source: FeatureSource
    sessions: list[Session]
    proxy: FaultyProxy

    @contextmanager
    def build(self, n_busy, attempts=10):
        """Begins; what happens within the block finds `n_busy` tasks half done."""
        self.proxy.bytes_per_s = 50_000
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(
                lambda: list(RayEngine(attempts=attempts)(self.source, self.sessions))
            )
            while len(busy_workers()) < n_busy:
                assert not found.done()
            yield found
            self.proxy.bytes_per_s = 1e9


@pytest.fixture
def slow(dataset, through, sessions, proxy):
    """The same work, of recordings that come at 50 kB/s."""
    dataset.source.reader.s3 = through
    return SlowBuild(dataset.source, sessions, proxy)


def busy_workers():
    """The processes that work at a task now."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ray::prepare_on_node" in command_of(child)]


def command_of(process):
    """Its command line; empty where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_without_ray_the_remedy_is_named(dataset, monkeypatch):
    """The extra is optional, and whoever lacks it must be told what to type."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install heimdall-data\[ray\]"):
        dataset.prepare(engine=RayEngine(), progress=False)


@pytest.mark.parametrize("directory", [True, False])
def test_without_a_bucket_that_is_written_to_nothing_begins(
    sessions, s3_settings, tmp_path, directory
):
    """Each node would compute into a folder of its own, which nobody reads."""
    dataset = HeimdallDataset(
        sessions, ONE_RECEIVER, s3_settings, cache_dir=tmp_path if directory else None
    )
    with pytest.raises(EngineError, match="set HEIMDALL_CACHE_S3 or --cache_s3"):
        dataset.prepare(engine=RayEngine(), progress=False)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://127.0.0.1:10001", "not of the form host:6379"),
        ("here", "not of the form host:6379"),
        ("no-such-host.invalid:6379", "no-such-host.invalid"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(dataset, address, reason):
    """Ray itself tries for many minutes, and says nothing."""
    with pytest.raises(EngineError, match=f"no connection to the Ray cluster.*{reason}"):
        dataset.prepare(engine=RayEngine(address=address), progress=False)


@pytest.mark.parametrize("word", ["hunter2", "--s3_secret_key=hunter2"])
def test_secrets_in_the_command_line_are_refused(monkeypatch, word):
    """Ray shows the command line of its drivers in its dashboard."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "heimdall_trainer", word])
    with pytest.raises(EngineError, match="in the environment") as error:
        refuse_secrets_in_command("other", "hunter2")
    assert "hunter2" not in str(error.value)
    refuse_secrets_in_command("hunter", "trainer")


def test_a_cluster_builds_what_threads_would_build(
    cluster, dataset, sessions, s3_settings, built, tmp_path, monkeypatch
):
    """The same bytes: who computed is no part of a feature."""
    usable, exclusions = dataset.prepare(engine=RayEngine(), progress=False)
    local = HeimdallDataset(sessions, ONE_RECEIVER, s3_settings, cache_dir=tmp_path / "here")
    there, excluded = local.prepare(progress=False)
    assert built() == entries_on_disk(tmp_path / "here")
    assert exclusions == excluded
    assert usable.n_computed == there.n_computed == N_SESSIONS
    assert usable.sessions == there.sessions == tuple(sessions[:-1])

    again, _ = dataset.prepare(engine=RayEngine(), progress=False)
    assert again.n_computed == 0

    readable = SharedCache(s3_settings, f"s3://{s3_settings.raw_iq_bucket}/features")
    empty = tmp_path / "trainer"
    trainer = HeimdallDataset(
        sessions, ONE_RECEIVER, s3_settings, cache_dir=empty, shared_cache=readable
    )
    monkeypatch.setattr("heimdall_data.session_reader.SessionReader.read", None)
    assert trainer.prepare(progress=False)[0].n_computed == 0
    assert entries_on_disk(empty) == entries_on_disk(tmp_path / "here")


def test_a_cluster_computes_a_damaged_entry_again(cluster, dataset, built, raw_iq_store):
    """Else every trainer would compute it, for ever."""
    dataset.prepare(engine=RayEngine(), progress=False)
    before = built()
    pack = raw_iq_store.list("features/packs/")[0].key
    raw_iq_store.put(pack, raw_iq_store.get(pack)[:-1] + b"?")
    assert dataset.prepare(engine=RayEngine(), progress=False)[0].n_computed == 1
    assert built() == before


def test_a_killed_worker_costs_nothing_but_time(cluster, slow, sessions, built):
    """Machines that cost little are taken away without a word."""
    with slow.build(n_busy=2) as found:
        for process in busy_workers():
            os.kill(process.pid, signal.SIGKILL)
    assert [one.session_id for one in found.result()] == [session.id for session in sessions]
    assert set(built()) == {one.key for one in found.result()}


def test_a_lost_node_costs_nothing_but_time(cluster, slow, sessions, built):
    """As a killed worker, and what was queued there goes elsewhere."""
    third = cluster.add_node(**NODE)
    with slow.build(n_busy=3) as found:
        cluster.remove_node(third, allow_graceful=False)
    assert [one.session_id for one in found.result()] == [session.id for session in sessions]
    assert len(built()) == N_SESSIONS


def test_a_node_that_cannot_reach_the_store_is_named(cluster, dataset, sessions):
    """A store on 127.0.0.1 is another one on each machine."""
    source = dataset.source
    source.reader.s3 = replace(source.reader.s3, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(EngineError, match=rf"node {os.uname().nodename} .*http://127\.0\.0\.1:1"):
        list(RayEngine()(source, sessions))


def test_a_node_with_another_version_is_named(cluster, dataset, sessions, monkeypatch, tmp_path):
    """Its features would be kept under keys that promise ours."""
    metadata = tmp_path / "heimdall_data-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: heimdall-data\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path)  # of this process, and not of the nodes
    with pytest.raises(EngineError, match=r"node .* has heimdall-data 0.*install heimdall-data 9"):
        list(RayEngine()(dataset.source, sessions))


def test_a_task_that_kills_each_worker_ends_the_run(cluster, slow):
    """For ever is no answer."""
    with slow.build(n_busy=2, attempts=1) as found:
        for process in busy_workers():
            os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"gave up on a task \(WorkerCrashedError"):
        found.result()


def test_ray_logs_no_secret(cluster, dataset, ray_folder, s3_settings):
    """Logs and dashboards are read by more people than may read the recordings."""
    dataset.prepare(engine=RayEngine(), progress=False)
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("worker" in path.name for path in logs)
    secret = s3_settings.secret_key.encode()
    assert [path.name for path in logs if secret in path.read_bytes()] == []
