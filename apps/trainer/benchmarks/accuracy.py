"""How accurate, and how honest: every method on simulated sessions; writes docs/accuracy.md.

    nox -s accuracy
    python apps/trainer/benchmarks/accuracy.py [--keep FOLDER] [--train 6000] [--test 1000]

Sessions of seed 1 to learn from, a fifth of them to calibrate and to choose the epoch by; of
seed 2, on sites of their own, to judge by. Conditions other than clean are seen by no training.
Arrival times have the settings of `heimdall train`, and networks are trained by its pipeline.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from accuracy_methods import (
    least_squares,
    level_methods,
    located,
    served,
    trained,
)
from accuracy_page import write_page
from accuracy_sessions import CONDITIONS, Parts, sessions_of
from heimdall_models import error_m, localization_metrics

LEARN_SHARE = 0.8


def arguments():
    """What to run; the defaults are those of the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, help="folder of simulated sessions, used again")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--page", type=Path, help="folder to write to; docs/ when not given")
    return parser.parse_args()


def judged(answer, sessions):
    """Metrics of one method under one condition."""
    found = localization_metrics(
        answer.position_deg,
        answer.sigma_m,
        sessions.truth_deg,
        answer.correlation,
        answer.posteriors,
    )
    inside = answer.smallest_region(sessions.truth_deg)
    root_m = np.sqrt(np.square(answer.sigma_m).sum(axis=1))
    return {
        **found,
        "coverage_68": float((inside <= 0.68).mean()),
        "coverage_95": float((inside <= 0.95).mean()),
        "nll": found["nll"] if answer.nll is None else float(answer.nll.mean()),
        **({} if answer.nll is None else {"nll_mixture": float(answer.nll.mean())}),
        **({} if answer.inside is None else held(answer.inside)),
        "over_bound": found["error_m_median"] / float(np.median(sessions.bound_m)),
        "sharpness": float(np.median(root_m / sessions.bound_m)),
        "error_m": error_m(answer.position_deg, sessions.truth_deg),
    }


def held(smallest_region):
    """Shares of truths inside regions, of methods with posteriors of their own."""
    return {f"coverage_hdr_{n}": float((smallest_region <= n / 100).mean()) for n in (68, 95)}


def main():
    """Simulate, train, judge, write."""
    options = arguments()
    pl.seed_everything(42, verbose=False)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as temporary,
        multiprocessing.get_context("spawn").Pool() as pool,
    ):
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        train = sessions_of("clean", options.train, 1, folder, pool)
        tests = {name: sessions_of(name, options.test, 2, folder, pool) for name in CONDITIONS}
        seconds = {"simulation": time.monotonic() - started}
        n_learn = round(LEARN_SHARE * options.train)
        learn, validation = train.rows(slice(n_learn)), train.rows(slice(n_learn, None))
        parts = Parts.of(learn, validation)
        model, stages = trained(parts, options, Path(temporary) / "checkpoints")
        methods = level_methods(learn, parts.region)
        methods["network, mel"] = served(model.module.serving_net())
        methods["time differences, least squares"] = least_squares(parts.region)
        methods["network, mel+timing"] = served(model.network)
        methods["heimdall locate --model"] = located(pool, methods["network, mel"])
        answers = {
            (condition, name): method(sessions)
            for condition, sessions in tests.items()
            for name, method in methods.items()
        }
    results = {key: judged(answer, tests[key[0]]) for key, answer in answers.items()}
    seconds["spectrograms"] = stages["training"]
    seconds["times"] = stages["training on arrival times"]
    seconds["all"] = time.monotonic() - started
    write_page(options, n_learn, seconds, tests, answers, results)


if __name__ == "__main__":
    main()
