"""What each hyper-parameter of `heimdall train` changes, one at a time, as Markdown tables.

    python apps/trainer/benchmarks/sensitivity.py --state-dir FOLDER [--sessions 600] [--epochs 12]

One catalogue of simulated sessions and one split for all; the second run on a folder finds the
sessions there. First the defaults with several seeds, of the weights, the order of the data and
the augmentation: they tell the noise. Then every change, with seed 42. In bold is what lies
outside the 95 % prediction interval of one more seed; of twenty such figures one does by chance.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from heimdall_data.embedded import EmbeddedStack
from heimdall_models.trained import Trained
from heimdall_models.training.fit import validated
from heimdall_trainer.cli.demo import DEMO_RECEIVERS, DemoConfig, fill
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.pipeline import TrainingPipeline
from scipy.stats import t as student_t

SEEDS = (42, 43, 44, 45)
CHANGES = (
    ("learning_rate", 3e-4),
    ("learning_rate", 3e-3),
    ("head_rate", 1.0),
    ("augment", False),
    ("batch_size", 8),
    ("ema_decay", 0.0),
    ("dropout", 0.0),
    ("sigma_max", 0.3),
    ("weight_decay", 0.5),
    ("warmup_fraction", 0.0),
    ("gradient_clip", 0.0),
    ("drop_path", 0.2),
    ("precision", "bf16-mixed"),
    ("freeze_backbone", True),
    ("batch_size", 128),
    ("head_rate", 25.0),
    ("tilted", True),
    ("sigma_max", 3.0),
    ("unfreeze_epoch", 2),
    ("weight_decay", 0.0),
    ("warmup_fraction", 0.5),
    ("channels_last", False),
    ("gradient_checkpointing", True),
)
"""Flags with values that are not their defaults, in the order of training."""


@dataclass(frozen=True)
class Row:
    """What one training came to."""

    test_nll: float
    val_nll: float
    median_km: float
    coverage_68: float
    coverage_95: float
    last_loss: float
    """Of the validation part in the last epoch; the other figures are of the best one."""
    best_epoch: float
    """Counted from 1."""
    cpu_seconds: float


FORMATS = ("{:.2f}", "{:.2f}", "{:.1f}", "{:.1f}", "{:.1f}", "{:.3f}", "{:.0f}", "{:.0f}")
HEAD = (
    "| | test NLL | val NLL | test median, km | inside 68 % | inside 95 % "
    "| last val loss | best epoch | CPU s |"
)


def arguments():
    """What to run; the defaults are those of the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True, help="keeps the sessions")
    parser.add_argument("--sessions", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=600.0, help="no training begins later")
    return parser.parse_args()


def base_config(options):
    """The defaults, but for a network and a split that fit so few sessions."""
    return TrainingConfig(
        backbone="convnext_atto",
        receivers=DEMO_RECEIVERS,
        epochs=options.epochs,
        patience=options.epochs,
        validation_split=0.2,
        test_split=0.25,
    )


def trained(config, split_seed, connections):
    """A row, and the history of its training."""
    data = TrainingPipeline(replace(config, seed=split_seed), connections).load_data()
    with tempfile.TemporaryDirectory() as folder:
        pipeline = TrainingPipeline(replace(config, checkpoint_dir=Path(folder)), connections)
        begun = time.process_time()
        model = pipeline.train(data)
        seconds = time.process_time() - begun
        network = Trained.open(model.checkpoint).single.module.serving_net()
    test, val = (validated(network, part, config) for part in (data.test, data.validation))
    shares = [100 * test[f"val/coverage_{share}"] for share in (68, 95)]
    km = test["val/error_m_median"] / 1e3
    last = model.history[-1].val_loss
    epoch = model.best_epoch + 1
    row = Row(test["val/nll"], val["val/nll"], km, *shares, last, epoch, seconds)
    return row, model.history


def values(row):
    """The figures of a row, in the order of the columns."""
    return np.array([getattr(row, field.name) for field in fields(Row)])


def interval(rows):
    """Mean of the rows, and how far from it one more seed is in 95 of 100 cases."""
    table = np.stack([values(row) for row in rows])
    n = len(table)
    width = student_t.ppf(0.975, n - 1) * table.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n)
    return table.mean(axis=0), width


def tell(name, figures, bold=None):
    """One line of the table."""
    cells = [form.format(figure) for form, figure in zip(FORMATS, figures, strict=True)]
    marked = [False] * len(cells) if bold is None else bold
    cells = [f"**{c}**" if b else c for c, b in zip(cells, marked, strict=True)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def tell_history(history):
    """The default's learning curve."""
    print("\n| epoch | learning rate | train loss | val loss | val median, km |")
    print("|---|---|---|---|---|")
    for record in history:
        losses = f"{record.train_loss:.3f} | {record.val_loss:.3f}"
        km = record.val_error_m_median / 1e3
        print(f"| {record.epoch + 1} | {record.learning_rate:.1e} | {losses} | {km:.1f} |")


def measure(options, connections):
    """Print the rows as they come."""
    base, started = base_config(options), time.monotonic()
    print(HEAD + "\n" + "|---" * (len(FORMATS) + 1) + "|")
    seeds = []
    for seed in SEEDS:
        row, history = trained(replace(base, seed=seed), base.seed, connections)
        seeds.append((row, history))
        tell(f"default, seed {seed}", values(row))
    mean, width = interval([row for row, _ in seeds])
    tell("mean of the seeds", mean)
    tell("95 % of further seeds, ±", width)
    for flag, value in CHANGES:
        if time.monotonic() - started > 60 * options.minutes:
            print(f"not measured for want of time: from {flag} {value} on")
            break
        row, _ = trained(replace(base, **{flag: value}), base.seed, connections)
        bold = np.abs(values(row) - mean) > width
        bold[-2:] = False  # How long it took is no matter of seeds.
        tell(f"`--{flag}` {value}", values(row), bold)
    tell_history(seeds[0][1])


def main():
    """Simulate, train, judge."""
    options = arguments()
    print(f"{options.sessions} sessions, {options.epochs} epochs, {torch.get_num_threads()} thread")
    with EmbeddedStack(options.state_dir / "servers") as stack:
        connections = Connections.to_stack(stack)
        fill(connections, DemoConfig(sessions=options.sessions, seed=3, features="mel"))
        measure(options, connections)


if __name__ == "__main__":  # Simulation starts processes, which import this file.
    main()
