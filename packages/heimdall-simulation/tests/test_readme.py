"""The README's example is the first thing that anyone runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def run(text):
    """Run the only block of Python."""
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, str(README), "exec"), {})


def test_the_readmes_example_runs():
    """Its assertions check the result."""
    run(README.read_text())


def test_a_wrong_example_would_be_noticed():
    """The test above can fail: with another number of stations, it does."""
    with pytest.raises(AssertionError):
        run(README.read_text().replace("== 7", "== 8"))
