"""What an ensemble gains: its members alone, merged, and calibrated as one, as markdown tables.

    python apps/trainer/benchmarks/ensemble_gain.py [--members 3] [--keep FOLDER]

Sessions, networks and conditions are those of `accuracy.py`: members differ in their seeds alone.
Conditions other than clean are seen by no training, nor by calibration.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accuracy_methods import BATCH, served, trained
from accuracy_sessions import CONDITIONS, Parts, sessions_of
from heimdall_models import EnsembleNet, TimedEnsembleNet, localization_metrics
from heimdall_models.training.ensemble import member_seed

FIGURES = ("error_m_median", "error_m_p95", "coverage_68", "coverage_95", "ece", "nll")


def arguments():
    """What to run; the defaults are those of the README's tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder of simulated sessions, used again")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    return parser.parse_args()


def member(number, parts, options, folder):
    """One network of spectrograms, and one that has times beside it."""
    seed = member_seed(42, number)
    model, _ = trained(parts, options, folder / f"member {number}", seed=seed)
    return model.module.serving_net(), model.network


def batches(sessions):
    """As calibration takes them."""
    arrays = {
        "features": sessions.mel,
        "arrivals": sessions.arrivals,
        "position_deg": sessions.truth_deg,
    }
    for begin in range(0, len(sessions.mel), BATCH):
        rows = slice(begin, begin + BATCH)
        yield {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}


def judged(network, sessions):
    """The figures of one network."""
    answer = served(network)(sessions)
    found = localization_metrics(
        answer.position_deg, answer.sigma_m, sessions.truth_deg, answer.correlation
    )
    return [found[name] for name in FIGURES]


def row(condition, name, figures):
    """One line of a table."""
    median, p95, inside_68, inside_95, ece, nll = figures
    lengths = (f"{m / 1e3:.2f} km" if m >= 1e3 else f"{m:.0f} m" for m in (median, p95))
    inside = f"{100 * inside_68:.1f} / {100 * inside_95:.1f}"
    told = (condition, name, *lengths, inside, f"{100 * ece:.1f}", f"{nll:.2f}")
    print(f"| {' | '.join(told)} |", flush=True)


def table(title, members, ensemble, calibrate, tests):
    """Members in the mean, the ensemble as it is, and calibrated, under every condition."""
    print(f"\n### {title}\n")
    print("| condition | | median | 95 % | inside 68 / 95 | ECE, points | NLL |")
    print("|---|---|---|---|---|---|---|")
    merged = {name: judged(ensemble, sessions) for name, sessions in tests.items()}
    calibrate(ensemble)
    for condition, sessions in tests.items():
        alone = np.mean([judged(network, sessions) for network in members], axis=0)
        row(condition, "members, in the mean", alone)
        row("", "merged", merged[condition])
        weighed = f"merged, disagreement weighed {float(ensemble.disagreement_weight):.2f}"
        row("", weighed, judged(ensemble, sessions))


def main():
    """Simulate, train, merge, judge."""
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool() as pool:
            train = sessions_of("clean", options.train, 1, folder, pool)
            tests = {name: sessions_of(name, options.test, 2, folder, pool) for name in CONDITIONS}
        n_learn = round(0.9 * options.train)
        learn, validation = train.rows(slice(n_learn)), train.rows(slice(n_learn, None))
        parts = Parts.of(learn, validation)
        started = time.monotonic()
        checkpoints = Path(temporary) / "checkpoints"
        numbers = range(1, options.members + 1)
        levels, times = zip(
            *(member(number, parts, options, checkpoints) for number in numbers), strict=True
        )
    print(f"{options.members} members, {time.monotonic() - started:.0f} s of training")
    table(
        "mel", levels, EnsembleNet(levels).eval(), lambda e: e.calibrate(batches(validation)), tests
    )
    ensemble = TimedEnsembleNet(times).eval()
    table("mel+timing", times, ensemble, lambda e: e.calibrate(batches(validation)), tests)


if __name__ == "__main__":
    main()
