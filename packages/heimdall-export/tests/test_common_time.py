"""Training and serving cut recordings to the same samples and compute the same inputs."""

import math

import numpy as np
import pytest
from heimdall_data.recordings.recording import Recording
from heimdall_data.session_features import FeatureSource
from heimdall_data.session_reader import SessionRecordings, align
from heimdall_export.serving.predictor import inputs_of
from heimdall_features import (
    ArrivalConfig,
    ArrivalExtractor,
    ClockedRecording,
    FeatureConfig,
    FeatureError,
    FeatureExtractor,
)
from hypothesis import given, settings
from hypothesis import strategies as st

RECEIVERS = ("Torino", "Genova", "Milano")
CONFIG = FeatureConfig(
    receivers=RECEIVERS, sample_rate_hz=12_000, n_mels=8, n_fft=64, hop_length=32, n_frames=4
)
ARRIVALS = ArrivalConfig(receivers=RECEIVERS, baseline_m=50e3, sample_rate_hz=12_000)
EPOCH_NS = 1_195_814_534 * 10**9

one_recording = st.tuples(
    st.none() | st.integers(0, 20_000_000),  # nanoseconds of start, where the clock is locked
    st.sampled_from([12_000.0, 12_001.145, 12_500.0, 48_000.0]) | st.floats(11_900, 12_600),
    st.floats(0.05, 0.2),
)


class InMemory:
    """Reads recordings as `SessionReader` does, without a store."""

    def __init__(self, recordings):
        self.recordings = recordings

    def read(self, session, receivers):
        """Cut recordings of any session."""
        return SessionRecordings(align(self.recordings), {}, {}, cacheable=True)


def clocked(recordings):
    """The same recordings as a service gets them: starts in seconds, pairs without a clock."""
    last_ns = max((r.start_gps_ns for r in recordings.values() if r.clock_locked), default=0)
    return {
        name: ClockedRecording(r.iq, r.sample_rate_hz, -((last_ns - r.start_gps_ns) * 1e-9))
        if r.clock_locked
        else (r.iq, r.sample_rate_hz)
        for name, r in recordings.items()
    }


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(RECEIVERS), one_recording, min_size=1),
    st.integers(0, 2**32 - 1),
)
def test_serving_computes_the_spectrograms_of_training_bit_for_bit(drawn, seed):
    """A network must see in service what it learnt from."""
    rng = np.random.default_rng(seed)
    recordings = {}
    for name, (start_ns, rate_hz, duration_s) in drawn.items():
        iq = rng.normal(size=2 * round(rate_hz * duration_s)).astype(np.float32)
        recordings[name] = Recording(
            iq=iq.view(np.complex64),
            sample_rate_hz=rate_hz,
            start_gps_ns=None if start_ns is None else EPOCH_NS + start_ns,
            clock_sigma_s=math.inf if start_ns is None else 1e-7,
        )
    source = FeatureSource(CONFIG, None, None)
    source.reader = InMemory(recordings)
    trained = source.features(session=None)
    served = inputs_of(FeatureExtractor(CONFIG), None, clocked(recordings))
    assert trained.unusable == {}
    assert served.features.tobytes() == trained.features.tobytes()


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 300_000_000), min_size=3, max_size=3),
    st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=20)
