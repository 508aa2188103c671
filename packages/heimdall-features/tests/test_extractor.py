"""The tensor that training and service share."""

import re
import unicodedata

import numpy as np
import pytest
from heimdall_features import (
    Blocks,
    ClockedRecording,
    FeatureConfig,
    FeatureError,
    FeatureExtractor,
    iq_to_mel_spectrogram,
)
from heimdall_features.testing import feature_configs, noise, recordings, tone
from hypothesis import given
from hypothesis import strategies as st

CONFIG = FeatureConfig(receivers=("Torino", "Genova", "Giaveno"))
EXTRACT = FeatureExtractor(CONFIG)
IQ = noise(np.random.default_rng(0), 48_000).astype(np.complex64)


@given(st.data())
def test_features_are_finite_and_above_the_floor(data):
    """A NaN would spread through the whole network."""
    config = data.draw(feature_configs())
    features = FeatureExtractor(config)(data.draw(recordings(config)))
    assert (features.shape, features.dtype) == (config.shape, np.float32)
    assert np.isfinite(features).all()
    assert features.min() >= config.floor_db


@given(st.permutations(CONFIG.receivers))
def test_channels_are_in_the_configured_order(order):
    """The order of a dictionary must not matter."""
    level = {"Torino": 1.0, "Genova": 0.1, "Giaveno": 0.01}
    features = EXTRACT({name: (level[name] * IQ, 48e3) for name in order})
    np.testing.assert_allclose(features[0] - features[1], 20, atol=0.01)
    np.testing.assert_allclose(features[1] - features[2], 20, atol=0.01)


@given(st.integers(2048, 48_000), st.integers(1, 3))
def test_threads_and_the_other_receivers_length_decide_nothing_else(n_samples, n_threads):
    """A column must be the same time at every receiver: all are cut to the shortest."""
    heard = {"Torino": (IQ, 48e3), "Genova": (IQ[:n_samples], 48e3)}
    features = FeatureExtractor(CONFIG, n_threads=n_threads)(heard)
    np.testing.assert_array_equal(features, EXTRACT(heard))
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(
        features[0], iq_to_mel_spectrogram(IQ[:n_samples], 48e3, n_frames=32)
    )


@pytest.mark.parametrize(("missing_db", "fill_db"), [(None, -140.0), (-95.0, -95.0)])
def test_a_missing_receiver_is_filled_as_configured(missing_db, fill_db):
    """The network must always see the same for a station that is down."""
    config = FeatureConfig(receivers=CONFIG.receivers, missing_db=missing_db)
    features = FeatureExtractor(config)({"Torino": (IQ, 48e3), "Genova": None})
    assert features.shape == (3, 128, 32)
    assert (features[1:] == fill_db).all()


def test_receivers_of_different_rates_hear_a_tone_in_the_same_band():
    """A model trained on 48 kHz serves a station that samples at 192 kHz."""
    heard = {
        "Torino": (tone(5000.0, 192e3, 192_000), 192_000),
        "Genova": (tone(5000.0, 12_501.3, 12_501), 12_501.3),
        "Giaveno": (tone(5000.0, 48e3, 48_000), 48_000),
    }
    features = EXTRACT(heard)
    peaks = features.max(axis=1)[:, 1:-1]
    assert len(set(features[:, :, 16].argmax(axis=1))) == 1
    np.testing.assert_allclose(peaks, np.broadcast_to(peaks[2], peaks.shape), atol=0.01)


def test_metadata_restore_the_extractor():
    """A service has nothing but the strings in the model file."""
    metadata = EXTRACT.metadata()
    again = FeatureExtractor.from_metadata({**metadata, "heimdall.run_id": "1"})
    assert again.config == CONFIG
    assert repr(again) == repr(EXTRACT)
    assert set(metadata) == {f"heimdall.features.{x}" for x in ("config", "fingerprint", "version")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint 0000000000000000.*install heimdall-features 7.1"),
        ({"config": '{"window":"kaiser"}'}, r"unknown \['window'\].* heimdall-features 7\.1\.0"),
    ],
)
def test_a_model_of_another_version_is_rejected_with_that_version(changed, message):
    """Wrong features would give positions that look right."""
    metadata = EXTRACT.metadata() | {"heimdall.features.version": "7.1.0"}
    metadata |= {f"heimdall.features.{name}": value for name, value in changed.items()}
    with pytest.raises(FeatureError, match=message):
        FeatureExtractor.from_metadata(metadata)


