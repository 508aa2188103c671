"""Values that models in service were trained on."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from heimdall_features.config import ALGORITHM_VERSION

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("golden", HERE / "golden.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
STORED = json.loads((HERE / "golden.json").read_text())
REMEDY = (
    "the values of a feature have changed: increase ALGORITHM_VERSION in config.py, "
    "and run `python tests/golden.py`"
)


def test_the_stored_values_are_of_this_algorithm_version():
    """A new version needs new values, and new values a new version."""
    assert STORED["algorithm_version"] == ALGORITHM_VERSION, "run `python tests/golden.py`"


@pytest.mark.parametrize("name", golden.CONFIGS)
def test_fingerprints_never_change(name):
    """A service rejects a model file with another fingerprint."""
    assert golden.CONFIGS[name].fingerprint == STORED["fingerprints"][name], REMEDY


@pytest.mark.parametrize("name", STORED["features"])
def test_features_never_change(name):
    """Not by more than rounding: 0.01 dB down to 80 dB below the strongest."""
    stored = np.array(STORED["features"][name])
    heard = stored > stored.max() - 80
    found = np.array(golden.features()[name])
    np.testing.assert_allclose(found[heard], stored[heard], atol=0.01, err_msg=REMEDY)


def test_correlations_never_change():
    """They are features too."""
    np.testing.assert_allclose(
        golden.correlations(), STORED["correlation"], atol=2e-3, err_msg=REMEDY
    )


def test_a_changed_feature_would_be_noticed():
    """The tests above can fail: two hundredths of a dB are too many."""
    stored = np.array(STORED["features"]["htk, resampled"])
    assert stored.shape == (14, 3)
    with pytest.raises(AssertionError, match="increase ALGORITHM_VERSION"):
        np.testing.assert_allclose(stored + 0.02, stored, atol=0.01, err_msg=REMEDY)
