"""Faults of the object store and of what is in it: nothing lost, nothing invented.

A real server, with a proxy before it where the server does not misbehave on command.
"""

import logging
import os
import pickle
import signal
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pytest
from heimdall_data import HeimdallDataset, ObjectStore
from heimdall_data.errors import BucketUnusable, ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.session_features import FeatureSource
from heimdall_data.sessions import Measurement, Session
from heimdall_data.testing import new_recording
from heimdall_data.testing_proxy import FaultyProxy
from heimdall_features import FeatureConfig
from torch.utils.data import DataLoader

CONFIG = FeatureConfig(receivers=("A",), sample_rate_hz=12_500, n_fft=256, hop_length=128)
NPY = new_recording(n_samples=12_500).payload
OTHER_NPY = new_recording(n_samples=12_500, seed=1).payload
HOSTILE_KEYS = [
    "../other/secret",
    "a/../../other/secret",
    "/../other/secret",
    "..%2fother%2fsecret",
    "%2e%2e/other/secret",
    "a.npy?versionId=1",
    "a.npy#part",
    "a\x00.npy",
    "a\nb.npy",
    "\ud800",
    "/etc/passwd",
    "x" * 5000,
    "spaces and çà/日本.npy",
    "",
]


def a_session(number, bucket, key, form="npy"):
    """One receiver's recording, wherever the row says that it is."""
    measurement = Measurement(
        station="A",
        station_deg=(45.0, 7.0),
        bucket=bucket,
        key=key,
        format=form,
        sample_rate_hz=12_500.0,
    )
    return Session(
        id=str(number),
        session_name="",
        source_id="s",
        source_name="s",
        position_deg=(45.0, 7.0),
        start=datetime(2026, 1, 1, tzinfo=UTC),
        measurements=(measurement,),
    )


@pytest.fixture
def proxy(s3_settings):
    """Before the real server."""
    where = urlsplit(s3_settings.endpoint_url)
    with FaultyProxy(where.hostname, where.port) as before:
        yield before


@pytest.fixture
def through(s3_settings, proxy):
    """The settings of a client that goes through the proxy."""
    return replace(s3_settings, endpoint_url=proxy.url)


@pytest.fixture
def six(s3_settings, raw_iq_store):
    """Six sound sessions."""
    for number in range(6):
        raw_iq_store.put(f"{number}.npy", NPY)
    return [a_session(n, s3_settings.raw_iq_bucket, f"{n}.npy") for n in range(6)]


def test_a_store_that_is_down_at_start_is_given_up_without_waiting(proxy, through, caplog):
    """Its address is wrong or it does not run: patience would only hide that."""
    proxy.down()
    with pytest.raises(StoreError, match=f"{proxy.url} .*refused.*check HEIMDALL_S3"):
        ObjectStore(through, through.raw_iq_bucket).get("key")
    assert not caplog.records
    proxy.up()


def test_ten_seconds_without_a_store_in_mid_epoch_are_waited_out(proxy, through, six):
    """A night's training survives the store's restart, with every sample once and in order."""
    dataset = HeimdallDataset(six, CONFIG, through)
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
    assert "does not answer; it is waited for, at most 60 s" in told[0]
    assert "answers again after" in told[1]


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
    dataset = HeimdallDataset(six, CONFIG, replace(through, patience_s=3))
    dataset[0]
    proxy.down()
    with pytest.raises(StoreError, match=f"no usable answer from the object store {proxy.url}"):
        dataset[1]
    proxy.up()


def test_a_slow_link_that_lives_is_waited_for(proxy, through, raw_iq_store):
    """A station on the mountain reaches its store over a modem."""
    raw_iq_store.put("key", NPY[:30_000])
    proxy.bytes_per_s = 20_000
    settings = replace(through, stall_s=0.5, least_bytes_per_s=10_000)
    assert ObjectStore(settings, through.raw_iq_bucket).get("key") == NPY[:30_000]


