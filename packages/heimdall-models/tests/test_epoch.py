"""Metrics of a whole epoch, over batches and processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from heimdall_models import ModelError, Region
from heimdall_models.epoch import EpochPredictions, metrics_of
from hypothesis import given
from hypothesis import strategies as st

REGION = Region(45.0, 8.2, 1e5)


def predictions(n, seed=0):
    """Positions, sigmas, correlations and targets in plane units."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 2, generator=generator) - 0.5
    error = torch.randn(n, 2, generator=generator) / 10
    return target + error, torch.full((n, 2), 0.1), torch.rand(n, generator=generator) / 2, target


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_metrics_do_not_depend_on_the_batches(sizes):
    """A mean of batches' medians is not the median, and a small last batch counts too much."""
    whole = predictions(sum(sizes))
    epoch = EpochPredictions()
    for batch in zip(*(values.split(sizes) for values in whole), strict=True):
        epoch.add(*batch)
    assert metrics_of(REGION, *epoch.gathered()) == metrics_of(REGION, *whole)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1, max_size=5))
def test_a_session_that_comes_twice_counts_once(batches):
    """A distributed sampler repeats sessions so that every process has as many."""
    parts, epoch = predictions(10), EpochPredictions()
    for rows in batches:
        epoch.add(*(values[rows] for values in parts), session_ids=[str(row) for row in rows])
    first = list(dict.fromkeys(row for rows in batches for row in rows))
    for found, values in zip(epoch.gathered(), parts, strict=True):
        assert torch.equal(found, values[first])


def test_a_prediction_that_is_not_finite_is_named_by_its_session():
    """A row number would have to be traced back through batches and processes."""
    position, sigma, tilt, target = predictions(3)
    position[1] = torch.nan
    epoch = EpochPredictions()
    epoch.add(position, sigma, tilt, target, session_ids=["a", "b", "c"])
    with pytest.raises(ModelError, match=r"1 of 3 .* b;"):
        epoch.gathered()


def test_without_ids_everything_counts():
    """Two transmissions may look the same; only an id tells that they are one."""
    position, sigma, tilt, target = predictions(2)
    epoch = EpochPredictions()
    epoch.add(position[[0, 0]], sigma[[0, 0]], tilt[[0, 0]], target[[0, 0]])
    assert len(epoch.gathered()[0]) == 2


def test_two_processes_report_the_metrics_of_one():
    """Seven sessions under Lightning's own DDP are padded to eight, and counted as seven."""
    program = Path(__file__).parent / "ddp_program.py"
    result = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("AGREES") == 2, result.stdout
