"""Every test of this package may ask for the real servers."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine takes longer over an example than Hypothesis allows.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["heimdall_data.testing.fixtures"]


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """The folder of real recordings, which is no part of the repository."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data" / "README.md").is_file():
            return parent / "shared" / "data"
    pytest.skip("the real recordings (../shared/data from the repository's root) are not here")
