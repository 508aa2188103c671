"""The moving average of the weights: what it is, where it goes, and that it survives a stop."""

import re

import numpy as np
import pytest
import torch
from heimdall_models import AveragedWeights, LocalizationConfig, LocalizationModule, ModelError
from heimdall_models.trained import Trained
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

STATISTICS = (np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0))
HEAD = "net.heads.position.weight"


class Weights(Callback):
    """Keeps one weight after each step, and what validation sees of it."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        """After the step."""
        self.trained.append(pl_module.state_dict()[HEAD].clone())

    def on_validation_batch_start(self, trainer, pl_module, *_):
        """What the batch will go through."""
        self.validated.append(pl_module.state_dict()[HEAD].clone())


def run(region, sessions, folder, *callbacks, epochs=2, resume_from=None):
    """Train a small network, always from the same start, in the same order."""
    seed_everything(2, verbose=False)
    config = LocalizationConfig(backbone="test_resnet", learning_rate=3e-3, dropout=0.0)
    module = LocalizationModule(config, region, *STATISTICS)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[AveragedWeights(), *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    loaders = DataLoader(sessions[:32], 16), DataLoader(sessions[32:], 8)
    trainer.fit(module, *loaders, ckpt_path=resume_from, weights_only=True)
    return module, trainer


def by_hand(weights, decay=0.999):
    """The average of a sequence of weights, as the formula says."""
    average = weights[0]
    for n, current in enumerate(weights[1:], start=1):
        keep = min(decay, (1 + n) / (10 + n))
        average = keep * average + (1 - keep) * current
    return average


@given(st.integers(1, 10**7), st.floats(0, 0.999))
def test_the_decay_warms_up_to_what_was_asked_for(n, decay):
    """A short run must not keep its random start, nor a long one forget all but the last steps."""
    callback = AveragedWeights(decay)
    assert 0 <= callback.kept(n) <= callback.kept(n + 1) <= decay
    assert n < 10**4 or callback.kept(n) == decay


def test_the_average_is_validated_saved_and_kept(region, sessions, tmp_path):
    """Computed again by hand from the weights after each step."""
    module, trainer = run(region, sessions, tmp_path, weights := Weights())
    trainer.save_checkpoint(path := tmp_path / "average.ckpt")
    expected = by_hand(weights.trained)
    torch.testing.assert_close(weights.validated[-1], expected)
    torch.testing.assert_close(Trained.open(path).single.module.state_dict()[HEAD], expected)
    torch.testing.assert_close(module.state_dict()[HEAD], expected)
    assert not torch.equal(weights.trained[-1], expected)


def test_counts_are_the_newest_and_not_an_average(region, sessions, tmp_path):
    """A batch norm counts its batches in whole numbers."""
    module, _ = run(region, sessions, tmp_path)
    counts = [v for name, v in module.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts
    assert {int(count) for count in counts} == {4}


def test_a_stopped_and_resumed_run_has_the_same_average(region, sessions, tmp_path):
    """Weights, average and the count behind its warm-up, bit for bit."""
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    straight, _ = run(region, sessions, tmp_path, saver, epochs=4)
    half = tmp_path / "epoch=1.ckpt"
    resumed, trainer = run(region, sessions, tmp_path, epochs=4, resume_from=half)
    assert trainer.global_step == 8
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@given(st.floats().filter(lambda decay: not 0 <= decay < 1))
def test_a_decay_out_of_range_is_refused(decay):
    """One would keep the random start for ever."""
    with pytest.raises(ModelError, match=re.escape(f"is {decay};")):
        AveragedWeights(decay)
