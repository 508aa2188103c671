"""Validate on one process and on two, and say whether the figures agree; see test_epoch."""

import os
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, Region
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

REGION = Region(45.0, 8.2, 1e5)


def module_and_data():
    """The same in every process."""
    seed_everything(6, verbose=False)
    rng = np.random.default_rng(6)
    data = [
        {
            "features": rng.normal(-80, 10, (3, 128, 32)).astype(np.float32),
            "position_deg": REGION.to_degrees(rng.uniform(-1, 1, 2)),
            "session_id": f"s{i}",
        }
        for i in range(7)
    ]
    statistics = np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0)
    config = LocalizationConfig(backbone="test_convnext")
    return LocalizationModule(config, REGION, *statistics), data


def metrics(folder, **options):
    """What validation logs."""
    module, data = module_and_data()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.validate(module, DataLoader(data, batch_size=2), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        distributed = metrics(folder, devices=2, strategy="ddp", use_distributed_sampler=True)
        rank = torch.distributed.get_rank()
        torch.distributed.destroy_process_group()
        for variable in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(variable, None)
        alone = metrics(folder, devices=1)
        agrees = distributed.keys() == alone.keys() and all(
            abs(distributed[name] - value) <= 1e-4 * max(abs(value), 1)
            for name, value in alone.items()
        )
        sys.stdout.write(f"rank {rank} {'AGREES' if agrees else (distributed, alone)}\n")
