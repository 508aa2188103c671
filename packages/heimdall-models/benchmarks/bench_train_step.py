"""What Lightning, our module and its callbacks cost beside a bare PyTorch loop, same steps.

    OMP_NUM_THREADS=1 python benchmarks/bench_train_step.py [--backbone convnext_atto]
        [--batches 12] [--rounds 5] [--precision 32-true] [--device cpu]

Both loops run the same batches of a DataLoader through the same network, loss, optimiser and
clipping in the same precision. Ours adds what a run of the trainer adds: metrics of the epoch,
averaged weights, the guard against divergence. They take an epoch in turn, so that a busy machine
is busy for both; medians count. On a CPU the time is what the process got of it.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from heimdall_models import (
    AveragedWeights,
    DivergenceGuard,
    LocalizationConfig,
    LocalizationModule,
    Region,
)
from heimdall_models.losses import gaussian_nll
from heimdall_models.optimizer import adamw, warmup_cosine
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader

REGION = Region(45.0, 8.2, 1e5)
BATCH = 32


def new_module(given):
    seed_everything(1, verbose=False)
    statistics_db = np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0)
    return LocalizationModule(LocalizationConfig(backbone=given.backbone), REGION, *statistics_db)


def sessions(n):
    rng = np.random.default_rng(1)
    return [
        {
            "features": rng.normal(-80, 10, (3, 128, 32)).astype(np.float32),
            "position_deg": REGION.to_degrees(rng.uniform(-1, 1, 2)),
            "session_id": str(i),
        }
        for i in range(n)
    ]


def clock(given):
    """Seconds, once a GPU has done what it was given."""
    if given.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def bare_epoch(given, data):
    """Seconds of a plain loop: forward, loss, backward, clip, step."""
    module = new_module(given).train().to(given.device)
    optimizer = adamw([(module.net, 1e-3)], 0.05)
    schedule = warmup_cosine(optimizer, given.batches, 0.1)
    half = given.precision == "bf16-mixed"
    started = clock(given)
    for batch in DataLoader(data, BATCH):
        target = torch.from_numpy(REGION.to_plane(batch["position_deg"].numpy())).float()
        features, target = batch["features"].to(given.device), target.to(given.device)
        with torch.autocast(given.device, torch.bfloat16, enabled=half):
            normalised = module.standardize(features)
            answer, penalty = module.net.answer_in_training(normalised, target)
            loss = gaussian_nll(*answer.ellipse, target) + penalty
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return clock(given) - started


class Clock(Callback):
    """The seconds from the first batch to the end of the epoch."""

    def __init__(self, given):
        self.given, self.seconds = given, 0.0

    def on_train_epoch_start(self, *_):
        """Before the first batch."""
        self.seconds -= clock(self.given)

    def on_train_epoch_end(self, *_):
        """After the last step; the epoch's metrics come next."""
        self.seconds += clock(self.given)


def our_epoch(given, data, folder):
    """Seconds of the same epoch under Lightning, with all that ours adds."""
    watch = Clock(given)
    trainer = Trainer(
        max_epochs=1,
        accelerator=given.device,
        devices=1,
        precision=given.precision,
        gradient_clip_val=1.0,
        callbacks=[AveragedWeights(), DivergenceGuard(folder), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(new_module(given), DataLoader(data, BATCH))
    return watch.seconds


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def main():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    given = arguments()
    data = sessions(given.batches * BATCH)
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds + 1):
            times = bare_epoch(given, data), our_epoch(given, data, folder)
            if number:  # The first round warms up.
                plain.append(times[0])
                ours.append(times[1])
    step_ms = [1000 * statistics.median(taken) / given.batches for taken in (plain, ours)]
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    sys.stdout.write(
        f"{given.backbone}, {given.batches} batches of {BATCH}, {given.precision}, "
        f"{given.device}, {torch.get_num_threads()} threads, median of {given.rounds}: "
        f"bare {step_ms[0]:.1f} ms a step, ours {step_ms[1]:.1f} ms, "
        f"{100 * (statistics.median(ratios) - 1):+.1f} %\n"
    )


if __name__ == "__main__":
    main()
