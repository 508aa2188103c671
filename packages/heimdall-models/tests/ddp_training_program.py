"""Train on two processes, then diverge on one of them; see test_ddp_training."""

import os
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from heimdall_models import (
    AveragedWeights,
    DivergenceGuard,
    LocalizationConfig,
    LocalizationModule,
    ModelError,
    Region,
)
from lightning.pytorch import Trainer, seed_everything
from torch import distributed
from torch.utils.data import DataLoader

REGION = Region(45.0, 8.2, 1e5)
STRATEGY = "ddp_find_unused_parameters_true"


def sessions(broken=None):
    """Nine sessions, which two processes cannot share evenly."""
    rng = np.random.default_rng(6)
    made = [
        {
            "features": rng.normal(-80, 10, (3, 128, 32)).astype(np.float32),
            "position_deg": REGION.to_degrees(rng.uniform(-1, 1, 2)),
            "session_id": f"s{i}",
        }
        for i in range(9)
    ]
    if broken is not None:
        made[broken]["features"][:] = np.nan
    return made


def fit(data, folder, strategy=STRATEGY):
    """Two epochs, the second with the backbone's last stage."""
    seed_everything(6, verbose=False)
    statistics = np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0)
    config = LocalizationConfig(backbone="test_convnext", unfreeze_epoch=1, unfreeze_every=1)
    module = LocalizationModule(config, REGION, *statistics)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=2,
        callbacks=[AveragedWeights(), DivergenceGuard(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, DataLoader(data, batch_size=2), DataLoader(data, batch_size=2))
    return module, before, dict(trainer.callback_metrics)


def everyone(value):
    """The value of each process."""
    values = [None, None]
    distributed.all_gather_object(values, value)
    return values


def trains_alike(folder):
    """Both processes end with the same weights, and the last stage has learnt."""
    module, before, metrics = fit(sessions(), folder)
    weights = module.state_dict()
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    ours, theirs = everyone([weights, metrics])
    same = all(torch.equal(ours[0][name], theirs[0][name]) for name in weights)
    stages = {name.split(".")[3] for name in moved if name.startswith("net.backbone.stages")}
    return same and ours[1] == theirs[1] and stages == {"3"}


def stops_alike(folder):
    """A session that one process alone has seen is named by both."""
    try:
        fit(sessions(broken=4), folder)
    except ModelError as error:
        return all("session s4 " in said for said in everyone(str(error)))
    return False


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        alike, stopped = trains_alike(folder), stops_alike(folder)
        said = f"rank {distributed.get_rank()} {alike=} {stopped=}\n"
        distributed.barrier()
    sys.stdout.write(said)
    sys.stdout.flush()
