"""The README's example is the first thing that anyone runs."""

import os
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_s_example_runs(tmp_path):
    """As it is printed, in an empty folder; then what it made is used."""
    (example,) = README.read_text().split("```python\n")[1:]
    program = example.partition("```")[0] + (
        "\nimport torch\nposition, sigma = serving(torch.full((1, 3, 128, 32), -80.0))\n"
        "assert position.shape == sigma.shape == (1, 2)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
