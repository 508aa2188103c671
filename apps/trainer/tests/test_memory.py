"""Where a device's memory ends: what is said, and what fits."""

from dataclasses import replace

import pytest
import torch
from heimdall_models import LocalizationNet
from heimdall_models.errors import TrainingError
from heimdall_models.training.devices import clear_memory_errors, fitting_batch_size
from heimdall_trainer.pipeline import TrainingPipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(connections, quick):
    """The sessions of the test catalogue."""
    return TrainingPipeline(quick, connections).load_data()


@pytest.fixture
def room_for(monkeypatch):
    """A device that has room for so many sessions: a CPU has no end that one comes back from."""
    whole = LocalizationNet.answer_in_training

    def limit(most):
        def answer(net, x, target):
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")
            return whole(net, x, target)

        monkeypatch.setattr(LocalizationNet, "answer_in_training", answer)

    return limit


@pytest.fixture
def module(connections, quick, data):
    """An untrained network."""
    config = replace(quick, backbone="test_convnext")
    return TrainingPipeline(config, connections).create_lightning_module(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "most", "found"), [(50, 1000, 32), (64, 1000, 64), (1000, 24, 16), (8, 1000, 8)]
)
def test_the_largest_batch_that_fits_is_taken(quick, module, room_for, room, most, found):
    """Doubled from what was asked for, up to the device's end or that of the sessions."""
    room_for(room)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    drawn = torch.get_rng_state()
    assert fitting_batch_size(module, quick, CPU, most) == found
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_device_without_room_for_what_was_asked_says_what_to_change(quick, module, room_for):
    """The remedies are flags, those that are not given yet."""
    room_for(4)
    with pytest.raises(TrainingError) as caught:
        fitting_batch_size(module, quick, CPU, 1000)
    said = str(caught.value)
    assert said.startswith("a step of 8 sessions with convnext_atto does not fit into memory")
    assert "CUDA out of memory" in said
    for remedy in ("--batch_size", "--gradient_checkpointing", "--precision bf16-mixed"):
        assert remedy in said


def test_training_that_runs_out_of_memory_ends_in_that_line(
    connections, quick, data, room_for, tmp_path
):
    """After hours, too, when something else takes the device's memory."""
    room_for(4)
    config = replace(quick, backbone="test_convnext", gradient_checkpointing=True)
    config = replace(config, checkpoint_dir=tmp_path, precision="bf16-mixed")
    with pytest.raises(TrainingError, match="does not fit into memory") as caught:
        TrainingPipeline(config, connections).train(data)
    assert "--gradient_checkpointing" not in str(caught.value)
    assert "--precision" not in str(caught.value)


def test_another_error_stays_what_it_was(quick):
    """Not everything that torch refuses is want of memory."""
    with pytest.raises(RuntimeError, match="shapes"), clear_memory_errors(quick):
        raise RuntimeError("shapes do not match")
