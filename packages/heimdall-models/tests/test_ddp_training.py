"""Training on two processes: one network, one end, the metrics of one process."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def said():
    """Reports of the two processes."""
    program = Path(__file__).parent / "ddp_training_program.py"
    result = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fact", ["alike", "stopped", "agrees"])
def test_two_processes_are_one_training(said, fact):
    """Both have the same weights, stop at one's broken session, and measure what one measures.

    A stage whose gradients were not added up would differ unseen; a process would wait for ever
    for another's gradients; seven sessions are padded to eight, and counted as seven.
    """
    assert said.count(f"{fact}=True") == 2, said
