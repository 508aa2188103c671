"""The README's example is the first thing anyone runs."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_example_runs():
    """It checks itself: its assertions are the documentation."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(example, str(README), "exec"), {})


def test_an_example_that_lies_would_be_noticed():
    """The test above can fail: with another shape, it does."""
    text = README.read_text()
    assert "(3, 128, 32)" in text
    (example,) = re.findall(r"```python\n(.*?)```", text.replace("(3, 128, 32)", "(1,)"), re.DOTALL)
    try:
        exec(compile(example, str(README), "exec"), {})
    except AssertionError:
        return
    raise AssertionError("the README's assertions check nothing")
