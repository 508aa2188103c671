"""The feature cache in a bucket: read by many, and never in the way of training."""

import hashlib
import pickle
import signal
import subprocess
import sys
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data import DataError, HeimdallDataset
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.cache.entry import CacheStatus, encode
from heimdall_data.cache.pack import RECORD, PackIndex, encode_pack
from heimdall_data.errors import StoreError
from heimdall_data.object_store.settings import S3Settings
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.testing.entries import entries_in_bucket, entries_on_disk
from heimdall_data.testing.fixtures import ONE_RECEIVER
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

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


@pytest.fixture
def in_bucket(raw_iq_store):
    """The entries of the shared cache by key, with their bytes."""
    return lambda: entries_in_bucket(raw_iq_store, "features/v1/")


def test_a_trainer_elsewhere_computes_nothing_that_was_built(prepare, in_bucket, tmp_path):
    """What took one machine a night must not take every other machine a night."""
    assert prepare(tmp_path / "here", writes=True).n_computed == N_SESSIONS
    built = entries_on_disk(tmp_path / "here")
    assert len(built) == N_SESSIONS
    assert in_bucket() == built
    there = prepare(tmp_path / "there")
    assert there.n_computed == 0
    assert entries_on_disk(tmp_path / "there") == built
    assert np.array_equal(there[0]["features"], prepare(tmp_path / "here")[0]["features"])


def test_training_writes_nothing_to_the_bucket(prepare, in_bucket, tmp_path):
    """A trainer's key to the bucket may be one that only reads."""
    assert prepare(tmp_path).n_computed == N_SESSIONS
    assert in_bucket() == {}


def test_a_build_stores_also_what_was_on_disk_before(prepare, in_bucket, tmp_path):
    """Whoever has trained already shares what that computed."""
    prepare(tmp_path)
    assert prepare(tmp_path, writes=True).n_computed == 0
    assert in_bucket() == entries_on_disk(tmp_path)


def test_an_entry_is_stored_once(prepare, raw_iq_store, tmp_path):
    """Building again would else send the whole cache again."""
    prepare(tmp_path, writes=True)
    before = raw_iq_store.list("features")
    prepare(tmp_path, writes=True)
    assert raw_iq_store.list("features") == before


@pytest.mark.parametrize("builds", [False, True])
def test_a_damaged_entry_is_computed_again_and_replaced_by_a_build(
    prepare, raw_iq_store, in_bucket, tmp_path, builds
):
    """Buckets outlive disks, networks and the people who fill them."""
    prepare(tmp_path / "here", writes=True)
    built = entries_on_disk(tmp_path / "here")
    key = raw_iq_store.list("features")[0].key
    broken = bytearray(raw_iq_store.get(key))
    broken[-600] ^= 1
    raw_iq_store.put(key, bytes(broken))
    with pytest.warns(RuntimeWarning, match="is damaged") as told:
        assert prepare(tmp_path / "there", writes=builds).n_computed == 1
    assert len(told) == 1
    assert entries_on_disk(tmp_path / "there") == built
    assert (in_bucket() == built) == builds
    if builds:  # the newest pack counts
        assert prepare(tmp_path / "third").n_computed == 0


@pytest.mark.parametrize("wrong", ["port", "secret_key", "bucket"])
def test_a_shared_cache_that_cannot_be_read_costs_one_warning(
    six, s3_settings, address, tmp_path, wrong
):
    """Training can do without, and a million sessions must not say so each."""
    of_store = {
        "port": replace(s3_settings, endpoint_url="http://127.0.0.1:1"),
        "secret_key": replace(s3_settings, secret_key="hunter2"),
        "bucket": s3_settings,
    }[wrong]
    shared = SharedCache(of_store, "s3://no-such-bucket/x" if wrong == "bucket" else address)
    dataset = HeimdallDataset(
        six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path, shared_cache=shared
    )
    with pytest.warns(RuntimeWarning, match="cannot be read") as told:
        usable, exclusions = dataset.prepare(workers=1, progress=False)
    assert len(told) == 1
    assert "hunter2" not in str(told[0].message)
    assert (usable.n_computed, exclusions) == (N_SESSIONS, [])
    assert len(entries_on_disk(tmp_path)) == N_SESSIONS


