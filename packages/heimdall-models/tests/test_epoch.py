"""Metrics of a whole epoch, over batches and processes."""

import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.module import EpochPredictions
from hypothesis import given
from hypothesis import strategies as st


def predictions(n, seed=0):
    """Positions, sigmas, correlations and targets in plane units."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 2, generator=generator) - 0.5
    error = torch.randn(n, 2, generator=generator) / 10
    return target + error, torch.full((n, 2), 0.1), torch.rand(n, generator=generator) / 2, target


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_an_epoch_does_not_depend_on_its_batches(sizes):
    """A mean of batches' medians is not the median, and a small last batch counts too much."""
    whole = predictions(sum(sizes))
    epoch = EpochPredictions()
    for batch in zip(*(values.split(sizes) for values in whole), strict=True):
        epoch.add(*batch)
    for found, values in zip(epoch.gathered(), whole, strict=True):
        assert torch.equal(found, values)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1, max_size=5))
def test_a_session_that_comes_twice_counts_once(batches):
    """A distributed sampler repeats sessions so that every process has as many."""
    parts, epoch = predictions(10), EpochPredictions()
    for rows in batches:
        epoch.add(*(values[rows] for values in parts), session_ids=[str(row) for row in rows])
    first = list(dict.fromkeys(row for rows in batches for row in rows))
    for found, values in zip(epoch.gathered(), parts, strict=True):
        assert torch.equal(found, values[first])


@given(st.sets(st.integers(0, 8), min_size=1), st.sampled_from([torch.nan, torch.inf]))
def test_predictions_that_are_not_finite_are_named_by_session(broken, value):
    """A row number would have to be traced back through batches and processes."""
    position, *others = predictions(9)
    position[list(broken), 1] = value
    epoch = EpochPredictions()
    epoch.add(position, *others, session_ids=[f"s{row}" for row in range(9)])
    with pytest.raises(ModelError, match=f"{len(broken)} of 9 .* s{min(broken)};"):
        epoch.gathered()


@given(st.lists(st.integers(0, 3), min_size=1))
def test_without_ids_everything_counts(rows):
    """Two transmissions may look the same; only an id tells that they are one."""
    parts, epoch = predictions(4), EpochPredictions()
    epoch.add(*(values[rows] for values in parts))
    assert torch.equal(epoch.gathered()[0], parts[0][rows])
