"""A disk that is full while a network is trained: what goes on, and what is never lost."""

import resource
from dataclasses import replace

import pytest
from heimdall_data import S3Settings
from heimdall_export.errors import ExportError
from heimdall_models.errors import TrainingError
from heimdall_models.trained import Trained
from heimdall_models.training.fit import TrainedModel, fit
from heimdall_trainer.delivery import upload
from heimdall_trainer.pipeline import TrainingPipeline
from lightning.pytorch import Callback


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
