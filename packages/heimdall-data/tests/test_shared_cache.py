"""The feature cache in a bucket: read by many, and never in the way of training."""

import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data import DataError, HeimdallDataset
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.cache.entry import CacheStatus
from heimdall_data.errors import StoreError
from heimdall_data.object_store.settings import S3Settings
from heimdall_data.testing.fixtures import ONE_RECEIVER
from hypothesis import given
from hypothesis import strategies as st

N_SESSIONS = 6


@pytest.fixture
def address(s3_settings):
    """Where the shared cache of this test is."""
    return f"s3://{s3_settings.raw_iq_bucket}/features/v1"


@pytest.fixture
def prepare(six, s3_settings, address):
    """Fills a cache on disk as training does, or as `heimdall cache build` does."""

    def act(directory, *, s3=s3_settings, writes=False):
        shared = SharedCache(s3, address, writes=writes)
        dataset = HeimdallDataset(
            six, ONE_RECEIVER, s3_settings, cache_dir=directory, shared_cache=shared
        )
        usable, exclusions = dataset.prepare(workers=1, progress=False)
        assert not exclusions
        return usable

    return act


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


@pytest.mark.parametrize("builds", [False, True])
def test_a_damaged_entry_is_computed_again_and_replaced_by_a_build(
    prepare, raw_iq_store, tmp_path, builds
):
    """Buckets outlive disks, networks and the people who fill them."""
    prepare(tmp_path / "here", writes=True)
    built = on_disk(tmp_path / "here")
    key = raw_iq_store.list("features")[0].key
    broken = bytearray(raw_iq_store.get(key))
    broken[600] ^= 1
    raw_iq_store.put(key, bytes(broken))
    with pytest.warns(RuntimeWarning, match="is damaged") as told:
        assert prepare(tmp_path / "there", writes=builds).n_computed == 1
    assert len(told) == 1
    assert on_disk(tmp_path / "there") == built
    assert (in_bucket(raw_iq_store) == built) == builds


@pytest.mark.parametrize("wrong", ["port", "secret_key", "bucket"])
def test_a_shared_cache_that_cannot_be_read_costs_one_warning(
    six, s3_settings, address, tmp_path, wrong
):
    """Training can do without, and a million sessions must not say so each."""
    settings = {
        "port": replace(s3_settings, endpoint_url="http://127.0.0.1:1"),
        "secret_key": replace(s3_settings, secret_key="hunter2"),
        "bucket": s3_settings,
    }[wrong]
    shared = SharedCache(settings, "s3://no-such-bucket/x" if wrong == "bucket" else address)
    dataset = HeimdallDataset(
        six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path, shared_cache=shared
    )
    with pytest.warns(RuntimeWarning, match="cannot be read") as told:
        usable, exclusions = dataset.prepare(workers=1, progress=False)
    assert len(told) == 1
    assert "hunter2" not in str(told[0].message)
    assert (usable.n_computed, exclusions) == (N_SESSIONS, [])
    assert len(on_disk(tmp_path)) == N_SESSIONS


def test_a_shared_cache_that_went_away_is_used_again_when_it_is_back(
    proxy, through, address, prepare, tmp_path
):
    """A restart of the store during a run of days must not cost the rest of the days."""
    prepare(tmp_path, writes=True)
    key = next(iter(on_disk(tmp_path)))[3:].removesuffix(".features")
    shared = SharedCache(replace(through, patience_s=0.2), address, rest_s=2.0)
    out = np.empty(ONE_RECEIVER.shape, np.float32)
    assert shared.get_into(key, "features", out) is not None
    proxy.down()
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert shared.get_into(key, "features", out) is None
    proxy.up()
    assert shared.get_into(key, "features", out) is None
    time.sleep(2.1)
    assert shared.get_into(key, "features", out) is not None


@pytest.mark.slow
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


def test_a_trainer_without_a_disk_reads_the_bucket(six, s3_settings, address, prepare, tmp_path):
    """What a node of a cluster does."""
    here = prepare(tmp_path, writes=True)
    shared = SharedCache(s3_settings, address)
    dataset = HeimdallDataset(six, ONE_RECEIVER, s3_settings, shared_cache=shared)
    usable, _ = dataset.prepare(progress=False)
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


names = st.from_regex(r"[A-Za-z0-9!_*'()=-][A-Za-z0-9!_.*'()=-]{0,9}", fullmatch=True)


@given(st.lists(names, max_size=3), st.sampled_from(["", "/"]))
def test_an_address_is_a_bucket_and_perhaps_a_prefix(parts, end):
    """With or without a slash at its end it is the same cache."""
    s3 = S3Settings(endpoint_url="http://host", access_key="a", secret_key="b")
    address = "/".join(["s3://bucket", *parts])
    assert SharedCache(s3, address + end).prefix == "".join(f"{part}/" for part in parts)
