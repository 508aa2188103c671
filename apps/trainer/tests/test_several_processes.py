"""Training on two processes: the same network as on one, and a clear end when one is lost."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from heimdall_models.errors import OptionError
from heimdall_models.training.batches import EpochOrder, SessionBatches, Share
from heimdall_models.training.devices import placement
from heimdall_models.training.fit import fit
from heimdall_models.training.history import EpochHistory
from heimdall_trainer.errors import UsageError
from heimdall_trainer.pipeline import TrainingPipeline
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

sizes = st.tuples(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))


def batches(order, n_samples):
    """The order as a loader cuts it into batches of so many."""
    indices = list(order)
    return [indices[at : at + n_samples] for at in range(0, len(indices), n_samples)]


@given(sizes, st.integers(0, 3))
def test_the_shares_of_a_batch_are_the_batch_of_one_process(size, epoch):
    """Each session once; where there are too few for all, who repeats one counts nothing."""
    n_samples, n_processes, n_each = size
    whole = EpochOrder(n_samples, 7, n_processes * n_each)
    whole.set_epoch(epoch)
    shares = [
        EpochOrder(n_samples, 7, n_processes * n_each, Share(rank, n_processes))
        for rank in range(n_processes)
    ]
    for share in shares:
        share.set_epoch(epoch)
        assert len(list(share)) == len(share)
    by_rank = [batches(share, n_each) for share in shares]
    for number, batch in enumerate(batches(whole, n_processes * n_each)):
        counted = [by_rank[rank][number] for rank in range(n_processes)]
        weights = [share.weight(number) for share in shares]
        heard = [index for ours, w in zip(counted, weights, strict=True) if w for index in ours]
        assert sorted(heard) == sorted(batch)
        # The mean over processes of weighted means is the mean over the sessions.
        means = [w * sum(ours) / len(ours) for ours, w in zip(counted, weights, strict=True)]
        assert sum(means) / n_processes == pytest.approx(sum(batch) / len(batch))


@given(sizes, st.integers(0, 60))
def test_an_epoch_that_goes_on_has_the_batches_that_were_left(size, first):
    """And the epochs after it have all of theirs."""
    n_samples, n_processes, n_each = size
    share, batch = Share(n_processes - 1, n_processes), n_processes * n_each
    whole = EpochOrder(n_samples, 7, batch, share, start=(3, 0))
    rest = EpochOrder(n_samples, 7, batch, share, start=(3, first))
    assert batches(rest, n_each) == batches(whole, n_each)[first:]
    assert len(rest) == len(whole)
    for order in (whole, rest):
        order.set_epoch(4)
    assert list(rest) == list(whole)


def test_torchrun_says_how_many_processes_there_are(quick, monkeypatch):
    """Nobody wants to say it twice, and Lightning refuses what does not agree."""
    alone = placement(replace(quick, accelerator="cpu"))
    assert (alone["devices"], alone["num_nodes"]) == ("auto", 1)
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "job"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("WORLD_SIZE", "8"),
    ):
        monkeypatch.setenv(name, value)
    found = placement(replace(quick, accelerator="cpu"))
    assert (found["devices"], found["num_nodes"]) == (4, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "--ema_decay 0.999 needs whole ones; give --ema_decay 0"),
        ({"ema_decay": 0.0}, "--gradient_clip 1 needs whole ones"),
        ({"ema_decay": 0.0, "gradient_clip": 0.0, "accelerator": "cpu"}, "fsdp needs GPUs"),
    ],
)
def test_sharded_training_is_refused_where_it_would_train_something_else(quick, settings, said):
    """Lightning would average or clip a shard as if it were the network, or fail after minutes."""
    with pytest.raises(OptionError, match=said):
        placement(replace(quick, strategy="fsdp", **settings))


def test_a_batch_that_processes_cannot_share_is_refused(connections, quick):
    """Some sessions would count more than others."""
    config = replace(quick, batch_size=7, devices="2", accelerator="cpu")
    pipeline = TrainingPipeline(config, connections)
    batches_of = SessionBatches(pipeline.load_data(), config)
    batches_of.trainer = pipeline.create_trainer()
    with pytest.raises(OptionError, match="--batch_size is 7, and 2 processes cannot share it"):
        batches_of.train_dataloader()


def test_an_ensemble_trains_in_one_process(connections, quick, tmp_path):
    """What several would make of its folders and merging was never tried."""
    config = replace(quick, ensemble=2, devices="2", accelerator="cpu", checkpoint_dir=tmp_path)
    with pytest.raises(UsageError, match="--ensemble trains its members in one process"):
        TrainingPipeline(config, connections).train(None)


@pytest.fixture(scope="module")
def two(connections, quick, tmp_path_factory):
    """Two processes that train for a long time, until one is lost: what they said and left."""
    there = replace(connections, state_dir=tmp_path_factory.mktemp("two"))
    s3 = there.need_s3()
    env = {
        **os.environ,
        "HEIMDALL_DATABASE_URL": there.need_database(),
        "HEIMDALL_S3_ENDPOINT_URL": s3.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
        "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        "HEIMDALL_STATE_DIR": str(there.state_dir),
        "MLFLOW_TRACKING_URI": there.tracking_uri(),
        "OMP_NUM_THREADS": "1",
    }
    words = [
        *(sys.executable, "-m", "heimdall_trainer", "train", "--backbone", "test_convnext"),
        *("--receivers", *quick.receivers, "--epochs", "10000", "--patience", "10000"),
        *("--seed", "7", "--batch_size", "10", "--dropout", "0", "--warmup_fraction", "0"),
        *("--validation_split", "0.25", "--test_split", "0.25"),
        *("--accelerator", "cpu", "--devices", "2", "--log_format", "json"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=env, text=True, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "epoch" and lines[-1]["epoch"] == 3:
                break
        second = child_of(process.pid)
        os.kill(second, signal.SIGKILL)
        rest, said = process.communicate(timeout=120)
    lines += [json.loads(line) for line in rest.splitlines()]
    return there, lines, said, process.returncode


def child_of(pid):
    """The process that was started beside a first one."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"process {pid} has started no second one")


