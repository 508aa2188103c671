"""A configuration is valid once made, and has one name."""

import subprocess
import sys

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError
from heimdall_features.testing import feature_configs
from hypothesis import given

A = ("A",)


@given(feature_configs())
def test_json_keeps_everything(config):
    """The configuration travels inside the model file and must come out as it went in."""
    again = FeatureConfig.from_json(config.to_json())
    assert again == config
    assert again.fingerprint == config.fingerprint


@given(feature_configs(), feature_configs())
def test_configurations_share_a_fingerprint_only_if_equal(one, other):
    """Serving trusts the fingerprint alone."""
    assert (one == other) == (one.fingerprint == other.fingerprint)


def test_the_fingerprint_is_the_same_in_another_interpreter():
    """Hash randomisation must not reach it: training and serving are other processes."""
    code = "import heimdall_features as f; print(f.FeatureConfig(receivers=('A',)).fingerprint)"
    seeds = [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}]
    found = {
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).stdout
        for env in seeds
    }
    assert found == {f"{FeatureConfig(receivers=A).fingerprint}\n".encode()}


@pytest.mark.parametrize(
    "same",
    [{"sample_rate_hz": 48_000}, {"n_mels": np.int64(128)}, {"f_min_hz": -0.0}, {"floor_db": -140}],
)
def test_one_meaning_has_one_fingerprint(same):
    """48000 and 48000.0 are the same rate; a model must not be refused over spelling."""
    default = FeatureConfig(receivers=A)
    assert FeatureConfig(receivers=A, **same).fingerprint == default.fingerprint


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_mels": 0}, "n_mels is 0; it must be a whole number of at least 1"),
        ({"n_frames": 2.5}, "n_frames is 2.5; it must be a whole number"),
        ({"n_fft": 1023}, "n_fft is 1023; it must be even"),
        ({"hop_length": 4096}, "hop_length 4096 exceeds n_fft 2048"),
        ({"sample_rate_hz": 0.0}, "sample_rate_hz is 0.0; a rate is positive"),
        ({"sample_rate_hz": float("nan")}, "sample_rate_hz is nan; it must be a finite number"),
        ({"floor_db": -1e9}, "floor_db is -1000000000.0; use a level such as"),
        ({"spectrum": "both"}, "spectrum is 'both'; choose one of two-sided, one-sided"),
        ({"mel_scale": "bark"}, "mel_scale is 'bark'; choose one of radio, htk, slaney"),
        ({"f_min_hz": 100.0}, "f_min_hz is 100.0, but two-sided bands start at the carrier"),
        ({"f_max_hz": 30_000.0}, "half the sample rate, 24000.0 Hz"),
        ({"receivers": "Torino"}, "receivers is 'Torino'; give a tuple of names"),
        ({"receivers": ()}, "name at least one"),
        ({"receivers": ("A", 3)}, "receiver 3 is no name"),
        ({"receivers": ("A", "A")}, "names one twice"),
        ({"sample_rate_hz": 10**400}, "000; it must be a finite number"),
        ({"missing_db": 1e39}, "missing_db is 1e+39; use a level such as -140 dB"),
        ({"missing_db": True}, "missing_db is True; it must be a finite number"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_remedy(wrong, says):
    """The message is all an operator sees."""
    with pytest.raises(FeatureError) as error:
        FeatureConfig(**{"receivers": A, **wrong})
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is JSON, not '{'"),
        ("[1]", "is a JSON object"),
        ("null", "is a JSON object"),
        ("[" * 100_000, "is JSON, not '[["),
        ('{"receivers": ["A"]}', "lacks ['f_max_hz'"),
    ],
)
def test_json_that_is_no_configuration_is_refused(text, says):
    """A damaged model file must not become a default."""
    with pytest.raises(FeatureError) as error:
        FeatureConfig.from_json(text)
    assert says in str(error.value)


def test_a_setting_from_the_future_is_refused_by_name():
    """A setting we do not know could change every number."""
    text = FeatureConfig(receivers=A).to_json().replace("{", '{"window":"kaiser",', 1)
    with pytest.raises(FeatureError, match=r"does not know: \['window'\]"):
        FeatureConfig.from_json(text)
