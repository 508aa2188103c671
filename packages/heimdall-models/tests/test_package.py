"""Importing the package stays light, and what it promises is there."""

import subprocess
import sys

import heimdall_models
import pytest


def loads(statement, *modules):
    """Which of the modules a fresh interpreter has loaded after the statement."""
    probe = f"import sys\n{statement}\nprint(*(m for m in {modules!r} if m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


def test_importing_the_package_loads_neither_torch_nor_timm_nor_lightning():
    """They take ten seconds, and a command line that prints its help needs none of them."""
    heavy = ("torch", "timm", "lightning", "pyproj", "numpy")
    assert loads("import heimdall_models", *heavy) == []


def test_geometry_and_metrics_do_without_torch():
    """The evaluation runs in a process where importing torch fails."""
    statement = (
        "from heimdall_models import Region, localization_metrics\n"
        "import heimdall_models.baselines, heimdall_models.calibration\n"
        "localization_metrics([[45.0, 8.0]], [[1.0, 1.0]], [[45.0, 8.0]])"
    )
    assert loads(statement, "torch", "timm", "lightning") == []


def test_the_probe_can_say_yes():
    """The tests above can fail: NumPy, once loaded, is seen."""
    assert loads("import numpy", "numpy") == ["numpy"]


def test_every_public_name_is_there():
    """`__all__` is what others import."""
    assert [name for name in heimdall_models.__all__ if not hasattr(heimdall_models, name)] == []
    assert dir(heimdall_models) == sorted(heimdall_models.__all__)


def test_an_unknown_name_is_said_with_those_that_exist():
    """A misspelt import should not need the documentation."""
    with pytest.raises(AttributeError, match=r"no 'LocalisationNet'; it has .*LocalizationNet"):
        _ = heimdall_models.LocalisationNet
