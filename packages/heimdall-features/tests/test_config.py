"""A configuration is valid once created, and has one fingerprint."""

import hashlib
import subprocess
import sys
from fractions import Fraction

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


def test_the_fingerprint_is_that_of_the_documented_text():
    """By hand: a program in another language can compute it."""
    text = (
        'heimdall-features:1:{"f_max_hz":null,"f_min_hz":0.0,"floor_db":-140.0,"hop_length":512,'
        '"mel_norm":"peak","mel_scale":"radio","missing_db":null,"n_fft":2048,"n_frames":32,'
        '"n_mels":128,"receivers":["A"],"sample_rate_hz":48000.0,"spectrum":"two-sided"}'
    )
    assert text.endswith(DEFAULT.to_json())
    assert DEFAULT.fingerprint == hashlib.sha256(text.encode()).hexdigest()


ONE_SIDED = {"spectrum": "one-sided", "sample_rate_hz": 8e3}


@pytest.mark.parametrize(
    ("largest", "beyond"),
    [
        ({"n_fft": 4, "hop_length": 4}, {"n_fft": 2, "hop_length": 2}),
        ({"n_mels": 1}, {"n_mels": 0}),
        ({"n_frames": 1}, {"n_frames": -1}),
        ({"hop_length": 2048}, {"hop_length": 2049}),
        ({"hop_length": 1}, {"hop_length": 0}),
        ({"floor_db": -999.0}, {"floor_db": -1000.0}),
        ({"floor_db": 999.0}, {"floor_db": 1000.0}),
        ({"missing_db": -999.0}, {"missing_db": -1000.0}),
        ({"missing_db": 999.0}, {"missing_db": 1000.0}),
        ({"f_max_hz": 24e3}, {"f_max_hz": 24_001.0}),
        (ONE_SIDED | {"f_min_hz": 3999.0}, ONE_SIDED | {"f_min_hz": 4000.0}),
        (
            ONE_SIDED | {"f_min_hz": 9.0, "f_max_hz": 10},
            ONE_SIDED | {"f_min_hz": 10, "f_max_hz": 10},
        ),
        (ONE_SIDED | {"f_min_hz": 0}, ONE_SIDED | {"f_min_hz": -1.0}),
        ({"sample_rate_hz": 1.0}, {"sample_rate_hz": -1.0}),
    ],
)
def test_settings_are_accepted_up_to_their_limits(largest, beyond):
    """Each limit is what the message says, and not the value before or after it."""
    name = list(largest)[-1] if "n_fft" not in largest else "n_fft"
    assert getattr(FeatureConfig(receivers=A, **largest), name) == largest[name]
    with pytest.raises(FeatureError, match=name.removesuffix("_length")):
        FeatureConfig(receivers=A, **beyond)


@pytest.mark.parametrize("name", ["n_mels", "n_fft", "hop_length", "n_frames"])
@pytest.mark.parametrize("value", [True, 8.0, "8", None, 0, -8])
def test_a_count_is_a_whole_number_above_zero(name, value):
    """True is 1 to Python, and never what was meant."""
    with pytest.raises(FeatureError, match=f"^{name} is {value!r}; it must be a whole number"):
        FeatureConfig(receivers=A, **{name: value})


@pytest.mark.parametrize(
    "name", ["sample_rate_hz", "f_min_hz", "floor_db", "f_max_hz", "missing_db"]
)
@pytest.mark.parametrize("value", [True, "8", 1j, float("inf"), float("nan"), 10**400])
def test_a_quantity_is_a_finite_number(name, value):
    """A string of a settings file, or an overflow, would reach the arithmetic."""
    with pytest.raises(FeatureError, match=f"^{name} is .*; it must be a finite number"):
        FeatureConfig(receivers=A, **{name: value})


def test_numbers_of_any_kind_are_stored_as_pythons():
    """JSON knows no NumPy."""
    given = {"n_mels": np.int32(64), "sample_rate_hz": Fraction(8000), "floor_db": np.float32(-100)}
    config = FeatureConfig(receivers=(name for name in "AB"), f_max_hz=np.int64(9), **given)
    found = (config.n_mels, config.sample_rate_hz, config.floor_db, config.f_max_hz)
    assert list(map(type, found)) == [int, float, float, float]
    assert found == (64, 8000.0, -100.0, 9.0)
    assert config.receivers == ("A", "B")
    assert config.shape == (2, 64, 32)


@pytest.mark.parametrize("receivers", ["", 7, None, [""], ("A", ""), [None]])
def test_receivers_are_names(receivers):
    """A channel without a name cannot be found in a session."""
    with pytest.raises(FeatureError, match=r"^receivers is "):
        FeatureConfig(receivers=receivers)


WRITTEN = DEFAULT.metadata() | {"heimdall.features.version": "9.9.9"}


def test_a_model_file_brings_back_its_settings():
    """The contract's keys; whatever else the file holds is left alone."""
    assert sorted(DEFAULT.metadata()) == [
        "heimdall.features.config",
        "heimdall.features.fingerprint",
    ]
    assert FeatureConfig.from_metadata(WRITTEN | {"other": "x"}) == DEFAULT


@pytest.mark.parametrize("missing", list(DEFAULT.metadata()))
def test_a_missing_entry_of_a_model_file_is_named(missing):
    """Defaults in its place would give other features."""
    entries = {key: value for key, value in WRITTEN.items() if key != missing}
    with pytest.raises(FeatureError, match=rf"lack \['{missing}'\]"):
        FeatureConfig.from_metadata(entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"fingerprint": "0" * 64}, f"0{{16}}, .* version 1 gives {DEFAULT.fingerprint[:16]}"),
        ({"config": "{"}, "'{' is not the JSON of a FeatureConfig"),
        ({"config": "7"}, "'7' is not the JSON of a FeatureConfig"),
        ({"config": DEFAULT.to_json().replace("128", "null")}, "n_mels is None"),
        ({"config": DEFAULT.to_json().replace("2048", "1024")}, "gives [0-9a-f]{16};"),
    ],
)
def test_a_model_file_of_another_version_names_its_writer(entries, message):
    """The one thing to do is to install that version."""
    changed = WRITTEN | {f"heimdall.features.{key}": value for key, value in entries.items()}
    with pytest.raises(FeatureError, match=rf"{message}.*heimdall-features 9\.9\.9"):
        FeatureConfig.from_metadata(changed)
    del changed["heimdall.features.version"]
    with pytest.raises(FeatureError, match="heimdall-features of an unknown version"):
        FeatureConfig.from_metadata(changed)
