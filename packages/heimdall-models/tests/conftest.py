"""Small real things that several test modules use."""

import os

# Before timm is imported: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from heimdall_models import Region
from hypothesis import settings

# A test that asserts on time fails on a busy machine; Hypothesis would, by default.
settings.register_profile("heimdall", deadline=None)
settings.load_profile("heimdall")


@pytest.fixture(scope="session")
def region():
    """North-west Italy, where the demo's transmitters are."""
    return Region.around([44.3, 45.6], [7.1, 9.3])


@pytest.fixture(scope="session")
def sessions(region):
    """Forty sessions whose levels tell where the transmitter is."""
    rng = np.random.default_rng(5)
    units = rng.uniform(-0.9, 0.9, (40, 2))
    receivers = np.array([[-0.5, 0.1], [0.6, -0.7], [0.8, 0.6]])
    distance = np.linalg.norm(units[:, None] - receivers, axis=-1)
    levels = -80 - 20 * np.log10(distance + 0.1)
    noise = rng.normal(0, 3, (40, 3, 128, 32))
    return [
        {
            "features": (levels[i, :, None, None] + noise[i]).astype(np.float32),
            "position_deg": region.to_degrees(units[i]),
            "session_id": f"session-{i}",
        }
        for i in range(40)
    ]
