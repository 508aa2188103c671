import subprocess
import sys

import heimdall_data
import pytest

HEAVY = ("torch", "numpy", "scipy", "psycopg", "minio", "rich", "psutil", "pytest")


def loads(module, *others):
    """Those of `others` that a fresh interpreter has loaded after importing `module`."""
    code = f"import {module}, sys; print(*[m for m in {others!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    """`heimdall --help` answers at once, and says so of every package it knows."""
    assert loads("heimdall_data", *HEAVY) == []


def test_the_probe_can_say_yes():
    """The test above can fail: the object store's module needs its client."""
    assert loads("heimdall_data.object_store.store", "minio") == ["minio"]


MODULES = ["catalogue.catalogue", "ingest.ingest", "embedded", "dataset", "ray_engine"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_loads_torch_scipy_or_ray(module):
    """Recordings are ingested on machines that never train, and Ray is an extra."""
    assert loads(f"heimdall_data.{module}", "torch", "scipy", "ray") == []


@pytest.mark.parametrize("name", heimdall_data.__all__)
def test_every_public_name_is_there_and_explained(name):
    """`__all__` is a promise."""
    assert getattr(heimdall_data, name).__doc__


def test_a_name_that_is_not_there_is_named():
    """A misspelt import fails as it does in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Catalog'"):
        _ = heimdall_data.Catalog


def test_completion_offers_the_public_names():
    """They are loaded late, and can be found all the same."""
    assert set(heimdall_data.__all__) <= set(dir(heimdall_data))
