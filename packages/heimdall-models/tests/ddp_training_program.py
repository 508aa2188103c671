"""Train, validate and diverge on two processes; see test_ddp_training."""

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


def sessions(n=9, broken=None):
    """An odd number of sessions, which two processes cannot share evenly."""
    rng = np.random.default_rng(6)
    made = [
        {
            "features": rng.normal(-80, 10, (3, 128, 32)).astype(np.float32),
            "position_deg": REGION.to_degrees(rng.uniform(-1, 1, 2)),
            "session_id": f"s{i}",
        }
        for i in range(n)
    ]
    if broken is not None:
        made[broken]["features"][:] = np.nan
    return made


def new_module():
    """The same in every process; the backbone's last stage learns from the second epoch on."""
    seed_everything(6, verbose=False)
    statistics = np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0)
    config = LocalizationConfig(backbone="test_convnext", unfreeze_epoch=1, unfreeze_every=1)
    return LocalizationModule(config, REGION, *statistics)


def new_trainer(folder, devices=2, **options):
    """Lightning's trainer for two epochs."""
    return Trainer(
        accelerator="cpu",
        devices=devices,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **options,
    )


def fit(module, data, folder):
    """Two epochs on two processes."""
    callbacks = [AveragedWeights(), DivergenceGuard(folder)]
    strategy = "ddp_find_unused_parameters_true"
    trainer = new_trainer(folder, strategy=strategy, callbacks=callbacks)
    trainer.fit(module, DataLoader(data, batch_size=2), DataLoader(data, batch_size=2))
    return dict(trainer.callback_metrics)


def everyone(value):
    """The value of each process."""
    values = [None, None]
    distributed.all_gather_object(values, value)
    return values


def trains_alike(folder):
    """Both processes end with the same weights, and the last stage has learnt."""
    module = new_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    metrics = fit(module, sessions(), folder)
    weights = module.state_dict()
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    ours, theirs = everyone([weights, metrics])
    same = all(torch.equal(ours[0][name], theirs[0][name]) for name in weights)
    stages = {name.split(".")[3] for name in moved if name.startswith("net.backbone.stages")}
    return same and ours[1] == theirs[1] and stages == {"3"}


def stops_alike(folder):
    """A session that one process alone has seen is named by both."""
    try:
        fit(new_module(), sessions(broken=4), folder)
    except ModelError as error:
        return all("session s4 " in said for said in everyone(str(error)))
    return False


def validated(folder, **options):
    """Metrics of seven sessions that are validated."""
    trainer = new_trainer(folder, **options)
    trainer.validate(new_module(), DataLoader(sessions(7), batch_size=2), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        alike, stopped = trains_alike(folder), stops_alike(folder)
        both = validated(folder, strategy="ddp")
        rank = distributed.get_rank()
        distributed.barrier()
        distributed.destroy_process_group()
        for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(variable, None)
        alone = validated(folder, devices=1)
        close = [
            abs(both[name] - value) <= 1e-4 * max(abs(value), 1) for name, value in alone.items()
        ]
        agrees = both.keys() == alone.keys() and all(close)
    sys.stdout.write(f"rank {rank} {alike=} {stopped=} {agrees=}\n")
