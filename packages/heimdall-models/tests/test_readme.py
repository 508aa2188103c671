"""The README's example is the first thing that anyone runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def examples():
    """The README's programs, in order."""
    parts = README.read_text().split("```python\n")[1:]
    return [part.partition("```")[0] for part in parts]


CHECKS = (
    "import torch\nposition, sigma = serving(torch.full((1, 3, 128, 32), -80.0))\n"
    "assert position.shape == sigma.shape == (1, 2)",
    "assert position_deg.shape == (40, 2)\nassert covariance_m2.shape == (40, 2, 2)",
    "assert found.position.shape == (64, 2)\nassert found.covariance.shape == (64, 3)\n"
    "assert plain.converged.all()",
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2], ids=["training", "baselines", "timing"])
def test_an_example_of_the_readme_runs(tmp_path, number):
    """As it is printed, in an empty folder; then its results are used."""
    result = subprocess.run(
        [sys.executable, "-c", f"{examples()[number]}\n{CHECKS[number]}\n"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
