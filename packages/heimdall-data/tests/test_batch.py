"""Batches through the real DataLoader, put together where they are read."""

import pickle

import numpy as np
import pytest
import torch
from heimdall_data import HeimdallDataset
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing.fixtures import GENOVA, TORINO, new_session
from heimdall_features import FeatureConfig
from torch.utils.data import DataLoader, default_collate

CONFIG = FeatureConfig(
    receivers=(TORINO.name, GENOVA.name), sample_rate_hz=12_500.0, n_mels=8, n_fft=64, hop_length=8
)


@pytest.fixture
def dataset(catalogue, raw_iq_store, s3_settings, tmp_path):
    """Five prepared sessions; the last lacks a receiver."""
    whole = [new_session(f"s{number}", f"source {number}") for number in range(4)]
    ingest(catalogue, raw_iq_store, [*whole, new_session("s4", "source 4", (TORINO,))])
    every = HeimdallDataset(catalogue.sessions(), CONFIG, s3_settings, cache_dir=tmp_path)
    return every.prepare(progress=False)[0]


def same(batch, expected):
    """Whether two batches are of the same types, shapes and values."""
    return batch.keys() == expected.keys() and all(
        batch[name] == expected[name]
        if name == "session_id"
        else batch[name].dtype == expected[name].dtype and torch.equal(batch[name], expected[name])
        for name in expected
    )


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_a_batch_is_what_its_samples_collate_to(dataset, n_workers, augment, warm):
    """The quick way must give what the plain one gives, bit for bit."""
    dataset = dataset.subset(dataset.sessions, augment=augment)
    if not warm:
        dataset.source.cache.clear()
    batches = list(DataLoader(dataset, batch_size=3, num_workers=n_workers))
    assert len(batches) == 2
    assert same(batches[0], default_collate([dataset[index] for index in range(3)]))
    assert same(batches[1], default_collate([dataset[index] for index in (3, 4)]))


def test_a_missing_receiver_is_marked_in_a_batch(dataset):
    """The sessions above are not all whole; else the marks would be compared in vain."""
    (batch,) = DataLoader(dataset, batch_size=5)
    assert batch["present"].sum() == 9


def test_a_batch_costs_no_copy_of_its_features(dataset):
    """It is the reason for the quick way; without this test it could stop to work unnoticed."""
    samples = dataset.__getitems__([2, 0, 1])
    batch = default_collate(samples)
    assert batch["features"].data_ptr() == samples[0]["features"].ctypes.data


def test_parts_of_a_batch_collate_too(dataset):
    """A caller's own collation may leave samples out, or mix those of two batches."""
    samples = dataset.__getitems__([2, 0, 1])
    others = dataset.__getitems__([3, 4, 2])
    for mixed in (samples[:2], samples[::-1], [samples[0], *others[1:]]):
        assert same(default_collate(mixed), default_collate([dict(sample) for sample in mixed]))


def test_samples_of_a_batch_are_plain_ones_elsewhere(dataset):
    """A collation that returns the samples sends them to another process one by one."""
    (batch,) = DataLoader(dataset, batch_size=5, num_workers=1, collate_fn=list)
    for sample, expected in zip(batch, dataset, strict=True):
        assert type(sample) is dict
        np.testing.assert_array_equal(sample["features"], expected["features"])
    assert type(pickle.loads(pickle.dumps(dataset.__getitems__([0])[0]))) is dict


def test_a_dataset_keeps_the_limit_of_its_cache(dataset, s3_settings, tmp_path):
    """Parts of a dataset, and copies in workers, write to the same folder."""
    limited = HeimdallDataset(
        dataset.sessions,
        CONFIG,
        s3_settings,
        cache_dir=tmp_path / "small",
        cache_limit_bytes=60_000,
    )
    usable, _ = limited.prepare(progress=False)
    part = pickle.loads(pickle.dumps(usable.subset(usable.sessions)))
    assert len(list(part)) == 5
    assert 0 < part.source.cache.status().n_bytes <= 60_000
