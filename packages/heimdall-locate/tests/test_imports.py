"""The package is light to import."""

import subprocess
import sys

import heimdall_locate


def loads(module: str, *names: str) -> list[str]:
    """Those of the names that a fresh interpreter has loaded after importing the module."""
    code = f"import sys, {module}\nprint(*({set(names)!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_the_package_loads_neither_torch_nor_scipy():
    """The command starts in half a second, and receivers' small computers have no torch."""
    assert not loads("heimdall_locate", "torch", "scipy", "hypothesis")


def test_a_loaded_module_would_be_noticed():
    """The test above can fail: NumPy is loaded, and found."""
    assert loads("heimdall_locate", "numpy") == ["numpy"]


def test_the_names_of_the_contract_are_public():
    """Other packages import them; a missing one breaks these packages."""
    assert set(heimdall_locate.__all__) >= {"Candidate", "Ellipse", "Position", "Site", "locate"}
    assert all(hasattr(heimdall_locate, name) for name in heimdall_locate.__all__)