def test_a_shared_cache_that_went_away_is_used_again_when_it_is_back(
    proxy, through, address, prepare, tmp_path
):
    """A restart of the store during a run of days must not cost the rest of the days."""
    prepare(tmp_path, writes=True)
    key = next(iter(entries_on_disk(tmp_path)))
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
    raw_iq_store.put("features/v1/ab/" + "ab" * 32 + ".features", b"1234")
    assert shared.status() == CacheStatus(1, 4)
    for key in ("cd" * 32, "ef" * 32):
        shared.put_bytes(key, b"123456")
    assert shared.status() == CacheStatus(1, 4)
    shared.flush()
    assert shared.status() == CacheStatus(3, 4 + 2 * (36 + 6))


def test_a_copy_in_another_process_keeps_its_address_and_tells_no_secret(s3_settings, address):
    """DataLoader workers and Ray tasks work on copies; their logs are read by others."""
    shared = SharedCache(s3_settings, address, writes=True, pack_bytes=9)
    copy = pickle.loads(pickle.dumps(FeatureCache("/nowhere", 5, shared))).shared
    assert (copy.s3, copy.address, copy.writes) == (s3_settings, address, True)
    assert copy.pack_bytes == 9
    assert s3_settings.secret_key not in repr(copy)


KEYS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(7)]
ENTRY = encode({"features": np.zeros((2, 2), np.float32)})


def read(shared, key):
    """The features of an entry, or None."""
    out = np.empty((2, 2), np.float32)
    return None if shared.get_into(key, "features", out) is None else out


def test_a_killed_build_loses_only_what_fills_no_pack(s3_settings, address):
    """A night's work must not hang on its last minute."""
    act = """if True:
        import os, pickle, signal, sys
        shared, keys, entry = pickle.load(sys.stdin.buffer)
        with shared.gathering():
            for key in keys:
                shared.put_bytes(key, entry)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    shared = SharedCache(s3_settings, address, writes=True, pack_bytes=3 * len(ENTRY))
    given = pickle.dumps((shared, KEYS, ENTRY))
    done = subprocess.run([sys.executable, "-c", act], input=given, check=False)
    assert done.returncode == -signal.SIGKILL
    reader = SharedCache(s3_settings, address)
    assert [read(reader, key) is not None for key in KEYS] == [True] * 6 + [False]
    assert reader.status().n_entries == 6


@pytest.mark.parametrize("answers", [True, False])
def test_an_interrupted_build_stores_what_it_can(proxy, s3_settings, through, address, answers):
    """Ctrl-C ends a build soon, whether or not the store is there."""
    shared = SharedCache(through, address, writes=True)

    def build():
        with shared.gathering():
            shared.put_bytes(KEYS[0], ENTRY)
            if not answers:
                proxy.down()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert (read(SharedCache(s3_settings, address), KEYS[0]) is not None) == answers


def test_entries_of_older_versions_are_read_beside_packs(
    prepare, raw_iq_store, in_bucket, tmp_path
):
    """They were an object each; nobody computes a night's work again for a new format."""
    prepare(tmp_path / "here", writes=True)
    (pack,) = raw_iq_store.list("features/v1/packs/")
    built = list(entries_on_disk(tmp_path / "here").items())
    for key, data in built[:3]:
        raw_iq_store.put(f"features/v1/{key[:2]}/{key}.features", data)
    raw_iq_store.delete(pack.key)
    shared, data = encode_pack(dict(built[2:]), 1)
    raw_iq_store.put(f"features/v1/packs/{shared.name}", data)
    assert prepare(tmp_path / "there").n_computed == 0
    assert entries_on_disk(tmp_path / "there") == dict(built)


def test_a_pack_is_read_at_once(prepare, tmp_path, monkeypatch):
    """A request for each entry takes longer than all that it brings."""
    prepare(tmp_path / "here", writes=True)
    spans = []
    get_span = ObjectStore.get_span

    def counted(*args):
        spans.append(args)
        return get_span(*args)

    monkeypatch.setattr(ObjectStore, "get_span", counted)
    usable = prepare(tmp_path / "there")
    assert len(spans) == 2  # its records, and its entries
    assert len([usable[number] for number in range(N_SESSIONS)]) == N_SESSIONS
    assert len(spans) == 2


