"""The feature cache in a bucket: read by many, and never in the way of training."""

import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pytest
from heimdall_data import DataError, HeimdallDataset
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.cache.entry import CacheStatus
from heimdall_data.catalogue.session import Measurement, Session
from heimdall_data.errors import StoreError
from heimdall_data.testing.fixtures import new_recording
from heimdall_data.testing.proxy import FaultyProxy
from heimdall_features import FeatureConfig

CONFIG = FeatureConfig(receivers=("A",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
NPY = new_recording(n_samples=12_500).payload
N_SESSIONS = 4


@pytest.fixture
def sessions(s3_settings, raw_iq_store):
    """Four sessions of one receiver, whose recordings are there."""
    raw_iq_store.put("a.npy", NPY)
    measurement = Measurement(
        station="A",
        station_deg=(45.0, 7.0),
        bucket=s3_settings.raw_iq_bucket,
        key="a.npy",
        format="npy",
        sample_rate_hz=12_500.0,
    )
    return [
        Session(
            id=str(number),
            session_name="",
            source_id="s",
            source_name="s",
            position_deg=(45.0, 7.0),
            start=datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC),
            measurements=(measurement,),
        )
        for number in range(N_SESSIONS)
    ]


@pytest.fixture
def address(s3_settings):
    """Where the shared cache of this test is."""
    return f"s3://{s3_settings.raw_iq_bucket}/features/v1"


@pytest.fixture
def prepare(sessions, s3_settings, address):
    """Fills a cache on disk as training does, or as `heimdall cache build` does."""

    def act(directory, *, s3=s3_settings, writes=False):
        shared = SharedCache(s3, address, writes=writes)
        dataset = HeimdallDataset(
            sessions, CONFIG, s3_settings, cache_dir=directory, shared_cache=shared
        )
        usable, exclusions = dataset.prepare(workers=1, progress=False)
        assert not exclusions
        return usable

    return act


@pytest.fixture
def proxy(s3_settings):
    """In front of the real object store."""
    parts = urlsplit(s3_settings.endpoint_url)
    with FaultyProxy(parts.hostname, parts.port) as between:
        yield between


def on_disk(directory):
    """The entries of a cache folder by name, with their bytes."""
    paths = directory.glob("??/*.features")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def in_bucket(store):
    """The entries of the shared cache by the same names, with their bytes."""
    prefix = "features/v1/"
    return {found.key.removeprefix(prefix): store.get(found.key) for found in store.list(prefix)}


def test_a_trainer_elsewhere_computes_nothing_that_was_built(prepare, raw_iq_store, tmp_path):
    """What took one machine a night must not take every other machine a night."""
    assert prepare(tmp_path / "here", writes=True).n_computed == N_SESSIONS
    built = on_disk(tmp_path / "here")
    assert len(built) == N_SESSIONS
    assert in_bucket(raw_iq_store) == built
    there = prepare(tmp_path / "there")
    assert there.n_computed == 0
    assert on_disk(tmp_path / "there") == built
    assert np.array_equal(there[0]["features"], prepare(tmp_path / "here")[0]["features"])


def test_training_writes_nothing_to_the_bucket(prepare, raw_iq_store, tmp_path):
    """A trainer's key to the bucket may be one that only reads."""
    assert prepare(tmp_path).n_computed == N_SESSIONS
    assert in_bucket(raw_iq_store) == {}


def test_a_build_stores_also_what_was_on_disk_before(prepare, raw_iq_store, tmp_path):
    """Whoever has trained already shares what that computed."""
    prepare(tmp_path)
    assert prepare(tmp_path, writes=True).n_computed == 0
    assert in_bucket(raw_iq_store) == on_disk(tmp_path)


def test_an_entry_is_stored_once(prepare, raw_iq_store, tmp_path):
    """Building again would else send the whole cache again."""
    prepare(tmp_path, writes=True)
    before = raw_iq_store.list("features")
    poisoned = before[0].key
    raw_iq_store.put(poisoned, bytes(before[0].size))
    prepare(tmp_path, writes=True)
    assert raw_iq_store.get(poisoned) == bytes(before[0].size)


@pytest.mark.parametrize("where", [3, 5, 40, 600, -1])
def test_a_flipped_bit_is_noticed_and_the_entry_computed_again(
    prepare, raw_iq_store, tmp_path, where
):
    """Buckets outlive disks, networks and the people who fill them."""
    prepare(tmp_path / "here", writes=True)
    built = on_disk(tmp_path / "here")
    key = raw_iq_store.list("features")[0].key
    broken = bytearray(raw_iq_store.get(key))
    broken[where] ^= 1
    raw_iq_store.put(key, bytes(broken))
    with pytest.warns(RuntimeWarning, match="is damaged") as told:
        assert prepare(tmp_path / "there").n_computed == 1
    assert len(told) == 1
    assert on_disk(tmp_path / "there") == built
    assert raw_iq_store.get(key) == bytes(broken)


def test_a_build_replaces_a_damaged_entry(prepare, raw_iq_store, tmp_path):
    """Else every trainer would compute it, for ever."""
    prepare(tmp_path / "here", writes=True)
    key = raw_iq_store.list("features")[0].key
    raw_iq_store.put(key, b"HFC1, but no more")
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert prepare(tmp_path / "there", writes=True).n_computed == 1
    assert in_bucket(raw_iq_store) == on_disk(tmp_path / "here")


@pytest.mark.parametrize("wrong", ["port", "secret_key", "bucket"])
def test_a_shared_cache_that_cannot_be_read_costs_one_warning(
    sessions, s3_settings, address, tmp_path, wrong
):
    """Training can do without, and a million sessions must not say so each."""
    settings = {
        "port": replace(s3_settings, endpoint_url="http://127.0.0.1:1"),
        "secret_key": replace(s3_settings, secret_key="hunter2"),
        "bucket": s3_settings,
    }[wrong]
    shared = SharedCache(settings, "s3://no-such-bucket/x" if wrong == "bucket" else address)
    dataset = HeimdallDataset(
        sessions, CONFIG, s3_settings, cache_dir=tmp_path, shared_cache=shared
    )
    with pytest.warns(RuntimeWarning, match="cannot be read") as told:
        usable, exclusions = dataset.prepare(workers=1, progress=False)
    assert len(told) == 1
    assert "hunter2" not in str(told[0].message)
    assert (usable.n_computed, exclusions) == (N_SESSIONS, [])
    assert len(on_disk(tmp_path)) == N_SESSIONS


def test_a_shared_cache_that_went_away_is_used_again_when_it_is_back(
    proxy, prepare, s3_settings, tmp_path
):
    """A restart of the store during a run of days must not cost the rest of the days."""
    prepare(tmp_path / "here", writes=True)
    keys = [name[3:].removesuffix(".features") for name in on_disk(tmp_path / "here")]
    address = f"s3://{s3_settings.raw_iq_bucket}/features/v1"
    settings = replace(s3_settings, endpoint_url=proxy.url, patience_s=0.2)
    shared = SharedCache(settings, address, rest_s=2.0)
    cache = FeatureCache(tmp_path / "there", shared=shared)
    assert cache.get(keys[0]) is not None
    proxy.down()
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert cache.get(keys[1]) is None
    proxy.up()
    assert cache.get(keys[1]) is None
    time.sleep(2.1)
    assert cache.get(keys[1]) is not None


@pytest.mark.parametrize("wrong", ["port", "secret_key"])
def test_a_build_that_cannot_write_says_so(prepare, s3_settings, tmp_path, wrong):
    """A night's work that is stored nowhere is a night lost."""
    change = {"port": {"endpoint_url": "http://127.0.0.1:1"}, "secret_key": {"secret_key": "x"}}
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        prepare(tmp_path, s3=replace(s3_settings, **change[wrong]), writes=True)


def test_a_full_disk_leaves_the_shared_cache_in_use(prepare, tmp_path):
    """Each use is a download then, which is still less than to compute."""
    prepare(tmp_path / "here", writes=True)
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        usable = prepare(tmp_path / "file")
    assert usable.n_computed == 0
    assert np.isfinite(usable[0]["features"]).all()


def test_a_trainer_without_a_disk_reads_the_bucket(sessions, s3_settings, prepare, tmp_path):
    """What a node of a cluster does."""
    here = prepare(tmp_path, writes=True)
    shared = SharedCache(s3_settings, f"s3://{s3_settings.raw_iq_bucket}/features/v1")
    usable, _ = HeimdallDataset(sessions, CONFIG, s3_settings, shared_cache=shared).prepare(
        progress=False
    )
    assert usable.n_computed == 0
    assert np.array_equal(usable[1]["features"], here[1]["features"])


def test_an_entry_of_another_shape_is_damaged(s3_settings, address):
    """Whatever a bucket holds, what comes out is the right shape or nothing."""
    shared = SharedCache(s3_settings, address, writes=True)
    shared.put("ab" * 32, {"features": np.zeros((2, 2), np.float32)})
    with pytest.warns(RuntimeWarning, match="not float32"):
        assert shared.get_into("ab" * 32, "features", np.empty((3, 3), np.float32)) is None


def test_status_counts_what_is_below_the_prefix(s3_settings, address, raw_iq_store):
    """Whoever pays for the bucket asks what is in it."""
    raw_iq_store.put("features/v10/ab/other.features", b"another cache")
    shared = SharedCache(s3_settings, address, writes=True)
    assert shared.status() == CacheStatus(0, 0)
    shared.put_bytes("ab" * 32, b"1234")
    assert shared.status() == CacheStatus(1, 4)


def test_a_copy_in_another_process_keeps_its_address_and_tells_no_secret(s3_settings, address):
    """DataLoader workers and Ray tasks work on copies; their logs are read by others."""
    shared = SharedCache(s3_settings, address, writes=True)
    copy = pickle.loads(pickle.dumps(FeatureCache("/nowhere", 5, shared))).shared
    assert (copy.s3, copy.address, copy.writes) == (s3_settings, address, True)
    assert s3_settings.secret_key not in repr(copy)


@pytest.mark.parametrize(
    "address",
    [
        "bucket/prefix",
        "https://bucket/prefix",
        "s3://",
        "s3://UPPER/x",
        "s3://me:hunter2@bucket/x",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/a\nb",
        "s3://bucket/a?versionId=1",
    ],
)
def test_what_is_no_address_is_refused_by_name(s3_settings, address):
    """A misspelt address must not become a prefix that nobody finds again."""
    with pytest.raises(DataError, match=r"s3://bucket/prefix; correct HEIMDALL_CACHE_S3") as error:
        SharedCache(s3_settings, address)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("s3://bucket", ""),
        ("s3://bucket/", ""),
        ("s3://bucket/a/b/", "a/b/"),
        ("s3://bucket/a=1", "a=1/"),
    ],
)
def test_an_address_is_a_bucket_and_perhaps_a_prefix(s3_settings, address, prefix):
    """With or without a slash at its end it is the same cache."""
    assert SharedCache(s3_settings, address).prefix == prefix
