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


def fit(module, sessions, folder, *callbacks):
    """One epoch in batches of eight, in order."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=[DivergenceGuard(folder), *callbacks],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(sessions, 8))


def test_a_run_that_stays_finite_is_left_alone(module, sessions, tmp_path):
    """The guard must not stop what is well."""
    fit(module, sessions[:16], tmp_path)
    assert not (tmp_path / "diverged.ckpt").exists()


def test_features_that_are_not_finite_are_named_by_their_session(module, sessions, tmp_path):
    """One broken recording among forty, and not the seven beside it."""
    broken = {**sessions[11], "features": np.full((3, 128, 32), np.nan, np.float32)}
    with pytest.raises(
        ModelError,
        match=r"epoch 0, step 1: the features of session session-11 are not finite; leave it out",
    ):
        fit(module, [*sessions[:11], broken, *sessions[12:]], tmp_path)


def test_gradients_that_are_not_finite_name_the_batch_and_what_to_do(module, sessions, tmp_path):
    """Too high a rate, or too low a precision: the sessions are not to blame, but where it was."""
    position = module.net.heads.position
    position.weight.register_hook(lambda gradient: gradient * torch.inf)
    expected = r"on the batch with sessions session-0, .* session-7; lower the learning rate"
    with pytest.raises(ModelError, match=expected):
        fit(module, sessions, tmp_path)


def test_what_is_saved_is_the_last_good_state(module, sessions, tmp_path):
    """Clipping spreads one NaN over all weights; the checkpoint is of before."""
    broken = {**sessions[11], "features": np.full((3, 128, 32), np.nan, np.float32)}
    with pytest.raises(ModelError, match=r"the state before that step is in .*diverged\.ckpt"):
        fit(module, [*sessions[:11], broken], tmp_path)
    kept = Trained.open(tmp_path / "diverged.ckpt").single.module.state_dict()
    assert all(value.isfinite().all() for value in kept.values())
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_long_batches_are_listed_in_short():
    """A batch of 256 must still fit one line."""
    from heimdall_models.training.divergence import _listed

    assert _listed([str(i) for i in range(20)]).endswith("6, 7 and 12 more")
    assert _listed(["a"]) == "session a"
