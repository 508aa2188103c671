"""The README's examples are the first thing that anyone runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def run(text):
    """Run all blocks of Python, one after the other, as a reader would."""
    names = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(example, str(README), "exec"), names)


def test_the_readmes_examples_run(tmp_path, monkeypatch):
    """Their assertions check the results; they write into the current folder."""
    monkeypatch.chdir(tmp_path)
    run(README.read_text())
    assert (tmp_path / "found" / "map.html").exists()
    assert (tmp_path / "calibration.json").exists()


def test_a_wrong_example_would_be_noticed(tmp_path, monkeypatch):
    """The test above can fail: with another place, it does."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        run(README.read_text().replace("deg - 45.1", "deg - 46.1"))
