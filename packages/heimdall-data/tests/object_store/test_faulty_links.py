"""A bad way to the object store: slow, silent, cut, flipped, busy, or closed to us.

A proxy before a real server misbehaves on command.
"""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import minio.time
import pytest
from heimdall_data import HeimdallDataset, ObjectStore
from heimdall_data.errors import ObjectMissing, ObjectUnreadable, StoreError
from heimdall_data.object_store.store import MOST_BROKEN
from heimdall_data.testing.fixtures import NPY, ONE_RECEIVER, one_receiver_session

pytestmark = pytest.mark.slow


class NeverWaited(threading.Event):
    """Fails the test that waits for it."""

    def wait(self, timeout=None):
        """Fail."""
        pytest.fail(f"waited {timeout} s")


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
    with pytest.raises(StoreError, match=r"\d+ of 100128 bytes"):
        ObjectStore(settings, through.raw_iq_bucket).get("key")


def test_a_store_that_takes_connections_and_is_silent_is_given_up(proxy, through):
    """The worst kind of down: nothing is refused."""
    proxy.silent = True
    settings = replace(through, stall_s=0.5, patience_s=1)
    with pytest.raises(StoreError, match=through.endpoint_url):
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
    dataset = HeimdallDataset(six[:1], ONE_RECEIVER, settings, cache_dir=tmp_path)
    proxy.cut_after_bytes, proxy.cuts_left = 50_000, 10**6
    _, exclusions = dataset.prepare(progress=False)
    assert "store it again" in exclusions[0].reason
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
    with pytest.raises(ObjectUnreadable, match="MD5 sum"):
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
    dataset = HeimdallDataset(six, ONE_RECEIVER, replace(through, **{wrong: "hunter2"}))
    with pytest.raises(StoreError, match="HEIMDALL_S3_SECRET_KEY"):
        dataset[0]
    assert proxy.connections == 1


def test_an_unknown_host_name_ends_the_run_at_once(s3_settings):
    """A name that does not resolve is misspelt."""
    settings = replace(s3_settings, endpoint_url="http://no-such-host.invalid:9000")
    with pytest.raises(StoreError, match=r"no-such-host\.invalid"):
        ObjectStore(settings, settings.raw_iq_bucket, interrupted=NeverWaited()).get("key")


def test_a_missing_object_is_not_waited_for(raw_iq_store):
    """The answer is there: none."""
    store = ObjectStore(raw_iq_store.settings, raw_iq_store.bucket, interrupted=NeverWaited())
    with pytest.raises(ObjectMissing):
        store.get("key")


def test_a_store_that_damages_every_object_is_told_at_once_and_given_up_after_a_few(
    proxy, through, s3_settings, raw_iq_store, caplog
):
    """Each object took 15 s in silence, and the run ended with every session excluded."""
    for number in range(40):
        raw_iq_store.put(f"{number}.npy", NPY)
    sessions = [one_receiver_session(n, s3_settings.raw_iq_bucket, f"{n}.npy") for n in range(40)]
    proxy.flip_left = 10**6
    dataset = HeimdallDataset(sessions, ONE_RECEIVER, through)
    with pytest.raises(StoreError, match=rf"{MOST_BROKEN} objects in a row .*{proxy.url}.*MD5"):
        dataset.prepare(workers=1, progress=False)
    told = [record.getMessage() for record in caplog.records if "arrive" in record.msg]
    assert "'0.npy'" in told[0] or "'1.npy'" in told[0]
    assert len(told) <= MOST_BROKEN + 2  # one more for each thread


def test_damaged_objects_among_whole_ones_exclude_themselves_alone(proxy, through, raw_iq_store):
    """A disk that rots is no reason to end a night's run."""
    raw_iq_store.put("key", NPY)
    store = ObjectStore(replace(through, patience_s=0.01), through.raw_iq_bucket)
    for _ in range(MOST_BROKEN):
        for _ in range(MOST_BROKEN - 1):
            proxy.flip_left = 10**6
            with pytest.raises(ObjectUnreadable):
                store.get("key")
        proxy.flip_left = 0
        assert store.get("key") == NPY


def test_a_wrong_clock_is_told_from_wrong_credentials(raw_iq_store, monkeypatch):
    """A laptop that slept says that the password is wrong, and nobody looks at its clock."""
    raw_iq_store.put("key", b"x")
    hour = timedelta(hours=1)
    of_client, of_machine = minio.time.utcnow, time.time
    monkeypatch.setattr("minio.time.utcnow", lambda: of_client() + hour)
    monkeypatch.setattr("time.time", lambda: of_machine() + hour.total_seconds())
    for ask in (lambda: raw_iq_store.get("key"), raw_iq_store.bucket_exists):
        with pytest.raises(StoreError, match=r"clock says .*:.*:.* GMT, and the store's .* GMT"):
            ask()
