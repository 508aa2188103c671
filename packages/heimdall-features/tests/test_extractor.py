"""The tensor that training and service share."""

import numpy as np
from heimdall_features import FeatureConfig, FeatureExtractor


def test_the_tensor_has_the_contracts_shape():
    """The model file fixes (3, 128, 32): anything else cannot be fed to it."""
    config = FeatureConfig(receivers=("Torino", "Genova", "Giaveno"))
    iq = np.exp(2j * np.pi * 0.1 * np.arange(48_000)).astype(np.complex64)
    features = FeatureExtractor(config)({"Torino": (iq, 48_000), "Giaveno": (iq, 48_000)})
    assert features.shape == (3, 128, 32)
    assert features.dtype == np.float32
    assert (features[1] == -140).all()
