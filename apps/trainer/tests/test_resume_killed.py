"""A training that is interrupted from outside, by the command line alone, and is one run."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from heimdall_models.training.checkpoint_files import newest_checkpoint
from heimdall_trainer.mlflow_run import new_steps, tracked_run
from heimdall_trainer.pipeline import TrainingPipeline
from mlflow import MlflowClient


def variables(connections):
    """The environment of the command line, with MLflow and folders of their own."""
    s3 = connections.need_s3()
    return {
        **os.environ,
        "HEIMDALL_DATABASE_URL": connections.need_database(),
        "HEIMDALL_S3_ENDPOINT_URL": s3.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
        "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        "HEIMDALL_STATE_DIR": str(connections.state_dir),
        "OMP_NUM_THREADS": "1",
    }


def command(config, *more):
    """The configuration as flags."""
    return [
        *(sys.executable, "-m", "heimdall_trainer", "train", "--backbone", config.backbone),
        *("--receivers", *config.receivers, "--epochs", str(config.epochs)),
        *("--seed", str(config.seed), "--batch_size", str(config.batch_size)),
        *("--validation_split", str(config.validation_split)),
        *("--test_split", str(config.test_split)),
        *("--checkpoint_every_steps", str(config.checkpoint_every_steps), *more),
    ]


def trained(config, connections):
    """Train in this process, as a run of MLflow; its id."""
    pipeline = TrainingPipeline(config, connections)
    resumed = newest_checkpoint(connections.state_dir) if config.resume_training else None
    with tracked_run(config, connections, resumed) as tracker:
        pipeline.train(pipeline.load_data(), new_steps(tracker))
    return tracker.run_id


def interrupted(words, env, folder, number):
    """Run until a step was kept, send a signal, and return the exit status and standard error."""
    before = written(folder)
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while written(folder) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    return process.returncode, said


def hung_up(words, env, folder):
    """Run in a terminal that closes once a step was kept; return the exit status."""
    before = written(folder)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *words], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    with contextlib.suppress(OSError):  # so says Linux at the end
        while written(folder) == before and os.read(ours, 65536):
            pass
    os.close(ours)
    return process.wait(timeout=120)


def written(folder):
    """When steps were kept."""
    return [path.stat().st_mtime_ns for path in folder.rglob("step.ckpt")]


def state_of(folder):
    """All that the last checkpoint says of training: weights, average, optimiser, schedule."""
    (path,) = folder.rglob("last.ckpt")
    kept = torch.load(path, weights_only=True)
    names = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops")
    history = kept["callbacks"]["EpochHistory"]
    return {name: kept[name] for name in names} | {"history": history, "run": kept["heimdall_run"]}


def assert_equal(ours, theirs, where=""):
    """Bit for bit, in nested dictionaries and lists."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for name, value in theirs.items():
            assert_equal(ours[name], value, f"{where}.{name}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, value in enumerate(theirs):
            assert_equal(ours[index], value, f"{where}[{index}]")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def metrics_of(connections, run_id):
    """What MLflow has of a run: its metrics' steps and values, and how it ended."""
    client = MlflowClient(connections.tracking_uri())
    run = client.get_run(run_id)
    history = {
        name: sorted((seen.step, seen.value) for seen in client.get_metric_history(run_id, name))
        for name in run.data.metrics
        if name.startswith(("train/", "val/", "lr"))
    }
    return history, run.info.status


def runs_of(connections):
    """All runs that MLflow has."""
    client = MlflowClient(connections.tracking_uri())
    return client.search_runs([each.experiment_id for each in client.search_experiments()])


@pytest.fixture
def one_thread():
    """Sums in the same order as in the processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_interrupted_and_killed_ends_as_one_that_never_was(
    connections, quick, tmp_path
):
    """Ctrl-C, a dropped connection, and a machine that loses power; and it is one run."""
    ours, theirs = (replace(connections, state_dir=tmp_path / name) for name in ("ours", "theirs"))
    config = replace(quick, backbone="test_convnext", batch_size=2, checkpoint_every_steps=1)
    env, kept = variables(ours), ours.state_dir / "checkpoints"

    status, said = interrupted(command(config), env, kept, signal.SIGINT)
    assert (status, "the state is in" in said) == (130, True), said
    again = command(config, "--resume_training", "--num_workers", "2")
    assert hung_up(again, env, kept) == 128 + signal.SIGHUP
    assert [run.info.status for run in runs_of(ours)] == ["KILLED"]
    assert not [*kept.rglob("*.part")]
    status, said = interrupted(again, env, kept, signal.SIGKILL)
    assert status == -signal.SIGKILL, said
    run_id = trained(replace(config, resume_training=True), ours)
    other_id = trained(config, theirs)

    stopped, straight = state_of(kept), state_of(theirs.state_dir)
    assert stopped.pop("run")["run_id"] == run_id
    assert straight.pop("run")["run_id"] == other_id
    assert_equal(stopped, straight)
    assert_equal(metrics_of(ours, run_id), metrics_of(theirs, other_id))
    assert metrics_of(ours, run_id)[1] == "FINISHED"
