"""The tensor that training and service share."""

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError, FeatureExtractor, iq_to_mel_spectrogram
from heimdall_features.testing import feature_configs, noise, recordings, tone
from hypothesis import given
from hypothesis import strategies as st

CONFIG = FeatureConfig(receivers=("Torino", "Genova", "Giaveno"))
IQ = noise(np.random.default_rng(0), 48_000).astype(np.complex64)


@given(st.data())
def test_features_are_finite_and_above_the_floor(data):
    """Never NaN out: a network would spread it everywhere."""
    config = data.draw(feature_configs())
    features = FeatureExtractor(config)(data.draw(recordings(config)))
    assert features.shape == config.shape
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert features.min() >= config.floor_db


@given(st.permutations(CONFIG.receivers))
def test_channels_stand_in_the_configurations_order(order):
    """A dictionary's order must not say which receiver is which."""
    level = {"Torino": 1.0, "Genova": 0.1, "Giaveno": 0.01}
    features = FeatureExtractor(CONFIG)({name: (level[name] * IQ, 48e3) for name in order})
    np.testing.assert_allclose(features[0] - features[1], 20, atol=0.01)
    np.testing.assert_allclose(features[1] - features[2], 20, atol=0.01)


@given(st.sampled_from([1, 2, 3]))
def test_threads_change_nothing(n_threads):
    """Speed must not be a setting of the features."""
    heard = dict.fromkeys(CONFIG.receivers, (IQ, 48000.0))
    np.testing.assert_array_equal(
        FeatureExtractor(CONFIG, n_threads=n_threads)(heard), FeatureExtractor(CONFIG)(heard)
    )


def test_the_function_gives_what_the_extractor_gives():
    """One definition: whichever door one comes in by."""
    one = FeatureExtractor(CONFIG)({"Torino": (IQ, 48e3)})[0]
    np.testing.assert_array_equal(one, iq_to_mel_spectrogram(IQ, 48e3, n_frames=32))


@pytest.mark.parametrize(("missing_db", "fill_db"), [(None, -140.0), (-95.0, -95.0)])
def test_a_missing_receiver_is_filled_as_configured(missing_db, fill_db):
    """Stations are down at times; the network must see the same thing for it every time."""
    config = FeatureConfig(receivers=CONFIG.receivers, missing_db=missing_db)
    features = FeatureExtractor(config)({"Torino": (IQ, 48e3), "Genova": None})
    assert features.shape == (3, 128, 32)
    assert (features[1:] == fill_db).all()


def test_receivers_of_different_rates_hear_the_same_tone_in_the_same_band():
    """A model trained on 48 kHz serves a station that samples at 192 kHz."""
    heard = {
        "Torino": (tone(5000.0, 192e3, 192_000), 192_000),
        "Genova": (tone(5000.0, 12_501.3, 12_501), 12_501.3),
        "Giaveno": (tone(5000.0, 48e3, 48_000), 48_000),
    }
    features = FeatureExtractor(CONFIG)(heard)
    peaks = features.max(axis=1)[:, 1:-1]
    assert len(set(features[:, :, 16].argmax(axis=1))) == 1
    np.testing.assert_allclose(peaks, np.broadcast_to(peaks[2], peaks.shape), atol=0.01)


def test_a_longer_recording_is_cut_to_the_shortest():
    """A column must be the same moment at every receiver."""
    both = FeatureExtractor(CONFIG)({"Torino": (IQ, 48e3), "Genova": (IQ[:20_000], 48e3)})
    np.testing.assert_array_equal(both[0], both[1])


def test_metadata_remake_the_extractor():
    """This is all that a service has: the strings in the model file."""
    made = FeatureExtractor(CONFIG)
    again = FeatureExtractor.from_metadata({**made.metadata(), "heimdall.run_id": "1"})
    assert again.config == CONFIG
    assert set(made.metadata()) == {
        "heimdall.features.config",
        "heimdall.features.fingerprint",
        "heimdall.features.version",
    }


def test_a_model_of_another_algorithm_is_refused_with_the_version_that_can():
    """Wrong features would give positions that look right."""
    metadata = FeatureExtractor(CONFIG).metadata()
    metadata |= {"heimdall.features.fingerprint": "0" * 64, "heimdall.features.version": "7.1.0"}
    with pytest.raises(FeatureError, match=r"install heimdall-features 7\.1\.0, which made them"):
        FeatureExtractor.from_metadata(metadata)


def test_a_model_with_settings_of_the_future_is_refused_with_the_version_that_can():
    """A newer trainer and an older service meet every day."""
    metadata = FeatureExtractor(CONFIG).metadata()
    metadata["heimdall.features.config"] = '{"window":"kaiser"}'
    metadata["heimdall.features.version"] = "9.0.0"
    with pytest.raises(FeatureError) as error:
        FeatureExtractor.from_metadata(metadata)
    assert "does not know: ['window']" in str(error.value)
    assert "heimdall-features 9.0.0 made" in str(error.value)


def test_a_file_that_is_no_model_of_ours_is_refused():
    """Somebody points the service at another network."""
    with pytest.raises(FeatureError, match=r"lack \['heimdall.features.config', 'heimdall"):
        FeatureExtractor.from_metadata({"author": "somebody"})


def test_a_fault_is_told_with_the_receivers_name():
    """Seven recordings come in; one is at fault."""
    with pytest.raises(FeatureError, match="'Genova': 100 samples are less than one frame of n_ff"):
        FeatureExtractor(CONFIG)({"Genova": (IQ[:100], 48e3)})


def test_the_recording_that_is_too_short_is_the_one_that_is_named():
    """The others are cut to it, and would look too short themselves."""
    with pytest.raises(FeatureError, match="'Genova': 0 samples are less than one frame"):
        FeatureExtractor(CONFIG)({"Torino": (IQ, 48e3), "Genova": (IQ[:0], 48e3)})


def test_there_must_be_at_least_one_thread():
    """Zero threads would wait for ever."""
    with pytest.raises(FeatureError, match="n_threads is 0"):
        FeatureExtractor(CONFIG, n_threads=0)


def test_an_extractor_says_which_features_it_makes():
    """In a log, two extractors must be told apart."""
    assert "receivers=('Torino', 'Genova', 'Giaveno')" in repr(FeatureExtractor(CONFIG))
