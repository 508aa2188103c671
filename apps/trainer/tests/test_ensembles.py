"""Ensembles from recordings to a served file: what they say is what their members say together."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from heimdall_features import NormalizationStats
from heimdall_models import ModelError
from heimdall_models.errors import TrainingError
from heimdall_models.trained import Trained
from heimdall_models.training.checkpoint_files import (
    finished_checkpoint,
    newest_checkpoint,
    note_finished,
    require_fresh,
    started_ensemble,
)
from heimdall_models.training.ensemble import member_seed, merged_model
from heimdall_models.training.resume import exported_network, warn_of_other_sessions
from heimdall_trainer.cli.app import main
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.errors import UsageError
from heimdall_trainer.models import evaluate_file, opened_model
from heimdall_trainer.pipeline import TrainingPipeline
from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(quick):
    """A small ensemble."""
    return replace(quick, backbone="test_convnext", ensemble=2)


@pytest.fixture(scope="module")
def finished(connections, two):
    """One whole run."""
    return TrainingPipeline(two, connections).run()


def members(finished):
    """The checkpoints that were merged."""
    folder = Path(finished.summary.checkpoint).parent
    return tuple(
        folder / f"member-{n}" / json.loads(note.read_text())["checkpoint"]
        for n, note in enumerate(sorted(folder.glob("member-*/finished.json")), start=1)
    )


def weights(path):
    """All that a checkpoint of one network has learned."""
    return Trained.open(path).single.module.state_dict()


def same(one, other):
    """Whether two networks are the same to the bit."""
    return all(torch.equal(values, other[name]) for name, values in one.items())


def test_the_served_file_says_what_the_members_say_together(finished):
    """In metres, from samples on, without torch; the formula is written here once more."""
    said = finished.delivery.evaluated.evaluation
    test = finished.data.test
    features = torch.from_numpy(np.stack([test[index]["features"] for index in range(len(test))]))
    region = finished.data.region
    with torch.inference_mode():
        each = [Trained.open(path).single.module(features) for path in members(finished)]
    position, sigma = (torch.stack(part).double().numpy() for part in zip(*each, strict=True))
    assert region.to_plane(said.position_deg) == pytest.approx(position.mean(axis=0), abs=2e-5)
    ensemble = Trained.open(finished.summary.checkpoint)
    variance = np.square(sigma).mean(axis=0) + position.var(axis=0)
    assert said.sigma_m / region.scale_m == pytest.approx(np.sqrt(variance), rel=1e-4)
    assert finished.delivery.parity.mean_difference < 1e-5
    assert len(ensemble.members) == 2


def test_the_first_member_is_the_network_that_would_be_trained_alone(
    connections, two, finished, tmp_path
):
    """And the second one is another, on the same split: that is all that they differ in."""
    alone = replace(two, ensemble=1, checkpoint_dir=tmp_path)
    trained = TrainingPipeline(alone, connections).train(finished.data)
    first, second = map(weights, members(finished))
    assert same(weights(trained.checkpoint), first)
    assert not same(first, second)
    for name in ("standardize.mean", "standardize.std"):
        assert torch.equal(first[name], second[name])


def test_the_run_is_one_in_mlflow_and_ends_with_the_ensemble(connections, two, finished):
    """Curves of the members follow each other; the last word is of what was delivered."""
    client = MlflowClient(connections.tracking_uri())
    run = client.get_run(finished.summary.run_id)
    assert run.data.params["ensemble"] == "2"
    assert run.data.metrics["val/nll"] == finished.summary.metrics["val/nll"]
    steps = [m.step for m in client.get_metric_history(finished.summary.run_id, "val/loss")]
    assert len(steps) == 2 * two.epochs + 1
    assert len(set(steps)) == len(steps)
    page = finished.report.read_text(encoding="utf-8")
    assert "test_convnext, ensemble of 2" in page
    for number in (1, 2):
        assert f">member {number}</h3>" in page


def test_the_loss_is_in_nats_an_axis_and_plane_units_as_everywhere(finished):
    """Next to a single network's, in one chart; errors on the plane and on Earth hardly differ."""
    network = exported_network(Trained.open(finished.summary.checkpoint), finished.data)
    dataset = finished.data.validation
    sessions = [dataset[index] for index in range(len(dataset))]
    features, target = (
        torch.from_numpy(np.stack([s[name] for s in sessions]))
        for name in ("features", "position_deg")
    )
    target = torch.from_numpy(finished.data.region.to_plane(target.numpy()))
    with torch.inference_mode():
        position, sigma, _ = network.on_plane(features)
    loss = torch.nn.GaussianNLLLoss(full=True)(position, target, sigma.square())
    assert finished.summary.metrics["val/loss"] == pytest.approx(float(loss), rel=1e-2)


