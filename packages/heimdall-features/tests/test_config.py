"""A configuration is valid once created, and has one fingerprint."""

import subprocess
import sys

import numpy as np
import pytest
from heimdall_features import FeatureConfig, FeatureError
from heimdall_features.testing import feature_configs
from hypothesis import given

A = ("A",)
DEFAULT = FeatureConfig(receivers=A)


@given(feature_configs())
def test_json_keeps_everything(config):
    """The configuration is stored in the model file and must not change there."""
    again = FeatureConfig.from_json(config.to_json())
    assert again == config
    assert again.fingerprint == config.fingerprint


@given(feature_configs(), feature_configs())
def test_configurations_share_a_fingerprint_only_if_equal(one, other):
    """A service compares nothing but the fingerprint."""
    assert (one == other) == (one.fingerprint == other.fingerprint)


def test_the_fingerprint_is_the_same_in_another_interpreter():
    """Training and service are other processes, with another hash randomisation."""
    code = "import heimdall_features as f; print(f.FeatureConfig(receivers=('A',)).fingerprint)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in "12"
    }
    assert found == {f"{DEFAULT.fingerprint}\n".encode()}


@pytest.mark.parametrize(
    "same",
    [{"sample_rate_hz": 48_000}, {"n_mels": np.int64(128)}, {"f_min_hz": -0.0}, {"floor_db": -140}],
)
def test_equal_values_have_one_fingerprint(same):
    """48000 and 48000.0 are the same rate; spelling must not make a model unusable."""
    assert FeatureConfig(receivers=A, **same).fingerprint == DEFAULT.fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_mels": 0}, "n_mels is 0"),
        ({"n_frames": 2.5}, "n_frames is 2.5; it must be a whole number"),
        ({"n_fft": 1023}, "n_fft is 1023; it must be even"),
        ({"hop_length": 4096}, "hop_length 4096 exceeds n_fft"),
        ({"sample_rate_hz": 0.0}, "sample_rate_hz is 0.0"),
        ({"sample_rate_hz": float("nan")}, "sample_rate_hz is nan"),
        ({"floor_db": -1e9}, "floor_db is -1000000000.0"),
        ({"spectrum": "both"}, "spectrum is 'both'; choose one of two-sided, one-sided"),
        ({"mel_scale": "bark"}, "mel_scale is 'bark'; choose one of radio, htk, slaney"),
        ({"f_min_hz": 100.0}, "f_min_hz is 100.0, but two-sided"),
        ({"f_max_hz": 30_000.0}, "f_max_hz=30000.0 .* half the sample rate, 24000.0 Hz"),
        ({"receivers": "Torino"}, "receivers is 'Torino'"),
        ({"receivers": ()}, r"receivers is \(\)"),
        ({"receivers": ("A", 3)}, r"receivers is \('A', 3\)"),
        ({"receivers": ("A", "A")}, r"receivers \('A', 'A'\)"),
        ({"sample_rate_hz": 10**400}, "000; it must be a finite number"),
        ({"missing_db": 1e39}, r"missing_db is 1e\+39"),
        ({"missing_db": True}, "missing_db is True"),
    ],
)
def test_invalid_settings_are_rejected(wrong, message):
    """The error gives the setting's name and value."""
    with pytest.raises(FeatureError, match=message):
        FeatureConfig(**{"receivers": A, **wrong})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "'{' is not the JSON"),
        ("[1]", r"'\[1\]' is not the JSON"),
        ('[["a", 1], ["b", 2]]', "is not the JSON"),
        ("null", "'null' is not the JSON"),
        ("[" * 100_000, r"'\[\[.* is not the JSON"),
        ('{"receivers": ["A"]}', r"missing \['f_max_hz'"),
        (DEFAULT.to_json().replace("{", '{"window":"kaiser",', 1), r"unknown \['window'\]"),
    ],
)
def test_invalid_json_is_rejected(text, message):
    """A damaged file must not give defaults, and an unknown setting could change every value."""
    with pytest.raises(FeatureError, match=message):
        FeatureConfig.from_json(text)