def test_serving_measures_the_arrivals_of_training(starts_ns, off_ppm, seed):
    """A network of times must see in service what it learnt from, however much is cut off."""
    rng = np.random.default_rng(seed)
    bits = rng.normal(size=(2, 12_000))
    recordings = {}
    for name, start_ns, ppm in zip(RECEIVERS, starts_ns, off_ppm, strict=True):
        rate_hz = 12_000 * (1 + ppm * 1e-6)
        times_s = start_ns * 1e-9 + np.arange(6_000) / rate_hz
        iq = np.interp(times_s * 12_000, np.arange(12_000), bits[0])
        iq = iq + 1j * np.interp(times_s * 12_000, np.arange(12_000), bits[1])
        noise = rng.normal(scale=0.1, size=(2, 6_000))
        recordings[name] = Recording(
            iq=(iq + noise[0] + 1j * noise[1]).astype(np.complex64),
            sample_rate_hz=rate_hz,
            start_gps_ns=EPOCH_NS + start_ns,
            clock_sigma_s=1e-7,
        )
    source = FeatureSource(CONFIG, None, None, arrivals=ARRIVALS)
    source.reader = InMemory(recordings)
    trained = source.features(session=None).arrivals
    extract = FeatureExtractor(CONFIG), ArrivalExtractor(ARRIVALS)
    served = inputs_of(*extract, clocked(recordings)).arrivals
    assert trained[:, 0].all()
    np.testing.assert_allclose(served, trained, rtol=1e-4, atol=2e-3)  # starts are whole ns


@pytest.mark.parametrize("n_silent", [0, 1, 2, 3])
def test_silence_is_the_same_in_training_and_service(n_silent):
    """A receiver that heard nothing is used; if none heard anything, there is nothing to learn."""
    iq = np.random.default_rng(0).normal(scale=0.1, size=2 * 1200).astype(np.float32)
    levels = dict(zip(RECEIVERS, [0.0] * n_silent + [1.0] * 3, strict=False))
    recordings = {
        name: Recording(iq=(level * iq).view(np.complex64), sample_rate_hz=12_000.0)
        for name, level in levels.items()
    }
    source = FeatureSource(CONFIG, None, None)
    source.reader = InMemory(recordings)
    trained = source.features(session=None)
    extract = FeatureExtractor(CONFIG)
    if n_silent == 3:
        assert not trained.present.any()
        assert set(trained.unusable) == set(RECEIVERS)
        with pytest.raises(FeatureError, match="only silence from 'Torino', 'Genova', 'Milano'"):
            inputs_of(extract, None, clocked(recordings))
    else:
        assert trained.present.all()
        served = inputs_of(extract, None, clocked(recordings))
        assert served.features.tobytes() == trained.features.tobytes()


def test_samples_of_another_scale_are_used_neither_in_training_nor_in_service():
    """Sixteen-bit integers as floats are 90 dB too strong, which looks like a near transmitter."""
    iq = np.random.default_rng(0).integers(-2000, 2000, 2 * 1200).astype(np.float32)
    recordings = {
        name: Recording(iq=(scale * iq).view(np.complex64), sample_rate_hz=12_000.0)
        for name, scale in zip(RECEIVERS, [2**-15, 1.0, 2**-15], strict=True)
    }
    source = FeatureSource(CONFIG, None, None)
    source.reader = InMemory(recordings)
    trained = source.features(session=None)
    assert trained.present.tolist() == [True, False, True]
    assert "samples reach 2000, and full scale is 1" in trained.unusable["Genova"]
    with pytest.raises(FeatureError, match="'Genova': samples reach"):
        inputs_of(FeatureExtractor(CONFIG), None, clocked(recordings))


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize("wrong", ["start", "samples", "length", "time"])
def test_a_recording_that_cannot_be_used_is_named(name, wrong):
    """The caller must know whose recording to look at."""
    iq = np.ones(1200, np.complex64)
    heard = {one: ClockedRecording(iq, 12_000.0) for one in RECEIVERS}
    heard[name] = {
        "start": ClockedRecording(iq, 12_000.0, np.nan),
        "samples": ClockedRecording(iq * np.nan, 12_000.0),
        "length": ClockedRecording(iq[:10], 12_000.0),
        "time": ClockedRecording(iq, 12_000.0, 77.0),
    }[wrong]
    with pytest.raises(FeatureError, match=f"'{name}'" + (".*77" if wrong == "time" else ":")):
        inputs_of(FeatureExtractor(CONFIG), None, heard)
