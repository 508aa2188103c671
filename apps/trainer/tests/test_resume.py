"""Training that was stopped anywhere goes on as if nothing had happened, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.errors import TrainingError
from heimdall_models.training.checkpoint_files import checkpoints_in, newest_checkpoint
from heimdall_models.training.fit import fit
from heimdall_models.training.stopping import REPEATED
from heimdall_trainer.mlflow_run import new_steps, tracked_run
from heimdall_trainer.pipeline import TrainingPipeline
from lightning.pytorch import Callback
from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(connections, quick):
    """The sessions of the test catalogue: 24 to train on, three batches."""
    return TrainingPipeline(quick, connections).load_data()


class Signal(Callback):
    """Sends this process a signal in the given step or validation, as a terminal or cluster does.

    In the middle of a step, when half of the state is new.
    """

    def __init__(self, number, step=None, validation=None):
        self.number, self.step, self.validation = number, step, validation

    def on_before_optimizer_step(self, trainer, *_):
        """In a step, counted from 1 over all epochs."""
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *_):
        """In the validation of an epoch, counted from 1, with a part of it behind."""
        if trainer.current_epoch + 1 == self.validation and batch_idx == 1:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def train(connections, quick, data, tmp_path):
    """Train with some settings changed; the network, what came of it, and the trainer."""

    def run(folder="run", *callbacks, resume_from=None, **settings):
        config = replace(quick, epochs=3, backbone="test_convnext", **settings)
        config = replace(config, checkpoint_dir=tmp_path / folder)
        pipeline = TrainingPipeline(config, connections)
        module, trainer = pipeline.create_lightning_module(data), pipeline.create_trainer()
        trainer.callbacks[:0] = callbacks
        trained = fit(trainer, module, data, config, resume_from)
        return module, trained, trainer

    return run


def assert_same(ours, theirs):
    """Weights, and all that was measured on the way."""
    for name, value in theirs[0].state_dict().items():
        assert torch.equal(ours[0].state_dict()[name], value), name
    assert ours[1].history == theirs[1].history
    assert ours[1].metrics == theirs[1].metrics
    assert ours[1].best_epoch == theirs[1].best_epoch


@pytest.fixture(scope="module")
def straight(connections, quick, data, tmp_path_factory):
    """A run that nobody stopped, by number of workers."""
    config = replace(quick, epochs=3, backbone="test_convnext")
    config = replace(config, checkpoint_dir=tmp_path_factory.mktemp("straight"))
    pipeline = TrainingPipeline(config, connections)
    module, trainer = pipeline.create_lightning_module(data), pipeline.create_trainer()
    return module, fit(trainer, module, data, config), trainer


@pytest.mark.parametrize(
    ("where", "num_workers"),
    [
        ({"step": 1}, 0),
        ({"step": 5}, 2),
        ({"step": 6}, 0),
        ({"step": 9}, 0),
        ({"validation": 1}, 2),
        ({"validation": 3}, 0),
    ],
    ids=str,
)
def test_a_run_that_was_stopped_anywhere_ends_as_one_that_never_was(
    train, straight, tmp_path, where, num_workers
):
    """In an epoch, at its last step, and in its validation, where the average is in the module."""
    with pytest.raises(SystemExit) as ended:
        train("stopped", Signal(signal.SIGTERM, **where), num_workers=num_workers)
    assert ended.value.code == 143
    kept = newest_checkpoint(tmp_path / "stopped")
    assert kept.name == "step.ckpt"
    resumed = train("stopped", resume_from=kept, num_workers=num_workers)
    assert_same(resumed, straight)
    assert resumed[2].global_step == 9
    assert not kept.exists()


def test_ctrl_c_keeps_the_step_it_came_in(train, straight, tmp_path, capsys):
    """What a person does who needs the machine; they are told what goes on from there."""
    with pytest.raises(KeyboardInterrupt):
        train("stopped", Signal(signal.SIGINT, step=4))
    kept = tmp_path / "stopped" / "step.ckpt"
    said = capsys.readouterr().err
    assert f"stopped in epoch 2 after 4 steps in all; the state is in {kept}" in said
    assert f"--resume_training --checkpoint {kept} goes on" in said
    assert torch.load(kept, weights_only=True)["global_step"] == 4
    assert_same(train("stopped", resume_from=kept), straight)


class Twice(Signal):
    """Sends a signal twice in one step."""

    def on_before_optimizer_step(self, trainer, *_):
        """In a step, counted from 1."""
        super().on_before_optimizer_step(trainer)
        super().on_before_optimizer_step(trainer)


@pytest.mark.parametrize(
    "callback",
    [Signal(signal.SIGQUIT, step=1), *(Twice(number, step=1) for number in REPEATED)],
    ids=lambda callback: signal.Signals(callback.number).name,
)
def test_whatever_a_terminal_or_a_scheduler_sends_keeps_the_step(train, tmp_path, callback):
    """A dropped connection has the kernel and the shell send SIGHUP; limits of time come twice."""
    before = signal.getsignal(callback.number)
    with pytest.raises(SystemExit) as ended:
        train("stopped", callback)
    assert ended.value.code == 128 + callback.number
    assert newest_checkpoint(tmp_path / "stopped").name == "step.ckpt"
    assert signal.getsignal(callback.number) is before


def test_a_signal_that_was_ignored_before_stays_ignored(train, tmp_path):
    """`nohup heimdall train` is there to outlive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, trained, _ = train("nohup", Signal(signal.SIGHUP, step=1))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(trained.history) == 3