def test_a_resumed_ensemble_trains_what_is_missing_and_nothing_else(
    connections, two, finished, tmp_path
):
    """Interrupted after an epoch of the second member, it ends as one that never stopped."""
    config = replace(two, checkpoint_dir=tmp_path)
    trained = TrainingPipeline(config, connections).train(finished.data)
    before = trained.checkpoint.read_bytes()
    for name in ("finished.json", "epoch=001.ckpt", "last.ckpt"):
        (tmp_path / "member-2" / name).unlink()
    trained.checkpoint.unlink()
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "member-1").iterdir()}
    again = TrainingPipeline(replace(config, resume_training=True), connections)
    assert again.train(finished.data).checkpoint.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "member-1").iterdir()} == first
    # Interrupted once more, between the last epoch and its note: it goes on from its own end.
    (tmp_path / "member-2" / "finished.json").unlink()
    assert again.train(finished.data).checkpoint.read_bytes() == before
    # The members are no place for a single network to go on from, nor is what they became.
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        newest_checkpoint(tmp_path)


def test_several_checkpoints_are_merged_without_training(connections, two, finished):
    """Weeks later, of runs of their own; the same networks are the same ensemble."""
    config = replace(two, ensemble=1, export_only=True, checkpoint=members(finished))
    again = TrainingPipeline(config, connections).run()
    found, expected = (run.delivery.evaluated.evaluation for run in (again, finished))
    np.testing.assert_array_equal(found.position_deg, expected.position_deg)
    np.testing.assert_array_equal(found.sigma_m, expected.sigma_m)
    assert again.summary.checkpoint != finished.summary.checkpoint
    assert again.summary.metrics["val/nll"] == finished.summary.metrics["val/nll"]


def test_an_exported_ensemble_is_evaluated_as_any_model(connections, two, finished, tmp_path):
    """It is one file with the contract's ends."""
    path = Path(finished.summary.onnx_path)
    evaluated, page = evaluate_file(path, two, connections, tmp_path / "page.html")
    assert evaluated.metrics["test/nll"] == finished.summary.metrics["test/nll"]
    assert page.is_file()


def test_a_checkpoint_is_read_once_to_be_evaluated(connections, two, finished):
    """A checkpoint of gigabytes lies on a network drive; every further reading takes as long."""
    path, reads = finished.summary.checkpoint, []
    sys.addaudithook(lambda event, args: reads.append(str(args[0])) if event == "open" else None)
    Trained.open(path)
    once = reads.count(path)
    with opened_model(path, two, connections, lambda config: finished.data) as opened:
        assert opened.file.path.is_file()
    assert once
    assert reads.count(path) == 2 * once


def test_too_few_sessions_to_calibrate_on_are_told_of(two, finished, tmp_path, capsys):
    """A dozen sessions say nothing of 68 %; then the mixture's own moments are served."""
    trained = merged_model(members(finished), finished.data, two, tmp_path / "merged.ckpt")
    few = len(finished.data.validation)
    assert few < 30
    assert f"{few} sessions to calibrate on" in capsys.readouterr().err
    assert Trained.open(trained.checkpoint).disagreement_weight == 1.0


@pytest.fixture(scope="module")
def other(finished):
    """The same run with other sessions to train on."""
    train = finished.data.train
    stats = NormalizationStats.of(train[index]["features"] for index in range(5))
    return replace(finished.data, stats=stats)


def test_an_ensemble_is_not_resumed_on_other_sessions(connections, two, finished, other):
    """New recordings came in meanwhile: its members could not be merged after all."""
    folder = Path(finished.summary.checkpoint).parent
    config = replace(two, checkpoint_dir=folder, resume_training=True)
    message = r"member-1/calibrated\.ckpt was trained on other sessions than this run's"
    with pytest.raises(TrainingError, match=message):
        TrainingPipeline(config, connections).train(other)