def test_metadata_without_features_are_rejected():
    """A service can be given a model of somebody else."""
    with pytest.raises(FeatureError, match=r"lack \['heimdall.features.config', 'heimdall"):
        FeatureExtractor.from_metadata({"author": "somebody"})


@pytest.mark.parametrize("others", [{}, {"Torino": (IQ, 48e3)}])
@pytest.mark.parametrize("n_samples", [0, 100])
def test_the_error_names_the_recording_that_is_too_short(others, n_samples):
    """The others are cut to it, and would look too short themselves."""
    with pytest.raises(FeatureError, match=f"'Genova': {n_samples} samples are less than one fram"):
        EXTRACT({**others, "Genova": (IQ[:n_samples], 48e3)})


@pytest.mark.parametrize("iq", [IQ[:60], Blocks([IQ[:60]], 60)])
def test_a_short_recording_is_told_in_its_own_samples(iq):
    """Whoever recorded 60 samples at 192 kHz knows nothing of 15 at 48 kHz."""
    message = "'Genova': 60 samples at 192000 Hz are less than one frame of n_fft=2048 at 48000 Hz"
    with pytest.raises(FeatureError, match=message):
        EXTRACT({"Genova": (iq, 192e3)})


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_receiver_is_known_by_either_spelling(forms):
    """The name in a request may come from a Mac's file, and that in the model from a keyboard."""
    configured, given_name = (unicodedata.normalize(form, "Zürich") for form in forms)
    extract = FeatureExtractor(FeatureConfig(receivers=("Torino", configured)))
    recordings = {given_name: (IQ, 48e3)}
    expected = extract({configured: (IQ, 48e3)})
    assert np.array_equal(extract(recordings), expected)
    assert np.array_equal(extract.each(recordings)[0], expected)
    assert list(extract.cut(recordings)[0]) == [configured]
    with pytest.raises(FeatureError, match="given twice"):
        extract({configured: (IQ, 48e3), given_name: (IQ, 48e3)})
    with pytest.raises(FeatureError, match="contain a name twice"):
        FeatureConfig(receivers=(configured, given_name))


def test_there_must_be_at_least_one_thread():
    """No thread would wait for ever."""
    with pytest.raises(FeatureError, match="n_threads is 0"):
        FeatureExtractor(CONFIG, n_threads=0)


def own_times(start_s, rate_hz, duration_s):
    """Samples that hold the time at which each was taken."""
    return (start_s + np.arange(round(duration_s * rate_hz)) / rate_hz).astype(np.complex64)


@given(st.tuples(*[st.floats(-0.3, 0.3)] * 2), st.sampled_from([12_000.0, 48_000.0]))
def test_recordings_are_cut_to_the_time_that_they_share(starts_s, rate_hz):
    """A column of the features must be the same time at every receiver."""
    early, late = starts_s
    heard = {
        "Giaveno": (own_times(0.0, 48e3, 1.25), 48e3),
        "Genova": ClockedRecording(
            own_times(late, rate_hz, 1.2), rate_hz, late, clock_sigma_s=1e-6
        ),
        "Torino": ClockedRecording(own_times(early, 48e3, 1.0), 48e3, early),
    }
    cut, refused = EXTRACT.cut(heard)
    assert refused == {}
    assert [*cut] == ["Torino", "Genova", "Giaveno"]  # the shortest first
    begin_s = max(starts_s)
    duration_s = min(early + 1.0, late + 1.2, begin_s + 1.25) - begin_s
    for name, one in cut.items():
        sample_s = 1 / one.sample_rate_hz
        assert one.iq.size * sample_s == pytest.approx(duration_s, abs=1.01 * sample_s)
        assert one.iq[0] == pytest.approx(one.start_s, abs=1e-6)
        assert one.start_s == pytest.approx(
            0.0 if name == "Giaveno" else begin_s, abs=0.501 * sample_s
        )
    assert [one.clock_sigma_s for one in cut.values()] == [0.0, 1e-6, np.inf]


