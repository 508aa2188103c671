"""Training and serving cut recordings to the same samples and compute the same spectrograms."""

import numpy as np
import pytest
from heimdall_data.recordings.recording import Recording
from heimdall_data.session_features import FeatureSource
from heimdall_data.session_reader import SessionRecordings, align
from heimdall_export.serving.predictor import mel_of
from heimdall_features import ClockedRecording, FeatureConfig, FeatureError, FeatureExtractor
from hypothesis import given, settings
from hypothesis import strategies as st

RECEIVERS = ("Torino", "Genova", "Milano")
CONFIG = FeatureConfig(
    receivers=RECEIVERS, sample_rate_hz=12_000, n_mels=8, n_fft=64, hop_length=32, n_frames=4
)
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


@given(
    st.dictionaries(st.sampled_from(RECEIVERS), one_recording, min_size=1),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)  # the first example loads SciPy
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
            clock_locked=start_ns is not None,
        )
    source = FeatureSource(CONFIG, None, None)
    source.reader = InMemory(recordings)
    trained = source.features(session=None)
    served = mel_of(FeatureExtractor(CONFIG), clocked(recordings))
    assert trained.unusable == {}
    assert served.tobytes() == trained.features.tobytes()


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
        mel_of(FeatureExtractor(CONFIG), heard)