def test_a_network_of_another_split_is_told_of(finished, other, capsys):
    """Its test sessions may be among those that it was trained on."""
    path = Path(finished.summary.checkpoint)
    warn_of_other_sessions(Trained.open(path), finished.data)
    assert capsys.readouterr().err == ""
    warn_of_other_sessions(Trained.open(path), other)
    told = capsys.readouterr().err
    assert "member 1 was trained on other sessions" in told
    assert "member 2 was trained on other sessions" in told


def test_an_ensemble_is_exported_but_not_gone_on_with(connections, two, finished):
    """It has no optimiser's state; and receivers that it does not know are refused as always."""
    path = Path(finished.summary.checkpoint)
    config = replace(two, ensemble=1, resume_training=True, checkpoint=(path,))
    with pytest.raises(ModelError, match="ensemble"):
        TrainingPipeline(config, connections).check()
    data = replace(finished.data, receivers=finished.data.receivers[:2])
    with pytest.raises(TrainingError, match="listens to 3 receivers, and the data has 2"):
        exported_network(Trained.open(path), data)


def test_members_have_seeds_of_their_own():
    """The first the run's; no two runs' others coincide for neighbouring seeds."""
    seeds = [member_seed(seed, number) for seed in (42, 43) for number in (1, 2, 3, 4)]
    assert seeds[0] == 42
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_members_of_an_earlier_ensemble_are_not_mixed_with_new_ones(connections, two, tmp_path):
    """A later --resume_training would take the old ones for its own; said before data is read."""
    (tmp_path / "member-2").mkdir()
    require_fresh(tmp_path)
    (tmp_path / "member-2" / "last.ckpt").touch()
    config = replace(two, checkpoint_dir=tmp_path)
    with pytest.raises(TrainingError, match="has members of an earlier ensemble"):
        TrainingPipeline(config, connections).check()
    TrainingPipeline(replace(config, resume_training=True), connections).check()
    assert started_ensemble(tmp_path.parent) == tmp_path


def test_there_must_be_an_ensemble_to_resume(connections, two, tmp_path):
    """A single run's checkpoint is none."""
    (tmp_path / "last.ckpt").touch()
    config = replace(two, checkpoint_dir=tmp_path, resume_training=True)
    with pytest.raises(TrainingError, match="no ensemble to resume in"):
        TrainingPipeline(config, connections).check()


def test_a_member_of_another_seed_is_not_taken_for_this_one(tmp_path):
    """It would be in the ensemble twice, or from another split."""
    (tmp_path / "epoch=000.ckpt").touch()
    assert finished_checkpoint(tmp_path, 7) is None
    note_finished(tmp_path, 7, tmp_path / "epoch=000.ckpt")
    assert finished_checkpoint(tmp_path, 7) == tmp_path / "epoch=000.ckpt"
    with pytest.raises(TrainingError, match="was trained with seed 7, and this run's member has 8"):
        finished_checkpoint(tmp_path, 8)
    (tmp_path / "epoch=000.ckpt").unlink()
    with pytest.raises(TrainingError, match=r"epoch=000\.ckpt is gone; delete"):
        finished_checkpoint(tmp_path, 7)
    (tmp_path / "finished.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"finished\.json does not say what was trained"):
        finished_checkpoint(tmp_path, 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ensemble": 0}, "--ensemble is 0; it must be from 1 to 1,000"),
        ({"ensemble": 2, "export_only": True, "checkpoint": (Path("a"),)}, "--ensemble is 2; .*1"),
        ({"checkpoint": (Path("a"), Path("b"))}, "--checkpoint is .* one, or used with --export"),
        ({"ensemble": 2, "checkpoint": (Path("a"),)}, "left out: --checkpoint_dir tells"),
    ],
)
def test_flags_that_contradict_each_other_are_wrong_usage(settings, message):
    """Said with the flag, before anything is read."""
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**settings)


def test_checkpoints_are_given_one_flag_each_or_all_at_once(capsys, tmp_path):
    """Both spellings reach the same check: the files are not there."""
    names = [str(tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    for words in (["--checkpoint", *names], ["--checkpoint", names[0], "--checkpoint", names[1]]):
        with pytest.raises(SystemExit) as ended:
            main(["train", *words])
        assert ended.value.code == 2
        assert "b.ckpt" in capsys.readouterr().err
