"""What is in the object store is not what the catalogue says: left out, and nothing invented."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data import HeimdallDataset, ObjectStore
from heimdall_data.cache.disk import FeatureCache
from heimdall_data.errors import BucketUnusable
from heimdall_data.recordings.decode import decode
from heimdall_data.session_features import FeatureSource
from heimdall_data.testing.fixtures import (
    NPY,
    ONE_RECEIVER,
    OTHER_NPY,
    new_recording,
    one_receiver_session,
)
from heimdall_features.outside_json import LARGEST_BYTES

IMPOSSIBLE_KEYS = [
    "../other/secret",
    "a/../../other/secret",
    "/../other/secret",
    "a\x00.npy",
    "a\nb.npy",
    "\ud800",
    "x" * 5000,
    "",
]
ODD_KEYS = [
    "..%2fother%2fsecret",
    "%2e%2e/other/secret",
    "a.npy?versionId=1",
    "a.npy#part",
    "/etc/passwd",
    "spaces and çà/日本.npy",
]
HOSTILE = [(key, "invalid location") for key in IMPOSSIBLE_KEYS]
HOSTILE += [(key, "no object '") for key in ODD_KEYS]


@pytest.mark.parametrize("bucket", ["no-such-bucket", "../Etc!"])
def test_a_row_that_names_a_missing_bucket_excludes_its_session_alone(
    six, s3_settings, tmp_path, bucket
):
    """One misspelt row in a million must not end the run."""
    lost = one_receiver_session("lost", bucket, "0.npy")
    dataset = HeimdallDataset([*six, lost], ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    usable, exclusions = dataset.prepare(progress=False)
    assert len(usable) == 6
    assert [found.session_id for found in exclusions] == ["lost"]
    assert f"bucket {bucket!r}" in exclusions[0].reason


def test_the_configured_bucket_missing_ends_the_run(s3_settings):
    """Every session would be excluded for one mistake in the configuration."""
    settings = replace(s3_settings, raw_iq_bucket="no-such-bucket")
    dataset = HeimdallDataset(
        [one_receiver_session(0, "no-such-bucket", "0.npy")], ONE_RECEIVER, settings
    )
    with pytest.raises(BucketUnusable, match="no bucket 'no-such-bucket'"):
        dataset[0]


def test_missing_and_truncated_objects_exclude_their_sessions_with_the_reason(
    six, s3_settings, raw_iq_store
):
    """An upload that failed half-way is the commonest fault of all."""
    raw_iq_store.delete("1.npy")
    raw_iq_store.put("2.npy", NPY[:50_000])
    usable, exclusions = HeimdallDataset(six, ONE_RECEIVER, s3_settings).prepare(progress=False)
    assert [session.id for session in usable.sessions] == ["0", "3", "4", "5"]
    reasons = {found.session_id: found.reason for found in exclusions}
    assert "no object '1.npy'" in reasons["1"]
    assert "2.npy" in reasons["2"]


def test_an_object_that_breaks_its_parser_excludes_its_session_alone(
    six, s3_settings, raw_iq_store
):
    """NumPy takes a shape of (True,) for one, and raised a TypeError that ended the run."""
    text = b"{'descr': '<c8', 'fortran_order': False, 'shape': (True,)}\n"
    raw_iq_store.put("1.npy", b"\x93NUMPY\x01\x00" + bytes([len(text), 0]) + text + bytes(8))
    usable, exclusions = HeimdallDataset(six, ONE_RECEIVER, s3_settings).prepare(progress=False)
    assert len(usable) == 5
    assert [found.session_id for found in exclusions] == ["1"]
    assert "1.npy: a shape of (True,)" in exclusions[0].reason


def test_counts_and_second_arrays_exclude_their_sessions_alone(six, s3_settings, raw_iq_store):
    """One would be 90 dB too strong, and of the other a half would be lost without a word."""
    stream = io.BytesIO()
    np.save(stream, np.full(12_500, 30_000, np.complex64))
    raw_iq_store.put("1.npy", stream.getvalue())
    raw_iq_store.put("2.npy", NPY + NPY)
    usable, exclusions = HeimdallDataset(six, ONE_RECEIVER, s3_settings).prepare(progress=False)
    assert [session.id for session in usable.sessions] == ["0", "3", "4", "5"]
    reasons = {found.session_id: found.reason for found in exclusions}
    assert "1.npy: samples reach 30000" in reasons["1"]
    assert f"2.npy: {len(NPY)} bytes after the array" in reasons["2"]


def test_a_recording_that_memory_does_not_suffice_for_is_tried_again(
    six, s3_settings, tmp_path, monkeypatch
):
    """Its size is limited, so this machine is short; a larger one, or a quieter day, decodes it."""

    def decoded(*_, name, **__):
        if name == "1.npy":
            raise MemoryError
        return decode(NPY, None, name=name, sample_rate_hz=12_500.0)

    dataset = HeimdallDataset(six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("heimdall_data.session_reader.decode", decoded)
        _, exclusions = dataset.prepare(progress=False)
    assert [found.session_id for found in exclusions] == ["1"]
    assert "1.npy: this machine lacks the memory" in exclusions[0].reason
    assert dataset.prepare(progress=False)[1] == []


def test_an_interrupt_while_decoding_is_no_reason_to_exclude(six, s3_settings, monkeypatch):
    """Ctrl-C ends the run, and must not count against whatever was being read."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("heimdall_data.recordings.decode.recording_from_npy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HeimdallDataset(six, ONE_RECEIVER, s3_settings).prepare(progress=False)