@pytest.fixture
def packed(prepare, tmp_path):
    """A cache folder whose entries came from the bucket, all in one pack."""
    prepare(tmp_path / "here", writes=True)
    prepare(tmp_path / "packed")
    (path,) = (tmp_path / "packed" / "packs").iterdir()
    return path


def test_a_pack_on_disk_needs_no_bucket(six, s3_settings, packed):
    """It is as good as a file for each entry, which take longer to make; and it is counted so."""
    folder = packed.parents[1]
    found = HeimdallDataset(six, ONE_RECEIVER, s3_settings, cache_dir=folder).prepare(
        progress=False
    )
    assert found[0].n_computed == 0
    assert list(folder.glob("??/*")) == []
    cache = FeatureCache(folder)
    assert cache.status().n_entries == N_SESSIONS
    assert cache.clear().n_entries == N_SESSIONS
    assert cache.status() == CacheStatus(0, 0)


@pytest.mark.parametrize("fault", ["damaged", "evicted", "cut"])
def test_a_pack_on_disk_that_is_gone_or_damaged_is_fetched_again(prepare, packed, tmp_path, fault):
    """Disks fail, and other processes evict."""
    folder, whole = packed.parents[1], packed.read_bytes()
    before = entries_on_disk(folder)
    usable = prepare(folder)
    if fault == "evicted":
        packed.unlink()
        usable[0]
    else:
        packed.write_bytes(whole[:-1] if fault == "cut" else whole[:-1] + b"?")
        with pytest.warns(RuntimeWarning, match="is damaged"):
            [usable[number] for number in range(N_SESSIONS)]
    assert prepare(folder).n_computed == 0
    assert entries_on_disk(folder) == before


def test_packs_on_disk_count_for_its_limit(six, s3_settings, address, packed):
    """A disk that fills up ends more than a training."""
    cache = FeatureCache(packed.parents[1], 30_000)
    assert cache.status().n_bytes > 90_000
    key = next(iter(entries_on_disk(packed.parents[1])))
    cache.put(key, {"features": np.zeros(ONE_RECEIVER.shape, np.float32)})
    assert cache.status().n_bytes <= 30_000
    assert not packed.exists()


def test_of_a_pack_only_what_is_wanted_stays_on_disk(prepare, six, s3_settings, address, tmp_path):
    """Others' sessions would fill the disk."""
    prepare(tmp_path / "here", writes=True)
    dataset = HeimdallDataset(
        six[:1],
        ONE_RECEIVER,
        s3_settings,
        cache_dir=tmp_path / "there",
        shared_cache=SharedCache(s3_settings, address),
    )
    usable, _ = dataset.prepare(progress=False)
    assert (usable.n_computed, len(entries_on_disk(tmp_path / "there"))) == (0, 1)


def test_two_writers_at_once_lose_nothing(s3_settings, address):
    """Tasks of a cluster compute, fail and are repeated as they like."""

    def write(keys):
        shared = SharedCache(s3_settings, address, writes=True, pack_bytes=2 * len(ENTRY))
        with shared.gathering():
            for key in keys:
                shared.put_bytes(key, ENTRY)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [KEYS[:5], KEYS[2:]]))
    reader = SharedCache(s3_settings, address)
    assert all(read(reader, key) is not None for key in KEYS)


def test_packs_that_expire_are_missed_from_the_next_preparation_on(
    s3_settings, address, raw_iq_store
):
    """A build must store again what the bucket no longer has."""
    shared = SharedCache(s3_settings, address, writes=True)
    shared.put_bytes(KEYS[0], ENTRY)
    shared.flush()
    assert shared.holds(KEYS[0], len(ENTRY))
    raw_iq_store.delete(raw_iq_store.list("features/v1/packs/")[0].key)
    assert read(shared, KEYS[0]) is None
    shared.refresh()
    assert not shared.holds(KEYS[0], len(ENTRY))


