"""How accurate, and how honest: every method on simulated sessions; writes docs/accuracy.md.

    nox -s accuracy
    python apps/trainer/benchmarks/accuracy.py [--keep FOLDER] [--train 6000] [--test 1000]

Sessions of seed 1 to learn from, a fifth of them to calibrate and to choose the epoch by; of
seed 2, on sites of their own, to judge by. Conditions other than clean are seen by no training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from accuracy_methods import (
    least_squares,
    level_methods,
    region_of,
    served,
    timed,
    trained_levels,
    trained_timing,
)
from accuracy_page import write_page
from accuracy_real import real_recordings
from accuracy_sessions import CONDITIONS, sessions_of
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
    parser.add_argument("--timing-epochs", type=int, default=20)
    return parser.parse_args()


def judged(answer, sessions):
    """Metrics of one method under one condition."""
    found = localization_metrics(
        answer.position_deg, answer.sigma_m, sessions.truth_deg, answer.correlation
    )
    root_m = np.sqrt(np.square(answer.sigma_m).sum(axis=1))
    return {
        **found,
        "over_bound": found["error_m_median"] / float(np.median(sessions.bound_m)),
        "sharpness": float(np.median(root_m / sessions.bound_m)),
        "error_m": error_m(answer.position_deg, sessions.truth_deg),
    }


def main():
    """Simulate, train, judge, write."""
    options = arguments()
    pl.seed_everything(42, verbose=False)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        train = sessions_of("clean", options.train, 1, folder)
        tests = {name: sessions_of(name, options.test, 2, folder) for name in CONDITIONS}
    seconds = {"simulation": time.monotonic() - started}
    n_learn = round(LEARN_SHARE * options.train)
    learn, validation = train.rows(slice(n_learn)), train.rows(slice(n_learn, None))
    region = region_of(learn)
    methods = level_methods(learn, region)
    module, seconds["spectrograms"] = trained_levels(
        learn,
        validation,
        region,
        backbone=options.backbone,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
    )
    timing, seconds["times"] = trained_timing(
        learn, validation, region, epochs=options.timing_epochs
    )
    methods["network, mel"] = served(module.serving_net())
    methods["time differences, least squares"] = least_squares(region)
    methods["network, mel+timing"] = served(timed(module, timing))
    answers = {
        (condition, name): locate(sessions)
        for condition, sessions in tests.items()
        for name, locate in methods.items()
    }
    results = {key: judged(answer, tests[key[0]]) for key, answer in answers.items()}
    seconds["all"] = time.monotonic() - started
    write_page(
        options, n_learn, seconds, tests, answers, results, real_recordings(options.timing_epochs)
    )


if __name__ == "__main__":
    main()
