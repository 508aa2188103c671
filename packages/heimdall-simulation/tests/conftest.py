"""Real servers for the tests that ingest; no deadline, because the machine may be busy."""

from hypothesis import settings

pytest_plugins = ["heimdall_data.testing.fixtures"]

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
