"""The dataset on a real Postgres and S3, through the real DataLoader."""

import io
import pickle
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from heimdall_data.catalogue.catalogue import Catalogue
from heimdall_data.catalogue.session import Station
from heimdall_data.dataset import HeimdallDataset
from heimdall_data.errors import DataError, StoreError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.testing import fixtures
from heimdall_features import FeatureConfig

RATE_HZ = 12_500
STATIONS = tuple(
    Station(name, 45.0, east) for name, east in (("Torino", 7.7), ("Genova", 8.9), ("Giaveno", 7.3))
)
CONFIG = FeatureConfig(
    receivers=tuple(station.name for station in STATIONS), sample_rate_hz=RATE_HZ
)


def npy(seed, n=RATE_HZ):
    """A recording of noise with a level of its own."""
    rng = np.random.default_rng(seed)
    iq = rng.normal(size=(2, n)) * rng.uniform(100, 3000)
    stream = io.BytesIO()
    np.save(stream, iq.astype(np.int16))
    return stream.getvalue()


def new_session(number, payloads):
    """A session of its own source; a payload None is an object that is missing."""
    one = fixtures.new_session(f"session {number}", f"source {number}")
    return replace(
        one,
        source=replace(one.source, latitude_deg=44.5 + 0.01 * number, longitude_deg=7.5),
        measurements=tuple(
            replace(fixtures.new_recording(station), payload=payload, n_samples=RATE_HZ)
            for station, payload in zip(STATIONS, payloads, strict=False)
        ),
        start=one.start + timedelta(hours=number),
    )


@pytest.fixture
def stored(database_url, s3_settings, raw_iq_store):
    """Puts new sessions where they belong and reads them back from the catalogue."""

    def store(sessions):
        with Catalogue(database_url) as catalogue:
            ingest(catalogue, raw_iq_store, sessions, progress=False)
            return catalogue.sessions()

    return store


def whole(n):
    """Sessions without any fault."""
    return [new_session(i, [npy(3 * i + k) for k in range(3)]) for i in range(n)]


def same(one, other):
    """Whether two samples are the same to the last bit."""
    return one["session_id"] == other["session_id"] and all(
        np.array_equal(one[name], other[name])
        for name in ("features", "position_deg", "present", "clock_locked")
    )


def test_cp5_2_samples_have_their_shapes_and_labels_and_repeat(stored, s3_settings, tmp_path):
    """Checkpoint 5.2: what the model is trained on is what the catalogue says."""
    sessions = stored(whole(6))
    dataset = HeimdallDataset(
        sessions, CONFIG, s3_settings, cache_dir=tmp_path, augment=True, seed=7
    )
    usable, exclusions = dataset.prepare(progress=False)
    assert (len(usable), exclusions) == (6, [])
    again, other = (
        HeimdallDataset(sessions, CONFIG, s3_settings, augment=True, seed=seed) for seed in (7, 8)
    )
    for index, session in enumerate(sessions):
        sample = usable[index]
        assert sample["features"].shape == (3, 128, 32)
        assert sample["features"].dtype == np.float32
        assert np.isfinite(sample["features"]).all()
        assert sample["position_deg"].tolist() == list(session.position_deg)
        assert -90 <= sample["position_deg"][0] <= 90
        assert -180 <= sample["position_deg"][1] <= 180
        assert sample["session_id"] == session.id
        assert same(sample, again[index])
        assert not same(sample, other[index])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "n_workers"), [("fork", 1), ("fork", 2), ("spawn", 2), ("forkserver", 2)]
)
def test_cp5_2_batches_are_the_same_at_any_number_of_workers(
    stored, s3_settings, method, n_workers
):
    """Checkpoint 5.2: a run must not depend on the machine's number of cores."""
    from torch.utils.data import DataLoader

    dataset = HeimdallDataset(stored(whole(5)), CONFIG, s3_settings, augment=True)
    expected = [dataset[index] for index in range(5)]  # the parent's connections are open now
    loader = DataLoader(
        dataset, batch_size=2, num_workers=n_workers, multiprocessing_context=method
    )
    batches = list(loader)
    assert [tuple(b["features"].shape) for b in batches] == [
        (2, 3, 128, 32),
        (2, 3, 128, 32),
        (1, 3, 128, 32),
    ]
    assert str(batches[0]["position_deg"].dtype) == "torch.float64"
    features = np.concatenate([b["features"].numpy() for b in batches])
    np.testing.assert_array_equal(features, [sample["features"] for sample in expected])
    assert [id_ for b in batches for id_ in b["session_id"]] == [
        sample["session_id"] for sample in expected
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_each_epoch_show_its_variation(stored, s3_settings, tmp_path, method):
    """Workers that kept the first epoch would show the same variation for ever."""
    from torch.utils.data import DataLoader

    dataset = HeimdallDataset(
        stored(whole(4)), CONFIG, s3_settings, cache_dir=tmp_path, augment=True
    )
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method)
    seen = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        seen.append(next(iter(loader))["features"].numpy())
    np.testing.assert_array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_the_same_features_come_from_the_cache_and_in_every_epoch(stored, s3_settings, tmp_path):
    """A cache that changes a number is none, and validation figures must be comparable."""
    sessions = stored(whole(2))
    plain = HeimdallDataset(sessions, CONFIG, s3_settings)
    cached = HeimdallDataset(sessions, CONFIG, s3_settings, cache_dir=tmp_path)
    for epoch in range(2):
        cached.set_epoch(epoch)
        assert all(same(plain[index], cached[index]) for index in range(2))
    assert len(list(tmp_path.glob("*/*.features"))) == 2


