"""A disk that is full while a network is trained: what goes on, and what is never lost."""

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from heimdall_data import S3Settings
from heimdall_export.errors import ExportError
from heimdall_models.errors import TrainingError
from heimdall_models.trained import Trained
from heimdall_models.training.fit import TrainedModel, fit
from heimdall_trainer.delivery import upload
from heimdall_trainer.pipeline import TrainingPipeline
from lightning.pytorch import Callback
from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(connections, quick):
    """The sessions of the test catalogue."""
    return TrainingPipeline(quick, connections).load_data()


class FullDisk(Callback):
    """The kernel writes no file beyond some bytes, in some epochs."""

    def __init__(self, *epochs):
        self.epochs = epochs
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_epoch_start(self, trainer, *_):
        """Before anything of the epoch is written."""
        most = 4096 if trainer.current_epoch in self.epochs else self.before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, self.before[1]))

    def teardown(self, *_args, **_named):
        """There is room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    on_exception = teardown


@pytest.fixture
def train(connections, quick, data, tmp_path, capsys):
    """Train five epochs, in some of which nothing can be written.

    What is said is captured in memory: pytest's own files would be full, too.
    """

    def run(*full):
        config = replace(quick, backbone="test_convnext", epochs=5, checkpoint_dir=tmp_path)
        config = replace(config, checkpoint_every_steps=2)
        pipeline = TrainingPipeline(config, connections)
        trainer = pipeline.create_trainer()
        trainer.callbacks.append(FullDisk(*full))
        return fit(trainer, pipeline.create_lightning_module(data), data, config)

    return run


def test_training_goes_on_and_delivers_the_best_that_could_be_kept(train, tmp_path, capsys):
    """A night's work must not end at four in the morning for want of a few megabytes."""
    trained = train(2, 3, 4)
    said = capsys.readouterr().err
    assert f"warning: checkpoint {tmp_path}/last.ckpt cannot be written (File too large)" in said
    assert f"make room in {tmp_path}" in said
    assert len(trained.history) == 5
    assert trained.checkpoint.name in ("epoch=000.ckpt", "epoch=001.ckpt")
    Trained.open(trained.checkpoint)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"epoch=000.ckpt", "epoch=001.ckpt", "last.ckpt"}


def test_the_metrics_are_those_of_the_checkpoint_that_is_delivered(train):
    """A better epoch that nobody has is no result."""
    trained = train(3, 4)
    number = int(trained.checkpoint.stem.removeprefix("epoch="))
    assert trained.best_epoch == number
    assert trained.metrics["val/loss"] == trained.history[number].val_loss


def test_training_of_which_nothing_could_be_kept_says_so(train):
    """And not that the loss was never finite."""
    with pytest.raises(
        TrainingError, match=r"no checkpoint could be written: .*File too large; make"
    ):
        train(0, 1, 2, 3, 4)


def test_a_store_that_is_gone_at_the_upload_costs_no_training(connections, tmp_path):
    """The file is there, and one command takes it up again."""
    s3 = connections.need_s3()
    gone = S3Settings(
        endpoint_url="http://127.0.0.1:9", access_key=s3.access_key, secret_key=s3.secret_key
    )
    kept = tmp_path / "model.onnx"
    kept.write_bytes(b"a model")
    trained = TrainedModel(checkpoint=tmp_path / "epoch=001.ckpt")
    with pytest.raises(ExportError) as caught:
        upload(kept, trained, "run", {}, gone)
    said = str(caught.value)
    assert "out of reach" in said
    assert f"the model file is {kept}" in said
    assert f"--export_only --checkpoint {trained.checkpoint}` uploads and registers" in said
    assert kept.is_file()


PROGRAM = Path(__file__).with_name("full_disk_program.py")
IN_A_SMALL_DISK = """
mount -t tmpfs -o size=40m small "$0" && mkdir "$0/state" && "$@"
status=$?
rm -f "$0/filling"
find "$0" -name ".*.part" -o -name "heimdall-*" -o -name "*.ckpt" -o -name "*.html"
exit $status
"""


@pytest.fixture
def train_in(connections, quick, tmp_path):
    """Train on a disk of 40 MB that is full from a stage on; the process, and the MLflow run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    in_space = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*in_space, 'mount -t tmpfs x "$0"', str(disk)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    kept = replace(
        connections, state_dir=disk / "state", mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"
    )
    env = {**os.environ, **kept.environment(defaults=False), "TMPDIR": str(disk)}

    def run(stage):
        words = ["train", "--backbone", "test_convnext", "--epochs", "1", "--batch_size", "8"]
        words += ["--receivers", *quick.receivers, "--val_split", "0.25", "--test_split", "0.25"]
        told = subprocess.run(
            [*in_space, IN_A_SMALL_DISK, disk, sys.executable, PROGRAM, disk, stage, *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        client = MlflowClient(kept.mlflow_tracking_uri)
        every = [each.experiment_id for each in client.search_experiments()]
        (found,) = client.search_runs(every)
        assert "Traceback" not in told.stderr
        return told, found

    return run


@pytest.mark.parametrize(
    ("stage", "said", "kept"),
    [
        ("data", r"no checkpoint could be written: .*No space left on device; make room", ""),
        (
            "export and evaluation",
            r"cannot write the model to .*No space left on device; nothing is lost: .*"
            r"`heimdall train --export_only --checkpoint .*calibrated.ckpt` exports",
            "last.ckpt",
        ),
    ],
)
def test_a_disk_that_is_full_at_a_stage_ends_the_run_in_order(train_in, stage, said, kept):
    """One line says what is full; what was done before stays, and nothing half-done does."""
    told, run = train_in(stage)
    assert told.returncode == 1
    (error,) = [line for line in told.stderr.splitlines() if line.startswith("heimdall: ")]
    assert re.search(said, error), error
    assert run.info.status == "FAILED"
    left = [Path(line).name for line in told.stdout.splitlines() if line.startswith("/")]
    assert kept in [*left, ""]
    assert not [name for name in left if name.endswith(".part") or name.startswith("heimdall-")]


def test_a_disk_that_is_full_at_the_report_costs_the_report_alone(train_in):
    """The model is in the store and the registry by then."""
    told, run = train_in("report")
    assert told.returncode == 0, told.stderr
    assert run.info.status == "FINISHED"
    assert "No space left on device" in run.data.tags["report.error"]
    assert "report      none" in told.stdout
    assert "warning: the run has no report in MLflow (cannot write" in told.stderr
    left = [Path(line).name for line in told.stdout.splitlines() if line.startswith("/")]
    assert not [name for name in left if name.endswith((".part", ".html"))]
