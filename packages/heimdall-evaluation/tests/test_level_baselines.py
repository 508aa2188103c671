"""The report's baselines: all of them, on the very sessions that the model is judged by."""

from dataclasses import replace

import numpy as np
import pytest
from heimdall_evaluation.baselines import level_baselines
from heimdall_models.baselines import LEVEL_BASELINES
from heimdall_trainer.pipeline import TrainingPipeline


@pytest.fixture(scope="module")
def data(connections, quick):
    """The sessions of the test catalogue, divided and with their features."""
    return TrainingPipeline(quick, connections).load_data()


def test_every_level_baseline_is_in_the_report(data):
    """A user must see when the network is not worth it, whichever simple method says so."""
    found = level_baselines(data)
    assert [baseline.name for baseline in found] == list(LEVEL_BASELINES)
    for baseline in found:
        assert baseline.error_m.shape == (len(data.test),)
        assert np.isfinite(baseline.error_m).all()
        assert (baseline.sigma_m > 0).all()
        assert baseline.explanation.endswith(".")


def test_two_sessions_to_train_on_leave_the_report_without_baselines(data):
    """Nothing can be fitted to two places; the report is written all the same."""
    few = replace(data, train=data.train.subset(data.train.sessions[:2]))
    assert level_baselines(few) == ()
