"""What importing loads, and what is said where an extra is missing."""

import subprocess
import sys

import heimdall_export
import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "mlflow", "minio", "boto3", "numpy", "fastapi", "uvicorn")


def loaded_by(statement):
    """The heavy packages that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_importing_the_package_loads_nothing_heavy():
    """The command line's help must answer at once."""
    assert loaded_by("import heimdall_export; heimdall_export.ExportError") == set()


def test_the_predictor_loads_only_what_a_service_has():
    """Services install neither torch nor onnx nor mlflow."""
    assert loaded_by("from heimdall_export import Predictor") == {"numpy"}


def test_the_service_loads_neither_torch_nor_mlflow():
    """It starts in a second, in an image of 300 MB."""
    loaded = loaded_by("import heimdall_export.serving.app")
    assert loaded == {"numpy", "fastapi"}


def test_the_probe_can_say_yes():
    """The tests above can fail: what is loaded is seen."""
    assert loaded_by("import numpy, onnxruntime") == {"numpy", "onnxruntime"}


@pytest.mark.parametrize("name", heimdall_export.__all__)
def test_every_public_name_is_there(name):
    """A name in the list that cannot be imported is a broken promise."""
    assert getattr(heimdall_export, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error():
    """As of any module, so that `hasattr` works."""
    assert not hasattr(heimdall_export, "exprot_onnx")


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("export_onnx", "torch", "onnx"),
        ("check_parity", "torch", "onnx"),
        ("MLflowTracker", "mlflow", "mlflow"),
        ("register", "mlflow", "mlflow"),
        ("upload_model", "minio", "s3"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(name, missing, extra):
    """Most installations are services, without the extras."""
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        f"try:\n    from heimdall_export import {name}\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert f"pip install 'heimdall-export[{extra}]'" in said


def test_the_service_without_its_extra_is_told_in_one_line():
    """`heimdall-serve` is installed with every heimdall-export."""
    code = (
        "import sys\nsys.modules['fastapi'] = None\n"
        "from heimdall_export.serving.command import main\nmain(['x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "heimdall-serve: the service needs fastapi: pip install 'heimdall-export[service]'\n"
    )


def test_completion_offers_the_public_names():
    """They are loaded late, and can be found all the same."""
    assert set(heimdall_export.__all__) <= set(dir(heimdall_export))
