"""Arrival times from stored recordings to the training batch, with real Postgres and S3."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from heimdall_data.cache.bucket import SharedCache
from heimdall_data.dataset import HeimdallDataset
from heimdall_data.errors import DataError
from heimdall_data.ingest.ingest import ingest
from heimdall_data.prepare import Threads
from heimdall_data.recordings.clocked import clocked
from heimdall_data.recordings.recording import Recording
from heimdall_data.session_features import arrivals_of
from heimdall_features import ArrivalConfig, ArrivalExtractor, FeatureConfig
from heimdall_features.testing import keyed
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_session
from heimdall_simulation.receiver import kiwi_wav_payload
from hypothesis import given
from hypothesis import strategies as st

RECEIVERS = ("Torino", "Genova", "Milano-Baggio", "Montanaro")
STATIONS = tuple(s for s in NORTHWEST_ITALY.stations if s.name in RECEIVERS)
CLOCKED = replace(
    NORTHWEST_ITALY,
    stations=STATIONS,
    n_samples=8192,
    mishaps=NO_MISHAPS,
    recording_format="kiwi_wav",
)
CONFIG = FeatureConfig(receivers=RECEIVERS, sample_rate_hz=48_000)
ARRIVALS = ArrivalConfig(receivers=RECEIVERS, baseline_m=150e3)
HEARD, ARRIVAL, SIGMA = range(3)
N_SESSIONS = 3


@pytest.fixture
def stored(catalogue, s3_settings, raw_iq_store):
    """Ingest simulated sessions and return them from the catalogue, in order."""

    def store(made):
        ingest(catalogue, raw_iq_store, [one.new_session for one in made], progress=False)
        return sorted(catalogue.sessions(), key=lambda session: session.start)

    return store


@pytest.fixture
def dataset(stored, s3_settings, tmp_path):
    """Three sessions of four receivers with clocks, before features are computed."""
    made = [simulate_session(index, 42, CLOCKED) for index in range(N_SESSIONS)]
    return HeimdallDataset(stored(made), CONFIG, s3_settings, cache_dir=tmp_path, arrivals=ARRIVALS)


def with_clocks(made, names):
    """The session with a GNSS lock at only these stations."""
    new = made.new_session
    recordings = tuple(
        replace(
            recording,
            format="kiwi_wav",
            payload=kiwi_wav_payload(
                np.load(io.BytesIO(recording.payload)),
                48_000.0,
                10**18,
                age_s=1 if recording.station.name in names else 255,
            ),
        )
        for recording in new.measurements
    )
    return replace(made, new_session=replace(new, measurements=recordings))


def sigmas_off(rows, truth):
    """Error of each arrival in its own sigmas, without the common zero."""
    by_station = {r.station.name: r.delay_s + r.clock_error_s for r in truth.receptions}
    late_us = rows[:, ARRIVAL] - 1e6 * np.array([by_station[name] for name in RECEIVERS])
    heard = rows[:, HEARD] > 0
    late_us -= np.average(late_us[heard], weights=rows[heard, SIGMA] ** -2.0)
    return late_us[heard] / rows[heard, SIGMA]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_has_arrival_times_within_their_uncertainty(dataset, n_workers):
    """From recordings in a store to the batch of a training."""
    from torch.utils.data import DataLoader

    (batch,) = DataLoader(dataset, batch_size=N_SESSIONS, num_workers=n_workers)
    rows = batch["arrivals"].numpy()
    assert (rows.shape, rows.dtype) == ((N_SESSIONS, len(RECEIVERS), 5), np.float32)
    assert rows[:, :, HEARD].sum() >= 3 * N_SESSIONS
    for index, found in enumerate(rows):
        truth = simulate_session(index, 42, CLOCKED).truth
        assert np.abs(sigmas_off(found, truth)).max() < 5
    assert np.isfinite(rows).all()


def test_arrivals_from_the_cache_are_the_same_bytes(dataset, s3_settings):
    """An epoch over cached sessions neither computes nor reads the store."""
    first = [sample["arrivals"].tobytes() for sample in dataset]
    usable, exclusions = dataset.prepare(progress=False)
    assert (usable.n_computed, exclusions, usable.without_arrivals) == (0, [], {})
    assert usable.sessions_by_clocks == {len(RECEIVERS): N_SESSIONS}
    away = pickle.loads(pickle.dumps(usable.subset(usable.sessions[1:])))
    away.source.reader.s3 = replace(s3_settings, endpoint_url="http://127.0.0.1:9")
    assert [sample["arrivals"].tobytes() for sample in away] == first[1:]
    assert any(first)


def test_a_cache_without_arrivals_stays_valid_next_to_one_with_them(dataset, s3_settings, tmp_path):
    """Additional arrival times must not discard a week of computing."""
    plain = HeimdallDataset(dataset.sessions, CONFIG, s3_settings, cache_dir=tmp_path)
    wider = replace(ARRIVALS, baseline_m=160e3)
    other = HeimdallDataset(
        dataset.sessions, CONFIG, s3_settings, cache_dir=tmp_path, arrivals=wider
    )
    for each in (plain, dataset, other):
        assert each.prepare(progress=False)[0].n_computed == N_SESSIONS
    for each in (plain, dataset, other):
        assert each.prepare(progress=False)[0].n_computed == 0
    assert "arrivals" not in plain[0]
    np.testing.assert_array_equal(plain[0]["features"], dataset[0]["features"])


def test_a_receiver_dropped_by_augmentation_has_no_arrival(dataset):
    """The model must learn to do without it, so also without its clock."""
    usable = dataset.prepare(progress=False)[0]
    varied, n_dropped = usable.subset(usable.sessions, augment=True), 0
    for epoch in range(20):
        varied.set_epoch(epoch)
        for whole, sample in zip(usable, varied, strict=True):
            there = sample["present"]
            assert not sample["arrivals"][~there].any()
            np.testing.assert_array_equal(sample["arrivals"][there], whole["arrivals"][there])
            n_dropped += int((~there & (whole["arrivals"][:, HEARD] > 0)).sum())
    assert n_dropped > 0


def test_a_receiver_without_a_lock_has_no_arrival(stored, s3_settings):
    """Its levels are used; an unreliable time is worse than none."""
    plain = simulate_session(0, 42, replace(CLOCKED, recording_format="npy"))
    sessions = stored([with_clocks(plain, RECEIVERS[1:])])
    sample = HeimdallDataset(sessions, CONFIG, s3_settings, arrivals=ARRIVALS)[0]
    assert sample["present"].all()
    assert sample["clock_locked"].tolist() == [False, True, True, True]
    assert not sample["arrivals"][0].any()
    assert sample["arrivals"][1:, HEARD].all()


def test_a_receiver_with_a_wrong_clock_has_no_arrival_and_a_reason():
    """The model must not learn from a time that no transmitter could cause."""
    extract, rng = ArrivalExtractor(ARRIVALS), np.random.default_rng(7)
    recordings = {}
    for number, name in enumerate(RECEIVERS):
        iq = 0.3 * keyed(np.arange(48_000) / 48e3 - 5e-5 * number)
        iq += 1e-4 * (rng.normal(size=iq.size) + 1j * rng.normal(size=iq.size))
        recordings[name] = Recording(
            iq=iq.astype(np.complex64),
            sample_rate_hz=48e3,
            start_gps_ns=10**18 + 20_000_000 * (name == "Genova"),
            clock_sigma_s=1e-7,
        )
    rows, reason = arrivals_of(extract, recordings)
    assert rows[:, HEARD].tolist() == [1, 0, 1, 1]
    assert reason.startswith("Genova: its time contradicts the others")


def test_a_session_without_clocks_is_used_and_has_a_reason(stored, s3_settings, tmp_path):
    """Users of an archive of NumPy files ask why there are no times."""
    plain = [simulate_session(i, 42, replace(CLOCKED, recording_format="npy")) for i in range(2)]
    sessions = stored([plain[0], with_clocks(plain[1], RECEIVERS[:1])])
    dataset = HeimdallDataset(sessions, CONFIG, s3_settings, cache_dir=tmp_path, arrivals=ARRIVALS)
    for _ in ("cold", "warm"):
        usable, exclusions = dataset.prepare(progress=False)
        assert exclusions == []
        assert usable.sessions_by_clocks == {0: 1, 1: 1}
        assert "0 of 4 recordings" in usable.without_arrivals[sessions[0].id]
        assert "1 of 4 recordings" in usable.without_arrivals[sessions[1].id]
        assert not any(sample["arrivals"].any() for sample in usable)
    part = usable.subset(sessions[1:])
    assert part.without_arrivals.keys() == {sessions[1].id}


def test_sessions_too_short_for_timing_are_still_used(dataset, s3_settings):
    """For receivers a continent apart, a sixth of a second gives no lag."""
    far = HeimdallDataset(
        dataset.sessions, CONFIG, s3_settings, arrivals=replace(ARRIVALS, baseline_m=3e6)
    )
    usable, exclusions = far.prepare(progress=False)
    assert (len(usable), exclusions) == (N_SESSIONS, [])
    assert not usable[0]["arrivals"].any()
    assert all("share 8192 samples" in reason for reason in usable.without_arrivals.values())


def test_arrivals_come_from_the_shared_cache_too(dataset, s3_settings):
    """One machine finds what another has computed; the source is sent as a pickle."""
    shared = SharedCache(s3_settings, f"s3://{s3_settings.raw_iq_bucket}/features", writes=True)
    one, other = (
        HeimdallDataset(
            dataset.sessions, CONFIG, s3_settings, shared_cache=shared, arrivals=ARRIVALS
        )
        for _ in range(2)
    )
    source = pickle.loads(pickle.dumps(one.source))
    assert all(done.computed for done in Threads(1)(source, one.sessions))
    usable = other.prepare(progress=False)[0]
    assert usable.n_computed == 0
    assert usable[0]["arrivals"].tobytes() == dataset[0]["arrivals"].tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"receivers": RECEIVERS[::-1]}, "same receivers in the same order"),
        # Above the recordings' rate there is no noise, and every time would seem certain.
        ({"sample_rate_hz": 12_000}, "12000 Hz .* 48000 Hz"),
        ({"baseline_m": 100e3}, r"baseline_m is 100000, and \S+ and \S+ are 1\d\d km"),
    ],
)
def test_arrivals_that_do_not_fit_are_rejected(dataset, changes, message):
    """They would give wrong times, or rows of other stations than the channels."""
    arrivals, s3 = replace(ARRIVALS, **changes), dataset.source.reader.s3
    with pytest.raises(DataError, match=message):
        HeimdallDataset(dataset.sessions, CONFIG, s3, arrivals=arrivals)


@given(
    st.integers(10**18, 2 * 10**18),
    st.lists(st.integers(0, 60 * 10**9), min_size=2, max_size=4),
)
def test_starts_keep_their_nanoseconds(first_ns, after_ns):
    """As floats, GPS seconds have steps of 240 ns, which is 70 m of path."""
    heard = clocked(
        {
            str(number): Recording(
                iq=np.zeros(1, np.complex64),
                sample_rate_hz=1.0,
                start_gps_ns=first_ns + late_ns,
                clock_sigma_s=1e-7,
            )
            for number, late_ns in enumerate(after_ns)
        }
    )
    found_ns = [recording.start_s * 1e9 for recording in heard.values()]
    assert np.abs(np.array(found_ns) - (np.array(after_ns) - min(after_ns))).max() < 1e-3
