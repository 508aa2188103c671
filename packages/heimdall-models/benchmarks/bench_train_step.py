"""What Lightning and our module cost beside a bare PyTorch loop, for the same steps.

    python benchmarks/bench_train_step.py [backbone] [batches]

Both loops run the same batches through the same network, loss and optimiser, alternately, three
times each; the least of each counts, because other work on the machine only ever adds time.
"""

import logging
import sys
import tempfile
import time

import numpy as np
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, Region
from heimdall_models.optimizer import adamw, warmup_cosine
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

REGION = Region(45.0, 8.2, 1e5)
BATCH = 32


def new_module(backbone):
    seed_everything(1, verbose=False)
    statistics = np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0)
    return LocalizationModule(LocalizationConfig(backbone=backbone), REGION, *statistics)


def batches(n):
    rng = np.random.default_rng(1)
    return [
        {
            "features": rng.normal(-80, 10, (3, 128, 32)).astype(np.float32),
            "position_deg": REGION.to_degrees(rng.uniform(-1, 1, 2)),
            "session_id": str(i),
        }
        for i in range(n * BATCH)
    ]


def bare(backbone, data):
    """Seconds of a plain loop: forward, loss, backward, clip, step."""
    module = new_module(backbone).train()
    optimizer = adamw([(module.net, 1e-3)], 0.05)
    schedule = warmup_cosine(optimizer, len(data) // BATCH, 0.1)
    started = time.perf_counter()
    for batch in DataLoader(data, BATCH):
        target = torch.from_numpy(REGION.to_plane(batch["position_deg"].numpy())).float()
        loss = module.loss(*module(batch["features"]), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


def under_lightning(backbone, data, folder):
    """Seconds of the same epoch under Lightning, metrics of the epoch included."""
    module = new_module(backbone)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    started = time.perf_counter()
    trainer.fit(module, DataLoader(data, BATCH))
    return time.perf_counter() - started


def main():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    backbone = sys.argv[1] if len(sys.argv) > 1 else "convnext_atto"
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    data = batches(n)
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            plain.append(bare(backbone, data))
            ours.append(under_lightning(backbone, data, folder))
    step_ms = [1000 * min(times) / n for times in (plain, ours)]
    sys.stdout.write(
        f"{backbone}, {n} batches of {BATCH}: bare {step_ms[0]:.1f} ms a step, "
        f"Lightning {step_ms[1]:.1f} ms, {100 * (step_ms[1] / step_ms[0] - 1):+.1f} %\n"
    )


if __name__ == "__main__":
    main()
