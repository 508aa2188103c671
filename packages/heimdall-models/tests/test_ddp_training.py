"""Training on two processes: one network, one end."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def said():
    """What the two processes report."""
    program = Path(__file__).parent / "ddp_training_program.py"
    result = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_two_processes_train_one_network_while_its_backbone_thaws(said):
    """A stage whose gradients were not added up would differ between processes, unseen."""
    assert said.count("alike=True") == 2, said


def test_divergence_on_one_process_ends_both_and_names_its_session(said):
    """The other one would wait for ever for its share of a gradient."""
    assert said.count("stopped=True") == 2, said