def test_who_asks_twice_is_not_made_to_wait(train, tmp_path):
    """A step may take minutes, and its data may never come."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", Twice(signal.SIGINT, step=2))
    assert not checkpoints_in(tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is before


def test_training_outside_the_main_thread_leaves_signals_alone(train, straight):
    """A worker of a job queue trains in a thread; Python takes signals in the first alone."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(train("thread")))
    thread.start()
    thread.join()
    assert_same(ended[0], straight)


def test_a_thawing_backbone_goes_on_with_the_stages_that_had_thawed(train, tmp_path):
    """Which of them learn is told at an epoch's start, and going on within one has none."""
    thaws = {"unfreeze_epoch": 1, "unfreeze_every": 1}
    straight = train("straight", **thaws)
    with pytest.raises(SystemExit):
        train("stopped", Signal(signal.SIGTERM, step=5), **thaws)
    kept = newest_checkpoint(tmp_path / "stopped")
    assert_same(train("stopped", resume_from=kept, **thaws), straight)


def test_a_run_that_stopped_early_says_so_and_does_not_go_on(train, tmp_path, capsys):
    """It had ended: another epoch would be another result."""

    class Demanding(Callback):
        def on_fit_start(self, trainer, *_):
            """No epoch is better enough than the one before."""
            trainer.early_stopping_callback.min_delta = -100.0

    ended = train("early", Demanding(), patience=1)
    assert ended[2].global_step == 6
    assert "stopped after epoch 2 of 3: no better since epoch 1\n" in capsys.readouterr().out
    resumed = train("early", Demanding(), patience=1, resume_from=tmp_path / "early" / "last.ckpt")
    assert resumed[2].global_step == 6
    assert_same(resumed, ended)


def test_a_checkpoint_within_an_epoch_goes_on_with_its_own_batches_alone(train, tmp_path):
    """Sessions would be seen twice, or not at all."""
    with pytest.raises(SystemExit):
        train("stopped", Signal(signal.SIGTERM, step=2))
    kept = newest_checkpoint(tmp_path / "stopped")
    with pytest.raises(TrainingError, match="--seed 7 and --batch_size 8"):
        train("stopped", resume_from=kept, batch_size=4, seed=8)


def test_a_checkpoint_of_an_epochs_end_goes_on_with_others_and_says_so(train, tmp_path, capsys):
    """A larger machine may take larger batches from there on; it is another run's result."""
    train("first")
    kept = tmp_path / "first" / "epoch=000.ckpt"
    resumed = train("second", resume_from=kept, batch_size=4)
    assert "warning: before the checkpoint, training was with --batch_size 8" in (
        capsys.readouterr().err
    )
    assert [record.epoch for record in resumed[1].history] == [0, 1, 2]


