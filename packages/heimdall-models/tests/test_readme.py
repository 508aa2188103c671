"""The README's example is the first thing that anyone runs."""

import os
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def examples():
    """The README's programs, in order: training, and baselines."""
    parts = README.read_text().split("```python\n")[1:]
    return [part.partition("```")[0] for part in parts]


def test_the_readme_s_example_runs(tmp_path):
    """As it is printed, in an empty folder; then what it made is used."""
    run(
        examples()[0] + "\nimport torch\n"
        "position, sigma = serving(torch.full((1, 3, 128, 32), -80.0))\n"
        "assert position.shape == sigma.shape == (1, 2)\n",
        tmp_path,
    )


def test_the_baselines_example_runs(tmp_path):
    """Every baseline answers it: the last one asked has the shapes that it prints."""
    run(
        examples()[1] + "\nassert position_deg.shape == (40, 2)\n"
        "assert covariance_m2.shape == (40, 2, 2)\n",
        tmp_path,
    )


def test_the_timing_example_runs(tmp_path):
    """Trained for one epoch and calibrated, it answers with positions and covariances."""
    run(
        examples()[2] + "\nassert found.position.shape == (64, 2)\n"
        "assert found.covariance.shape == (64, 3)\n"
        "assert plain.converged.all()\n",
        tmp_path,
    )


def run(program, tmp_path):
    """A program to its end, in a folder of its own."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