def test_a_pack_is_newer_than_what_it_replaces_whatever_the_clock_says(
    s3_settings, address, raw_iq_store
):
    """Damage that stays the newest would be met for ever."""
    in_2200_ns = 7_258_118_400 * 10**9
    pack, data = encode_pack({KEYS[0]: ENTRY[:-1] + b"?"}, in_2200_ns)
    raw_iq_store.put(f"features/v1/packs/{pack.name}", data)
    shared = SharedCache(s3_settings, address, writes=True)
    with pytest.warns(RuntimeWarning, match="checksum"):
        assert read(shared, KEYS[0]) is None
    shared.put_bytes(KEYS[0], ENTRY)
    shared.flush()
    assert read(SharedCache(s3_settings, address), KEYS[0]) is not None


def test_a_pack_that_changes_after_its_records_were_read_is_damaged(
    s3_settings, address, raw_iq_store
):
    """Cut to nothing, it must not end a build."""
    shared = SharedCache(s3_settings, address, writes=True)
    shared.put_bytes(KEYS[0], ENTRY)
    shared.flush()
    raw_iq_store.put(raw_iq_store.list("features/v1/packs/")[0].key, b"")
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert read(shared, KEYS[0]) is None


keys = st.binary(min_size=32, max_size=32).map(bytes.hex) | st.sampled_from(KEYS)
contents = st.dictionaries(keys, st.binary(max_size=9), min_size=1, max_size=5)


@given(st.lists(contents, max_size=4), keys)
def test_of_entries_under_one_key_the_newest_is_found(written, key):
    """In one process that adds packs one by one, and in another that finds them all."""
    made = [encode_pack(entries, time_ns) for time_ns, entries in enumerate(written, 1)]
    packs = [(pack, pack.records(data[: pack.records_bytes])) for pack, data in made]
    at_once, one_by_one = PackIndex(), PackIndex()
    at_once.add(packs)
    for pack in packs:
        one_by_one.add([pack])
    expected = {k: data for entries in written for k, data in entries.items()}
    files = {pack.name: data for pack, data in made}
    for index in (at_once, one_by_one):
        found = {
            at.key: files[at.pack.name][at.offset : at.offset + at.n_bytes]
            for at in index.starting([""])
        }
        assert found == expected
        assert (index.find(key) is not None) == (key in expected)
        assert {at.key for at in index.starting([key[:32]])} == {
            k for k in expected if k.startswith(key[:32])
        }


@st.composite
def hostile_packs(draw):
    """A pack that was damaged, or that was never one, and its name."""
    entries = draw(st.dictionaries(keys, st.just(ENTRY) | st.binary(max_size=99), min_size=1))
    pack, data = encode_pack({KEYS[0]: ENTRY} | entries, 1)
    kind = draw(st.sampled_from(["cut", "flipped", "named", "any", "sizes"]))
    if kind == "cut":
        return pack.name, data[: draw(st.integers(0, len(data) - 1))]
    if kind == "flipped":
        at = draw(st.integers(0, len(data) - 1))
        return pack.name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    if kind == "named":
        n = draw(st.integers(0, 2**33))
        return f"{pack.name.rpartition('-')[0]}-{n:x}.pack", data
    if kind == "any":
        return draw(st.from_regex(r"[a-z0-9-]{1,9}\.pack", fullmatch=True)), draw(st.binary())
    sizes = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3))
    records = np.array([(bytes.fromhex(KEYS[0]), size) for size in sizes], RECORD).tobytes()
    digest = hashlib.sha256(records).hexdigest()[:32]
    return f"{1:016x}-{digest}-{len(sizes):x}.pack", records + draw(st.binary(max_size=99))


@settings(max_examples=50)
@given(hostile_packs())
def test_any_pack_is_an_answer_or_a_warning(stack, hostile):
    """Whoever may write to the bucket must not be able to end a training."""
    store = ObjectStore(stack.s3, "hostile")
    store.ensure_bucket()
    name, data = hostile
    prefix = uuid.uuid4().hex
    store.put(f"{prefix}/packs/{name}", data)
    shared = SharedCache(stack.s3, f"s3://hostile/{prefix}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [read(shared, key) for key in KEYS]
        for wanted in shared.packed(KEYS):
            assert all(entry == ENTRY for _, entry in shared.get_packed(wanted))
    assert all(each is None or not each.any() for each in found)
    assert len(told) <= 1
    assert shared.status().n_bytes == len(data)


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