def test_a_link_that_trickles_is_given_up(proxy, through, raw_iq_store):
    """A byte now and then keeps any read timeout from striking: the rate has to."""
    raw_iq_store.put("key", NPY)
    proxy.bytes_per_s = 2_000
    settings = replace(through, stall_s=0.5, least_bytes_per_s=10_000, patience_s=1)
    with pytest.raises(StoreError, match=r"\d+ of 100128 bytes came in 1 s"):
        ObjectStore(settings, through.raw_iq_bucket).get("key")


def test_a_store_that_takes_connections_and_is_silent_is_given_up(proxy, through):
    """The worst kind of down: nothing is refused."""
    proxy.silent = True
    settings = replace(through, stall_s=0.5, patience_s=1)
    with pytest.raises(StoreError, match="no usable answer"):
        ObjectStore(settings, through.raw_iq_bucket).get("key")
    proxy.silent = False


def test_a_connection_cut_in_the_middle_of_an_object_is_made_again(proxy, through, raw_iq_store):
    """A part of the object is never taken for the whole."""
    raw_iq_store.put("key", NPY)
    proxy.cut_after_bytes, proxy.cuts_left = 50_000, 2
    assert ObjectStore(through, through.raw_iq_bucket).get("key") == NPY
    assert proxy.cuts_left == 0


def test_an_object_that_never_comes_whole_is_excluded_and_not_remembered(
    proxy, through, six, tmp_path
):
    """Its server may be mended tomorrow, under the same version of the object."""
    settings = replace(through, patience_s=0.5)
    dataset = HeimdallDataset(six[:1], CONFIG, settings, cache_dir=tmp_path)
    proxy.cut_after_bytes, proxy.cuts_left = 50_000, 10**6
    _, exclusions = dataset.prepare(progress=False)
    assert "does not come whole (the connection ended in the middle" in exclusions[0].reason
    proxy.cuts_left = 0
    assert dataset.prepare(progress=False)[1] == []


def test_a_bit_flipped_on_the_way_is_noticed_and_the_object_fetched_again(
    proxy, through, raw_iq_store
):
    """Noise with one wrong bit is noise: only the entity tag, an MD5 sum, can tell."""
    raw_iq_store.put("key", NPY)
    proxy.flip_left = 1
    assert ObjectStore(through, through.raw_iq_bucket).get("key") == NPY
    assert proxy.flip_left == 0


def test_a_bit_that_is_flipped_each_time_makes_the_object_unreadable(proxy, through, raw_iq_store):
    """Nothing invented: samples that nobody received are not learned from."""
    raw_iq_store.put("key", NPY)
    proxy.flip_left = 10**6
    store = ObjectStore(replace(through, patience_s=0.3), through.raw_iq_bucket)
    with pytest.raises(ObjectUnreadable, match=r"MD5 sum .* its entity tag says"):
        store.get("key")


def test_a_busy_store_is_asked_again(proxy, through, raw_iq_store):
    """503 SlowDown is a request to come back later."""
    raw_iq_store.put("key", b"x")
    proxy.busy_left = 3
    assert ObjectStore(through, through.raw_iq_bucket).get("key") == b"x"
    assert proxy.busy_left == 0


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_credentials_end_the_run_at_the_first_request(proxy, through, six, wrong):
    """They stay wrong, and each session would say the same."""
    dataset = HeimdallDataset(six, CONFIG, replace(through, **{wrong: "hunter2"}))
    with pytest.raises(StoreError, match="refuses our credentials"):
        dataset[0]
    assert proxy.connections == 1


def test_an_unknown_host_name_ends_the_run_at_once(s3_settings, monkeypatch):
    """A name that does not resolve is misspelt."""
    monkeypatch.setattr("heimdall_data.s3_waiting.time.sleep", lambda _: pytest.fail("waited"))
    settings = replace(s3_settings, endpoint_url="http://no-such-host.invalid:9000")
    with pytest.raises(StoreError, match=r"no-such-host\.invalid"):
        ObjectStore(settings, settings.raw_iq_bucket).get("key")