def test_periodic_checkpoints_are_one_file_that_goes_with_the_training(train, tmp_path):
    """A night would fill the disk, and what is done needs nothing to go on from."""
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, *_):
            """What is there after each step."""
            seen.append([path.name for path in checkpoints_in(tmp_path / "run")])

    train("run", Look(), checkpoint_every_steps=1)
    assert seen[0] == []
    assert [names[-1] for names in seen[1:4]] == ["step.ckpt", "step.ckpt", "last.ckpt"]
    assert not (tmp_path / "run" / "step.ckpt").exists()


def test_a_checkpoint_that_was_cut_short_is_told_in_one_line(train, tmp_path):
    """A copy over a network ends early; nobody learns from a traceback of an archive's reader."""
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelError, match=r"cut\.ckpt \(16 bytes\) is not a PyTorch checkpoint, or"):
        train("run", resume_from=tmp_path / "cut.ckpt")


def test_what_was_being_written_when_a_run_was_killed_is_no_checkpoint(train, tmp_path):
    """Half a file would be the newest one."""
    folder = tmp_path / "run"
    folder.mkdir()
    part = folder / ".step.ckpt.abc.part"
    part.write_bytes(b"half")
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        newest_checkpoint(folder)
    train("run")
    assert not part.exists()


def test_another_backbone_is_refused_before_the_data(connections, quick, straight):
    """The commonest flag to forget; torch would list every weight, after minutes of data."""
    config = replace(quick, resume_training=True, checkpoint=(straight[1].checkpoint,))
    with pytest.raises(TrainingError, match="was trained with backbone test_convnext, and this"):
        TrainingPipeline(config, connections).check()


HOLD = """
import sys
from pathlib import Path
from heimdall_models.training.checkpoint_files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Hold a folder of checkpoints in another process, as a training there does; its number."""
    holders = []

    def held(folder):
        words = [sys.executable, "-c", HOLD, str(folder)]
        holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout.readline() == "held\n"
        return holder.pid

    yield held
    for holder in holders:
        holder.communicate()


def test_a_second_resume_is_refused_and_leaves_the_run_alone(connections, quick, finished, hold):
    """Two that go on from one checkpoint would overwrite each other, and mark one run as failed."""
    checkpoint = Path(finished.summary.checkpoint).with_name("last.ckpt")
    before = sorted(path.stat().st_mtime_ns for path in checkpoint.parent.iterdir())
    number = hold(checkpoint.parent)
    config = replace(quick, resume_training=True, checkpoint=(checkpoint,))
    with pytest.raises(TrainingError, match=f"in use by a training, process {number} on"):
        TrainingPipeline(config, connections).run()
    fresh = replace(quick, backbone="test_convnext", checkpoint_dir=checkpoint.parent)
    with pytest.raises(TrainingError, match=f"in use by a training, process {number} on"):
        TrainingPipeline(fresh, connections).run()
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    assert run.info.status == "FINISHED"
    names = [path for path in checkpoint.parent.iterdir() if not path.name.startswith(".")]
    assert sorted(path.stat().st_mtime_ns for path in names)[-1] in before


def test_a_run_that_mlflow_has_lost_is_gone_on_with_as_another(
    connections, quick, finished, tmp_path, caplog
):
    """Days of training must not end because somebody emptied MLflow's database."""
    elsewhere = replace(connections, mlflow_tracking_uri=f"sqlite:///{tmp_path}/emptied.db")
    checkpoint = Path(finished.summary.checkpoint)
    with tracked_run(quick, elsewhere, checkpoint) as tracker:
        assert not tracker.is_resumed
        assert tracker.run_id != finished.summary.run_id
        assert new_steps(tracker) is tracker
    assert "training continues as another MLflow run" in caplog.text
    assert f"Run with id={finished.summary.run_id} not found" in caplog.text


def test_a_task_whose_folder_is_in_use_says_so(connections, hold, tmp_path):
    """A broker may give a task to a second worker while the first still trains."""
    folder = tmp_path / "task"
    number = hold(folder / "checkpoints")
    job = {"settings": {"backbone": "test_convnext", "epochs": 1}, "export": False}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "heimdall_trainer", "worker", "--job", folder]
    # It ends when its standard input does, as with its worker.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env=os.environ | connections.environment()
    ) as task:
        assert task.wait() == 1
    error = json.loads((folder / "outcome.json").read_text())["error"]
    assert f"in use by a training, process {number} on" in error
