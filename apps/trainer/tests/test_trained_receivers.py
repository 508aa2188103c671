"""A network hears channels; whose they are, its checkpoint knows."""

from dataclasses import replace
from pathlib import Path

import pytest
from heimdall_models.checkpoint import RUN_RECORD
from heimdall_models.errors import TrainingError
from heimdall_models.trained import RunRecord, Trained
from heimdall_models.training.resume import RunKeeper, exported_network
from heimdall_trainer.data import load_training_data
from heimdall_trainer.models import opened_model


@pytest.fixture
def checkpoint(finished):
    """Of a finished training on Torino, Genova and Milano."""
    return Path(finished.summary.checkpoint)


@pytest.mark.parametrize(
    "others",
    [("Genova", "Torino", "Milano-Baggio"), ("Torino", "Genova", "Coazze")],
    ids=["in another order", "one of them another"],
)
def test_a_checkpoint_is_not_exported_for_other_receivers(checkpoint, others, quick, connections):
    """It would go into production as it was, and be kilometres off without a word."""
    data = load_training_data(replace(quick, receivers=others), connections)
    with pytest.raises(TrainingError, match="give --receivers 'Torino' 'Genova' 'Milano-Baggio'"):
        exported_network(Trained.open(checkpoint), data)


def test_a_checkpoint_is_evaluated_on_its_own_receivers(checkpoint, quick, connections):
    """Those that are most often there may be three others."""
    with opened_model(str(checkpoint), replace(quick, receivers=()), connections) as opened:
        assert tuple(station.name for station in opened.data.receivers) == quick.receivers


def test_training_does_not_go_on_with_other_receivers():
    """Weights of one place would be fitted to another."""
    keeper = RunKeeper(
        RunRecord(run_id=None, seed=1, batch_size=2, sessions="", receivers=("A", "B"))
    )
    with pytest.raises(TrainingError, match="listens to B, A, and the data has A, B"):
        keeper.on_load_checkpoint(None, None, {RUN_RECORD: {"receivers": ("B", "A")}})