def test_an_object_beyond_the_limit_is_not_fetched(s3_settings, raw_iq_store):
    """A hundred gigabytes under a recording's key would fill any memory before they are decoded."""
    raw_iq_store.put("a.sigmf-data", bytes(8))
    raw_iq_store.put("a.sigmf-meta", bytes(LARGEST_BYTES + 1))
    session = one_receiver_session(0, s3_settings.raw_iq_bucket, "a.sigmf-data", "sigmf")
    _, exclusions = HeimdallDataset([session], ONE_RECEIVER, s3_settings).prepare(progress=False)
    assert f"has {LARGEST_BYTES + 1} bytes, more than the {LARGEST_BYTES}" in exclusions[0].reason


def test_an_object_replaced_after_its_version_was_asked_is_cached_as_what_it_is(
    six, s3_settings, raw_iq_store, tmp_path
):
    """Features of the new object under the old version would come back with the old object."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    source = dataset.source
    old_key = source.key(six[0])
    raw_iq_store.put("0.npy", OTHER_NPY)
    new = source.features(six[0], old_key).features.copy()
    files = {path.stem for path in tmp_path.glob("??/*")}
    assert files == {source.key(six[0])} != {old_key}
    raw_iq_store.put("0.npy", NPY)
    assert not np.array_equal(source.features(six[0]).features, new)


def test_both_objects_of_a_sigmf_pair_are_in_the_cache_key(s3_settings, raw_iq_store):
    """The rate and the time stand in the metadata: correcting it changes the features."""
    session = one_receiver_session(0, s3_settings.raw_iq_bucket, "a.sigmf-data", "sigmf")
    source = FeatureSource(ONE_RECEIVER, s3_settings, None)
    keys = [source.key(session)]
    for name in ("data", "meta", "meta", "data"):
        raw_iq_store.put(f"a.sigmf-{name}", f"{len(keys)}".encode())
        keys.append(source.key(session))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("key", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_key_is_data_and_reaches_no_other_object(s3_settings, raw_iq_store, key, reason):
    """What stands in the database must not lead out of the bucket, nor end the run."""
    raw_iq_store.put("a.npy", NPY)
    other = ObjectStore(s3_settings, "heimdall-models")
    other.put("secret", NPY)
    hostile = key.replace("other", "heimdall-models")
    dataset = HeimdallDataset(
        [one_receiver_session(0, s3_settings.raw_iq_bucket, hostile)], ONE_RECEIVER, s3_settings
    )
    _, exclusions = dataset.prepare(progress=False)
    assert [found.session_id for found in exclusions] == ["0"]
    assert reason in exclusions[0].reason
    other.delete("secret")


def test_what_the_cache_never_saw_is_fetched_without_asking_for_its_version(
    six, s3_settings, tmp_path, monkeypatch
):
    """The first epoch would ask twice for each object, which costs a third of it."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "stat", lambda *_: pytest.fail("asked"))
        dataset[0]
    monkeypatch.setattr(ObjectStore, "get_with_version", lambda *_: pytest.fail("fetched"))
    dataset[0]


def test_an_object_replaced_after_preparing_is_computed_once_and_not_each_epoch(
    six, s3_settings, raw_iq_store, tmp_path, monkeypatch
):
    """Each epoch's workers begin with the keys that preparing found."""
    dataset = HeimdallDataset(six, ONE_RECEIVER, s3_settings, cache_dir=tmp_path)
    usable, _ = dataset.prepare(progress=False)
    old = usable[0]["features"].copy()
    raw_iq_store.put("0.npy", OTHER_NPY)
    FeatureCache(tmp_path).clear()
    first_worker, second_worker = pickle.dumps(usable), pickle.dumps(usable)
    new = pickle.loads(first_worker)[0]["features"]
    assert not np.array_equal(new, old)
    monkeypatch.setattr(ObjectStore, "get_with_version", lambda *_: pytest.fail("fetched"))
    second = pickle.loads(second_worker)
    assert np.array_equal(second[0]["features"], new)
    monkeypatch.setattr(ObjectStore, "stat", lambda *_: pytest.fail("asked"))
    assert np.array_equal(second[0]["features"], new)


def test_a_batch_that_is_not_in_the_cache_is_its_sessions_one_by_one(s3_settings, raw_iq_store):
    """Several are read at once, and each must come to its own row."""
    bucket = s3_settings.raw_iq_bucket
    for number in range(9):
        raw_iq_store.put(f"{number}.npy", new_recording(n_samples=12_500, seed=number).payload)
    sessions = [one_receiver_session(n, bucket, f"{n}.npy") for n in range(9)]
    dataset = HeimdallDataset(sessions, ONE_RECEIVER, s3_settings)
    order = [8, 3, 0, 5, 7, 1]
    batch = dataset.__getitems__(order)
    assert [sample["session_id"] for sample in batch] == [str(n) for n in order]
    alone = [dataset[n]["features"] for n in order]
    assert all(np.array_equal(b["features"], a) for b, a in zip(batch, alone, strict=True))
