"""A run that leaves the finite numbers stops, says on what, and keeps the last good state."""

import numpy as np
import pytest
import torch
from heimdall_models import DivergenceGuard, LocalizationConfig, LocalizationModule, ModelError
from heimdall_models.trained import Trained
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

STATISTICS = (np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0))


@pytest.fixture
def module(region):
    """A small network."""
    seed_everything(2, verbose=False)
    return LocalizationModule(LocalizationConfig(backbone="test_convnext"), region, *STATISTICS)


def fit(module, sessions, folder, batch_size=8):
    """One epoch in batches, in order."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[DivergenceGuard(folder)],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(sessions, batch_size))


def test_a_run_that_stays_finite_is_left_alone(module, sessions, tmp_path):
    """The guard must not stop what is well."""
    fit(module, sessions[:16], tmp_path)
    assert not (tmp_path / "diverged.ckpt").exists()


def test_gradients_that_are_not_finite_name_the_batch_and_what_to_do(module, sessions, tmp_path):
    """The rate or the precision is to blame; a batch of twenty sessions still fits one line."""
    position = module.net.heads.position
    position.weight.register_hook(lambda gradient: gradient * torch.inf)
    expected = r"on the batch with sessions session-0, .* session-7 and 12 more; lower the learn"
    with pytest.raises(ModelError, match=expected):
        fit(module, sessions, tmp_path, batch_size=20)


def test_a_broken_session_is_named_and_the_last_good_state_saved(module, sessions, tmp_path):
    """And not the seven beside it. Clipping would spread one NaN over all weights."""
    broken = {**sessions[11], "features": np.full((3, 128, 32), np.nan, np.float32)}
    expected = r"epoch 0, step 1: the features of session session-11 are .* in .*diverged\.ckpt"
    with pytest.raises(ModelError, match=expected):
        fit(module, [*sessions[:11], broken, *sessions[12:]], tmp_path)
    kept = Trained.open(tmp_path / "diverged.ckpt").single.module.state_dict()
    assert all(value.isfinite().all() for value in kept.values())
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
