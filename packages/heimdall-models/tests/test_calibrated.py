"""What is shipped of a training: never worse than levels alone, and calibrated on validation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule
from heimdall_models.checkpoint import MODEL, model_record, write_checkpoint
from heimdall_models.errors import TrainingError
from heimdall_models.metrics import served_metrics
from heimdall_models.trained import Trained
from heimdall_models.training.checkpoint_files import checkpoints_in
from heimdall_models.training.fit import TrainedModel, answered, calibrated, fit
from heimdall_models.training.options import TrainingOptions
from level_world import REGION, LevelWorld, features_of

N_TRAIN, N_VALIDATION = 60, 40


@pytest.fixture(scope="module")
def sessions():
    """Samples, the first to learn from."""
    drawn = LevelWorld.drawn(N_TRAIN + N_VALIDATION, 6)
    features = features_of(drawn.levels_db, drawn.present)
    positions = REGION.to_degrees(drawn.places)
    both = zip(features, positions, strict=True)
    arrivals = np.zeros((5, 5), np.float32)  # which this network does not take
    return [{"features": mel, "position_deg": at, "arrivals": arrivals} for mel, at in both]


def shipped(sessions, tmp_path, shift, *, learned=True, n_components=2):
    """What is shipped of a checkpoint whose heads move every position by `shift` sigmas."""
    config = LocalizationConfig(n_receivers=5, backbone="test_convnext", n_components=n_components)
    statistics = np.full((5, 128, 1), -85.0), np.full((5, 128, 1), 12.0)
    module = LocalizationModule(config, REGION, *statistics)
    if learned:
        module.learn_levels(sessions[:N_TRAIN])
    with torch.no_grad():
        module.net.heads.position.bias.fill_(shift)
    record = {MODEL.key: model_record(config, REGION), "state_dict": module.state_dict()}
    write_checkpoint(record, path := tmp_path / "epoch=000.ckpt")
    data = SimpleNamespace(validation=sessions[N_TRAIN:], region=REGION)
    found = calibrated(TrainedModel(checkpoint=path), data, TrainingOptions())
    return found, Trained.open(found.checkpoint).single.module, data


def answers(module, sessions):
    """The network's answer and that of levels alone to the first sessions."""
    features = np.stack([session["features"] for session in sessions[:5]])
    x = module.standardize(torch.from_numpy(features))
    with torch.no_grad():
        return module.net.answer(x), module.net.answer_by_levels(x)


@pytest.mark.slow
def test_a_network_that_is_worse_is_not_shipped(sessions, tmp_path):
    """Its corrections are gone, and training could still go on from the epoch."""
    found, module, _ = shipped(sessions, tmp_path, shift=3.0)
    assert found.metrics["val/loss_by_levels"] < found.metrics["val/loss_by_network"]
    whole, by_levels = answers(module, sessions)
    torch.testing.assert_close(whole.position, by_levels.position)
    for one, other in zip(whole.mixture, by_levels.mixture, strict=True):
        torch.testing.assert_close(one, other)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch=000.ckpt"]


@pytest.mark.slow
def test_a_network_that_is_better_is_shipped(sessions, tmp_path):
    """A small step to one side or to the other brings positions nearer to their truths."""
    kept = []
    for shift in (0.02, -0.02):
        found, module, _ = shipped(sessions, tmp_path, shift)
        whole, by_levels = answers(module, sessions)
        kept.append(not torch.equal(whole.position, by_levels.position))
        assert kept[-1] == (
            found.metrics["val/loss_by_network"] < found.metrics["val/loss_by_levels"]
        )
    assert any(kept)


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [1, 3])
def test_what_is_shipped_has_the_metrics_that_are_told(n_components, sessions, tmp_path):
    """Ellipses by a factor, mixtures by a temperature; both hold their shares no worse than before.

    Few sessions are calibrated part of the way only.
    """
    found, module, data = shipped(sessions, tmp_path, shift=0.0, n_components=n_components)
    heads = module.net.heads
    if n_components == 1:
        assert heads.sigma_factor.item() == pytest.approx(found.metrics["val/sigma_factor"]) != 1
    else:
        told = found.metrics["val/temperature"]
        assert heads.posterior.temperature.item() == pytest.approx(told)
        assert heads.sigma_factor.item() == 1
    outputs = answered(
        module.serving_net(), data.validation, TrainingOptions(), takes=("features",)
    )
    for name, value in served_metrics(*outputs).items():
        assert value == pytest.approx(found.metrics[f"val/{name}"], rel=1e-4, abs=1e-6)
    missed, was_missed = (
        sum(
            abs(found.metrics[f"val/coverage_hdr_{level}{end}"] - level / 100) for level in (68, 95)
        )
        for end in ("", "_uncalibrated")
    )
    assert missed <= was_missed


def test_what_cannot_be_written_is_shipped_uncalibrated(sessions, tmp_path, caplog):
    """A full disk must not cost a night of training; here a folder stands in the way."""
    (tmp_path / "calibrated.ckpt").mkdir()
    found, _, _ = shipped(sessions, tmp_path, shift=0.0)
    assert found.checkpoint.name == "epoch=000.ckpt"
    assert "calibrated.ckpt cannot be written (Is a directory)" in caplog.text
    assert "not calibrated" in caplog.text


@pytest.mark.parametrize("name", ["calibrated.ckpt", "with-timing.ckpt"])
def test_training_cannot_go_on_from_what_is_shipped(name, tmp_path):
    """What is calibrated on validation sessions, or has no corrections, is no state of training."""
    with pytest.raises(TrainingError, match="finished model"):
        fit(None, None, None, None, tmp_path / name)


def test_what_has_learned_no_levels_is_shipped_as_it_is(sessions, tmp_path):
    """A handful of sessions makes no map."""
    found, _, _ = shipped(sessions, tmp_path, shift=0.1, learned=False)
    assert found.checkpoint.name == "epoch=000.ckpt"
    assert found.metrics == {}