def test_a_prepared_dataset_and_its_parts_need_the_store_no_more(stored, s3_settings, tmp_path):
    """An epoch over cached features sends no request."""
    dataset = HeimdallDataset(stored(whole(3)), CONFIG, s3_settings, cache_dir=tmp_path)
    usable, _ = dataset.prepare(progress=False)
    unplugged = pickle.loads(pickle.dumps(usable))
    unplugged.source.reader.s3 = replace(s3_settings, endpoint_url="http://127.0.0.1:9")
    assert all(same(usable[index], unplugged[index]) for index in range(3))
    part = unplugged.subset(usable.sessions[1:], augment=True)
    assert [s.id for s in part.sessions] == [s.id for s in usable.sessions[1:]]
    assert not np.array_equal(part[0]["features"], usable[1]["features"])


def test_a_replaced_object_is_read_anew(stored, s3_settings, raw_iq_store, tmp_path):
    """Somebody uploads the right file over a wrong one; the cache must not know better."""
    sessions = stored(whole(1))
    dataset = HeimdallDataset(sessions, CONFIG, s3_settings, cache_dir=tmp_path)
    before = dataset.prepare(progress=False)[0][0]
    raw_iq_store.put(sessions[0].measurements[0].key, npy(99))
    after = dataset.prepare(progress=False)[0][0]
    assert not np.array_equal(before["features"], after["features"])


def test_unusable_recordings_are_left_out_and_named(stored, s3_settings, tmp_path):
    """Nothing lost: the other receivers stay. Nothing invented: the channel is marked."""
    sessions = stored(
        [
            new_session(0, [npy(0), npy(1)[:5000], npy(2)]),
            new_session(1, [npy(3), None, None]),
            new_session(2, [npy(4)]),
            new_session(3, [npy(5)[:-1], None]),
        ]
    )
    dataset = HeimdallDataset(sessions, CONFIG, s3_settings, cache_dir=tmp_path)
    for _ in ("cold", "warm"):
        usable, exclusions = dataset.prepare(progress=False)
        assert [sample["present"].tolist() for sample in usable] == [
            [True, False, True],
            [True, False, False],
            [True, False, False],
        ]
        assert (usable[1]["features"][1:] == CONFIG.fill_db).all()
        assert [e.session_id for e in exclusions] == [sessions[3].id]
        assert "Torino: sessions/" in exclusions[0].reason
        assert "truncated: 49999 bytes" in exclusions[0].reason
        assert "Genova: no object" in exclusions[0].reason
        assert [(r.session_id, r.station) for r in usable.unusable_recordings] == [
            (sessions[0].id, "Genova"),
            (sessions[1].id, "Genova"),
            (sessions[1].id, "Giaveno"),
        ]
    with pytest.raises(DataError, match=f"session {sessions[3].id} has no usable .* prepare()"):
        dataset[3]


def test_a_session_of_other_receivers_is_excluded(stored, s3_settings):
    """A sample of nothing but filling would teach the mean position."""
    sessions = stored(whole(1))
    elsewhere = FeatureConfig(receivers=("Milano",), sample_rate_hz=RATE_HZ)
    usable, exclusions = HeimdallDataset(sessions, elsewhere, s3_settings).prepare(progress=False)
    assert len(usable) == 0
    assert "Milano (it has Genova, " in exclusions[0].reason


@pytest.mark.slow
def test_a_store_that_does_not_answer_excludes_nobody(stored, s3_settings):
    """Taking silence for missing objects would train on whatever was read before."""
    away = replace(s3_settings, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError):
        HeimdallDataset(stored(whole(2)), CONFIG, away).prepare(progress=False)
