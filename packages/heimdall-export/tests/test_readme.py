"""The README's examples are the first things that anyone runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def examples():
    """The README's blocks of Python, in their order."""
    return [block.partition("```")[0] for block in README.read_text().split("```python\n")[1:]]


def said_by(program, folder):
    """What a program prints in a folder, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the examples run one after the other."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def trained(folder):
    """What the first example leaves behind, and prints."""
    return said_by(examples()[0], folder)


@pytest.mark.slow
def test_the_trainers_example_exports_uploads_and_promotes(trained):
    """Half an hour of guessing per new user is what a broken example costs."""
    assert "ParityReport(n_features=64, batch_sizes=(1, 4, 8, 16, 32, 64)" in trained.stdout
    assert "version 1, in production, is s3://heimdall-models/models/localization/v" in (
        trained.stdout
    )
    assert trained.stderr == ""


@pytest.mark.slow
def test_the_services_example_runs_without_the_extras(trained, folder, without_extras):
    """It is what a service does, where only the package itself is installed."""
    said = said_by(without_extras + examples()[1], folder).stdout
    assert said.startswith("hears Torino, Genova, Milano\n")
    assert " N " in said
    assert "one sigma: " in said


def test_the_extras_are_really_out_of_reach_there(without_extras):
    """The test above can fail: with the same preparation, importing torch does."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        said_by(without_extras + "import torch", ".")
    assert "ModuleNotFoundError" in failed.value.stderr


def test_there_are_two_examples_and_both_are_run():
    """A third one must not go untested."""
    assert len(examples()) == 2