def test_two_processes_train_the_network_of_one(connections, quick, two, tmp_path):
    """With the same batches: loss and all metrics after an epoch and after two.

    Sums of float32 have another order, and what that does to a median depends on the processor.
    """
    config = replace(
        quick,
        epochs=10000,
        backbone="test_convnext",
        batch_size=10,
        dropout=0.0,
        warmup_fraction=0.0,
        checkpoint_dir=tmp_path,
    )
    pipeline = TrainingPipeline(config, connections)
    data, trainer = pipeline.load_data(), pipeline.create_trainer()
    trainer.fit_loop.max_epochs = 10000
    trainer.callbacks.append(StopAfter(2))
    module = pipeline.create_lightning_module(data)
    plain = data.train.subset(data.train.sessions)
    module.learn_levels(plain[index] for index in range(len(plain)))
    fit(trainer, module, data, config)
    told = [line for line in two[1] if line["event"] == "epoch"][:2]
    for line, alone in zip(told, history_of(trainer), strict=True):
        for name, value in alone.items():
            assert line[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


class StopAfter(Callback):
    """Ends training after some epochs, on a schedule that is made for more."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_train_epoch_end(self, trainer, *_):
        """After the last one."""
        trainer.should_stop = trainer.current_epoch + 1 == self.n_epochs


def history_of(trainer):
    """What each epoch ended with."""
    return next(c for c in trainer.callbacks if isinstance(c, EpochHistory)).metrics


def test_the_first_process_alone_writes(two):
    """Two that log one epoch make curves that nobody can read."""
    there, lines, *_ = two
    epochs = [line["epoch"] for line in lines if line["event"] == "epoch"]
    assert epochs == sorted(set(epochs))
    client = MlflowClient(there.tracking_uri())
    (experiment,) = (e for e in client.search_experiments() if e.name.startswith("heimdall"))
    (run,) = client.search_runs([experiment.experiment_id])
    steps = [seen.step for seen in client.get_metric_history(run.info.run_id, "train/loss")]
    assert len(steps) == len(set(steps)) >= 2
    assert len(list(there.state_dir.glob("checkpoints/*"))) == 1


def test_a_lost_process_ends_the_others_in_one_line(two):
    """They would wait for its gradients for half an hour, or for ever."""
    _, _, said, status = two
    assert status == 1
    assert said.count("heimdall: ") == 1, said
    assert "heimdall: one of the 2 processes that train together was lost" in said
    assert "--resume_training goes on from the last checkpoint" in said