def test_a_row_that_names_a_missing_bucket_excludes_its_session_alone(six, s3_settings, tmp_path):
    """One misspelt row in a million must not end the run."""
    lost = a_session("lost", "no-such-bucket", "0.npy")
    dataset = HeimdallDataset([*six, lost], CONFIG, s3_settings, cache_dir=tmp_path)
    usable, exclusions = dataset.prepare(progress=False)
    assert len(usable) == 6
    assert [found.session_id for found in exclusions] == ["lost"]
    assert "no bucket 'no-such-bucket'" in exclusions[0].reason


def test_the_configured_bucket_missing_ends_the_run(s3_settings):
    """Every session would be excluded for one mistake in the configuration."""
    settings = replace(s3_settings, raw_iq_bucket="no-such-bucket")
    dataset = HeimdallDataset([a_session(0, "no-such-bucket", "0.npy")], CONFIG, settings)
    with pytest.raises(BucketUnusable, match="no bucket 'no-such-bucket'"):
        dataset[0]


def test_missing_and_truncated_objects_exclude_their_sessions_with_the_reason(
    six, s3_settings, raw_iq_store
):
    """An upload that failed half-way is the commonest fault of all."""
    raw_iq_store.delete("1.npy")
    raw_iq_store.put("2.npy", NPY[:50_000])
    usable, exclusions = HeimdallDataset(six, CONFIG, s3_settings).prepare(progress=False)
    assert [session.id for session in usable.sessions] == ["0", "3", "4", "5"]
    reasons = {found.session_id: found.reason for found in exclusions}
    assert "no object '1.npy'" in reasons["1"]
    assert "2.npy" in reasons["2"]


def test_an_object_replaced_after_its_version_was_asked_is_cached_as_what_it_is(
    six, s3_settings, raw_iq_store, tmp_path
):
    """Features of the new object under the old version would come back with the old object."""
    dataset = HeimdallDataset(six, CONFIG, s3_settings, cache_dir=tmp_path)
    source = dataset._source
    old_key = source.key(six[0])
    raw_iq_store.put("0.npy", OTHER_NPY)
    new = source.features(six[0], old_key).features.copy()
    assert not source.cache.get(old_key)
    assert source.cache.get(source.key(six[0]))
    raw_iq_store.put("0.npy", NPY)
    assert not np.array_equal(source.features(six[0]).features, new)


def test_both_objects_of_a_sigmf_pair_are_in_the_cache_key(s3_settings, raw_iq_store):
    """The rate and the time stand in the metadata: correcting it changes the features."""
    session = a_session(0, s3_settings.raw_iq_bucket, "a.sigmf-data", "sigmf")
    source = FeatureSource(CONFIG, s3_settings, None)
    keys = [source.key(session)]
    for name in ("data", "meta", "meta", "data"):
        raw_iq_store.put(f"a.sigmf-{name}", f"{len(keys)}".encode())
        keys.append(source.key(session))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=range(len(HOSTILE_KEYS)))
def test_a_key_is_data_and_reaches_no_other_object(s3_settings, raw_iq_store, key):
    """What stands in the database must not lead out of the bucket, nor end the run."""
    raw_iq_store.put("a.npy", NPY)
    other = ObjectStore(s3_settings, "heimdall-models")
    other.put("secret", NPY)
    hostile = key.replace("other", "heimdall-models")
    dataset = HeimdallDataset(
        [a_session(0, s3_settings.raw_iq_bucket, hostile)], CONFIG, s3_settings
    )
    _, exclusions = dataset.prepare(progress=False)
    assert [found.session_id for found in exclusions] == ["0"]
    other.delete("secret")


def test_a_missing_object_is_not_waited_for(raw_iq_store, monkeypatch):
    """The answer is there: none."""
    monkeypatch.setattr("heimdall_data.s3_waiting.time.sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(ObjectMissing):
        raw_iq_store.get("key")


def test_a_worker_that_is_killed_ends_the_epoch_with_an_error(six, s3_settings):
    """The kernel kills workers that take too much memory; nobody must wait for them for ever."""
    dataset = HeimdallDataset(six * 50, CONFIG, s3_settings)
    batches = iter(DataLoader(dataset, num_workers=2, prefetch_factor=1))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*exited unexpectedly|killed"):
        list(batches)
