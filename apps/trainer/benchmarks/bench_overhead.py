"""What training through the app costs beside a bare PyTorch loop, and when its first batch comes.

    OMP_NUM_THREADS=1 python apps/trainer/benchmarks/bench_overhead.py [--backbone convnext_atto]
        [--sessions 400] [--rounds 5] [--precision 32-true]

Both loops train the same network on the same prepared sessions, in the same batches, with the same
loss, optimiser, schedule, clipping and augmentation. The app's adds all that `heimdall train` has:
Lightning, averaged weights, the epoch's metrics, the guard against divergence, seeds of each step,
and checkpoints within the epoch as often as by default. They take an epoch in turn, in one process,
and the median of their ratios counts; time is what the process was given by the CPU. The time to
the first batch is of a whole `heimdall train` whose features are in the cache: from the command to
the first step, on the clock. Servers are embedded, sessions simulated.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from heimdall_data.embedded import EmbeddedStack
from heimdall_models.losses import gaussian_nll
from heimdall_models.optimizer import adamw, warmup_cosine
from heimdall_models.training.batches import EpochOrder, make_loader
from heimdall_models.training.fit import fit
from heimdall_trainer.cli.demo import DemoConfig, fill
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.pipeline import TrainingPipeline
from lightning.pytorch import Callback

FIRST_STEP = """
import sys, time
from lightning.pytorch import Callback
import heimdall_trainer.pipeline as pipeline
class FirstStep(Callback):
    def on_train_batch_start(self, *_):
        print("first", time.time(), flush=True)
        sys.exit(0)
made = pipeline.make_trainer
def make_trainer(*given, **settings):
    trainer = made(*given, **settings)
    trainer.callbacks.append(FirstStep())
    return trainer
pipeline.make_trainer = make_trainer
from heimdall_trainer.cli.app import main
main()
"""


class Clock(Callback):
    """Seconds from the first batch to the last step of the epoch."""

    def __init__(self):
        self.seconds = 0.0

    def on_train_epoch_start(self, *_):
        """Before the first batch."""
        self.seconds -= time.process_time()

    def on_validation_epoch_start(self, *_):
        """After the last step; the bare loop validates nothing."""
        self.seconds += time.process_time()


def bare_epoch(pipeline, data, config):
    """Seconds of a plain loop: load, forward, loss, backward, clip, step."""
    module = pipeline.create_lightning_module(data).train()
    optimizer = adamw([(module.net, config.learning_rate)], config.weight_decay)
    order = EpochOrder(len(data.train), config.seed, config.batch_size)
    loader = make_loader(data.train, config, order)
    schedule = warmup_cosine(optimizer, len(loader), config.warmup_fraction)
    half = config.precision == "bf16-mixed"
    data.train.set_epoch(0)
    started = time.process_time()
    for batch in loader:
        target = torch.from_numpy(data.region.to_plane(batch["position_deg"].numpy())).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            x = module.standardize(batch["features"])
            answer, penalty = module.net.answer_in_training(x, target)
            loss = gaussian_nll(*answer.ellipse, target) + penalty
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), config.gradient_clip)
        optimizer.step()
        schedule.step()
    return time.process_time() - started


def app_epoch(pipeline, data, config):
    """Seconds of the same epoch as the app trains it."""
    module, trainer, clock = (
        pipeline.create_lightning_module(data),
        pipeline.create_trainer(),
        Clock(),
    )
    trainer.callbacks.insert(0, clock)
    fit(trainer, module, data, config)
    return clock.seconds


def first_batch_s(connections, config):
    """Seconds from the command to the first step, with features in the cache."""
    s3 = connections.need_s3()
    env = {
        **os.environ,
        "HEIMDALL_DATABASE_URL": connections.need_database(),
        "HEIMDALL_S3_ENDPOINT_URL": s3.endpoint_url,
        "HEIMDALL_S3_ACCESS_KEY": s3.access_key,
        "HEIMDALL_S3_SECRET_KEY": s3.secret_key,
        "HEIMDALL_STATE_DIR": str(connections.state_directory()),
    }
    words = [sys.executable, "-c", FIRST_STEP, "train", "--backbone", config.backbone]
    words += ["--receivers", *config.receivers, "--epochs", "1"]
    started = time.time()
    ended = subprocess.run(words, env=env, capture_output=True, text=True)
    stamps = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("first ")]
    if not stamps:
        raise SystemExit(f"training did not begin: {ended.stderr[-2000:]}")
    return float(stamps[0]) - started


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    return parser.parse_args()


def main():
    given = arguments()
    with tempfile.TemporaryDirectory() as folder, EmbeddedStack(Path(folder)) as stack:
        connections = Connections.to_stack(stack)
        fill(connections, DemoConfig(sessions=given.sessions, seed=3, features="mel"))
        config = TrainingConfig(
            epochs=1,
            backbone=given.backbone,
            precision=given.precision,
            receivers=("Torino", "Genova", "Milano-Baggio"),
            accelerator="cpu",
        )
        pipeline = TrainingPipeline(config, connections)
        data = pipeline.load_data()
        plain, ours = [], []
        for number in range(given.rounds + 1):
            there = replace(config, checkpoint_dir=Path(folder, f"round-{number}"))
            beside = TrainingPipeline(there, connections)
            times = bare_epoch(beside, data, there), app_epoch(beside, data, there)
            if number:  # The first round warms up.
                plain.append(times[0])
                ours.append(times[1])
        starts = sorted(first_batch_s(connections, config) for _ in range(given.starts))
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    n_steps = -(-len(data.train) // config.batch_size)
    step_ms = [1000 * statistics.median(taken) / n_steps for taken in (plain, ours)]
    sys.stdout.write(
        f"{given.backbone}, {n_steps} steps of {config.batch_size}, {given.precision}, "
        f"{torch.get_num_threads()} threads, median of {given.rounds}: bare {step_ms[0]:.1f} ms a "
        f"step, the app {step_ms[1]:.1f} ms, {100 * (statistics.median(ratios) - 1):+.1f} %\n"
        f"first batch after {statistics.median(starts):.1f} s of {len(starts)} starts "
        f"({starts[0]:.1f} to {starts[-1]:.1f}), load average {os.getloadavg()[0]:.1f}\n"
    )


if __name__ == "__main__":
    main()