def test_a_clock_that_is_not_locked_is_no_clock():
    """Its start would cut the others at the wrong time."""
    adrift = ClockedRecording(own_times(0.5, 48e3, 1.0), 48e3, 0.5, clock_sigma_s=1.0)
    cut, _ = EXTRACT.cut({"Torino": (IQ, 48e3), "Genova": adrift, "Giaveno": None})
    assert {name: one.iq.size for name, one in cut.items()} == {"Torino": 48_000, "Genova": 48_000}
    assert (cut["Genova"].start_s, cut["Genova"].clock_sigma_s) == (0.0, 1.0)


def test_what_cannot_be_cut_is_refused_alone():
    """The other receivers of the session are still worth something."""
    nothing = np.empty(0, np.complex64)
    unusable = (
        ((nothing, 48e3), "0 samples, or Blocks"),
        ((Blocks([IQ], IQ.size), 48e3), "0 samples, or Blocks"),
        ((IQ.real, 48e3), "takes complex IQ"),
        ((IQ, 0.0), "positive number of Hz"),
        ((IQ,), "give .iq, sample_rate_hz., not tuple"),
    )
    for bad, why in unusable:
        cut, refused = EXTRACT.cut({"Genova": bad, "Torino": (IQ, 48e3)})
        assert [*cut] == ["Torino"]
        assert [*refused] == ["Genova"]
        assert re.search(f"receiver 'Genova': .*{why}", str(refused["Genova"]))
        alone, refused = EXTRACT.cut({"Genova": bad})
        assert (alone, [*refused]) == ({}, ["Genova"])


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        ({}, "no recording at all; give one of"),
        ({"Torino": None}, "no recording at all; give one of"),
        ({"Roma": (IQ, 48e3)}, "Roma"),
        ({"Torino": ClockedRecording(IQ, 48e3, np.nan)}, "'Torino': start_s is nan"),
    ],
)
def test_nothing_to_cut_is_an_error(heard, message):
    """Features of nothing would be a picture of missing receivers."""
    with pytest.raises(FeatureError, match=message):
        EXTRACT.cut(heard)


def test_each_recording_is_computed_alone():
    """One damaged recording must not cost a session."""
    heard = {"Genova": (IQ.real, 48e3), "Torino": (IQ, 48e3), "Giaveno": (IQ[:24_000], 48e3)}
    features, refused = EXTRACT.each(heard)
    assert (features.dtype, features.shape) == (np.float32, CONFIG.shape)
    for name, channel in (("Torino", 0), ("Giaveno", 2)):
        np.testing.assert_array_equal(features[channel], EXTRACT({name: heard[name]})[channel])
    assert (features[1] == CONFIG.fill_db).all()
    assert {name: str(error)[:30] for name, error in refused.items()} == {
        "Genova": "receiver 'Genova': a two-sided"
    }


def test_silence_at_all_receivers_refuses_each_that_was_usable():
    """A position from nothing would be a guess."""
    silence = (np.zeros(48_000, np.complex64), 48e3)
    features, refused = EXTRACT.each({"Genova": (IQ,), "Torino": silence, "Giaveno": silence})
    assert (features == CONFIG.fill_db).all()
    assert [*refused] == ["Genova", "Torino", "Giaveno"]
    assert str(refused["Genova"]).startswith("receiver 'Genova': give")
    assert str(refused["Giaveno"]).startswith("only silence from 'Torino', 'Giaveno': nothing")
