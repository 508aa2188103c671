"""Sentences of a report, computed from what its figures show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from heimdall_evaluation.coverage import (
    ONE_SIGMA_SHARE,
    at_bounds,
    coverage,
    levels_of_truths,
    predicted_error_m,
)
from heimdall_evaluation.intervals import rank_correlation
from heimdall_evaluation.report.charts import best_epoch, known_snr, nearest_receiver_m
from heimdall_evaluation.report.map import MAX_DRAWN, frame_of, half_width_km
from heimdall_evaluation.report.projection import to_km
from heimdall_evaluation.report.quantities import count, decimal, distance, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_models.training.curves import LearningCurve

    from heimdall_evaluation.intervals import Interval
    from heimdall_evaluation.results import Evaluation, Part, ReportContents

_KINDS: dict[Part, str] = {
    "test": "held-out session",
    "validation": "validation session",
    "train": "training session",
    "all": "session",
}


def session_kind(evaluation: Evaluation) -> str:
    """Name of one evaluated session, such as `held-out session`."""
    return _KINDS[evaluation.part]


def headline(evaluation: Evaluation) -> str:
    """The result in one sentence."""
    n, sources = len(evaluation), len(set(evaluation.source_names))
    if n == 0:
        return "No session was evaluated."
    median = distance(float(np.median(evaluation.error_m)))
    if n == 1:
        return f"The one {session_kind(evaluation)} is placed {median} from the truth."
    sessions = f"{count(n, session_kind(evaluation))} of {count(sources, 'transmitter')}"
    return f"Half of the {sessions} are placed within {median} of the truth."


def about_trained_on(evaluation: Evaluation) -> str:
    """How many of the sessions the model was trained on."""
    if evaluation.trained_on is None:
        return "It is not known which of these sessions the model was trained on."
    n_seen, n = sum(evaluation.trained_on), len(evaluation)
    if not n_seen:
        return "The model was trained on none of these sessions."
    return (
        f"The model was trained on {n_seen} of these {count(n, 'session')}: "
        "they flatter it, and it cannot be judged by them."
    )


def about_map(contents: ReportContents) -> str:
    """How to read the map, and what is not on it."""
    evaluation = contents.evaluation
    estimates = to_km(contents.region, evaluation.position_deg)
    outside = int(np.sum(~frame_of(contents, (0.5, 0.78)).holds(estimates)))
    unseen = (
        f" {count(outside, 'estimate')} fell outside the picture; the line points there."
        if outside
        else ""
    )
    n_drawn = min(len(evaluation), MAX_DRAWN)
    which = f"one of {count(len(evaluation), session_kind(evaluation))}"
    if n_drawn < len(evaluation):
        which += f" ({n_drawn} are drawn, at evenly spaced ranks of error)"
    return (
        f"Each line is the error of {which}, from the "
        f"true position (ring) to the estimate (dot). The dashed line is the border of the "
        f"region that the model was made for.{unseen}"
    )


def about_closeups(evaluation: Evaluation, chosen: Sequence[int]) -> str:
    """Choice and scale of the close-ups, and the claims of their ellipses."""
    across = distance(2000 * half_width_km(evaluation, chosen))
    return (
        f"The {count(len(chosen), 'numbered session')}, from the best to the worst at evenly "
        f"spaced ranks of error; every panel is {across} wide. The filled one-sigma ellipse "
        f"should hold the truth in {percent(ONE_SIGMA_SHARE)} of the cases, the "
        f"thin one in {percent(0.95)}."
    )


def about_errors(evaluation: Evaluation) -> str:
    """Quartiles and tail of the error."""
    low, median, high, p95 = np.percentile(evaluation.error_m, [25, 50, 75, 95])
    return (
        f"The network's error is between {distance(low)} and {distance(high)} for the middle half "
        f"of the sessions, {distance(median)} at the median (dot) and below {distance(p95)} for "
        f"{percent(0.95)}. Further left is better."
    )


def about_coverage(evaluation: Evaluation, claimed: float) -> str:
    """Number of truths in the ellipse, and whether that agrees with its claim."""
    point = coverage(evaluation, claimed)
    observed = point.observed
    if observed.holds(claimed):
        verdict = "consistent with an honest ellipse"
    elif observed.value < claimed:
        verdict = "the ellipses are too small, the network is surer than it should be"
    else:
        verdict = "the ellipses are larger than they need be"
    return (
        f"{point.n_inside} of {point.n} truths lie inside the {percent(claimed)} ellipse "
        f"({percent(observed.value)}; {percent(0.95)} interval "
        f"{percent(observed.low)} to {percent(observed.high)}): {verdict}."
    )


def about_sigma(evaluation: Evaluation) -> str:
    """Range of the expected errors, and their correlation with the actual ones."""
    predicted = predicted_error_m(evaluation.sigma_m)
    found = rank_correlation(predicted, evaluation.error_m, evaluation.source_names)
    middle = (
        f"The network expects errors from {distance(float(predicted.min()))} to "
        f"{distance(float(predicted.max()))}."
    )
    if not found.known:
        return f"{middle} Too few sessions to tell whether larger ones go with larger errors."
    verdict = "so its sigma tells good estimates from bad ones"
    if found.low <= 0:
        verdict = "so these sessions do not show that its sigma tells good estimates from bad ones"
    return (
        f"{middle} Rank correlation of expected and actual error {decimal(found.value)} "
        f"({percent(0.95)} interval {decimal(found.low)} to {decimal(found.high)}), {verdict}."
    )


def about_pit(evaluation: Evaluation) -> str:
    """How to read the histogram, and its largest distance from a flat one."""
    levels = np.sort(levels_of_truths(evaluation))
    n = len(levels)
    ideal = np.arange(n) / n
    furthest = float(np.max(np.maximum(levels - ideal, ideal + 1 / n - levels)))
    return (
        "Of honest ellipses every tenth holds as many truths as any other (dashed line; the band "
        f"holds {percent(0.95)} of such counts if sessions are independent). More on the "
        "right: too sure; more on the left: not sure enough. Largest distance between observed "
        f"and claimed shares: {percent(furthest)}."
    )


def about_bounds(evaluation: Evaluation, bounds_m: tuple[float, float] | None) -> str:
    """Number of sigmas at the bounds that a model's levels may claim."""
    if bounds_m is None:
        return "The model does not say which sigmas it may claim at least and at most."
    found = at_bounds(evaluation.sigma_m, bounds_m)
    sessions = count(len(evaluation), "session")
    allowed = f"Sigmas of levels are between {distance(bounds_m[0])} and {distance(bounds_m[1])}."
    if not any(found):
        return f"{allowed} None of {sessions} has a sigma at either bound."
    least, largest = (f"({percent(n / len(evaluation))})" for n in found)
    return (
        f"{allowed} {found[0]} of {sessions} have a sigma at the least {least} and {found[1]} at "
        f"the largest {largest}: these say what the "
        "bounds allow and not what the network found; train with other --sigma_min and --sigma_max."
    )


def about_distance(contents: ReportContents) -> str:
    """Trend of the error with the distance from the nearest receiver."""
    evaluation = contents.evaluation
    away_m = nearest_receiver_m(contents)
    span = f"From {distance(float(away_m.min()))} to {distance(float(away_m.max()))}"
    found = rank_correlation(away_m, evaluation.error_m, evaluation.source_names)
    if not found.known:
        return f"{span}; too few sessions to tell how error goes with it."
    better, worse = "nearer transmitters are placed better", "nearer transmitters are placed worse"
    return f"{span}; {_trend(found, rising=better, falling=worse)}."


def about_snr(evaluation: Evaluation) -> str:
    """Trend of the error with signal-to-noise ratio, if any is known."""
    known = known_snr(evaluation)
    if not known.any():
        return "The catalogue holds no signal-to-noise ratio for these sessions."
    sources = np.array(evaluation.source_names)[known].tolist()
    snr_db = np.asarray(evaluation.snr_db, dtype=np.float64)[known]
    found = rank_correlation(snr_db, evaluation.error_m[known], sources)
    which = f"Signal-to-noise ratio is known for {known.sum()} of {len(known)} sessions"
    if not found.known:
        return f"{which}; too few to tell how error goes with it."
    better, worse = "stronger signals are placed better", "stronger signals are placed worse"
    return f"{which}; {_trend(found, rising=worse, falling=better)}."


def _trend(found: Interval, *, rising: str, falling: str) -> str:
    trend = rising if found.low > 0 else falling if found.high < 0 else "no clear trend"
    return f"{trend} (rank correlation {decimal(found.value)})"


def about_receivers(evaluation: Evaluation) -> str:
    """Median error by number of receivers."""
    parts = []
    for heard in np.unique(evaluation.n_present):
        median_m = float(np.median(evaluation.error_m[evaluation.n_present == heard]))
        parts.append(f"{distance(median_m)} with {count(int(heard), 'receiver')}")
    return f"Median error: {', '.join(parts)}."


def about_training(curve: LearningCurve) -> str:
    """Number of epochs, and figures of the one that was kept."""
    best = best_epoch(curve)
    epochs = count(len(curve.history), "epoch")
    if best is None:
        return f"{epochs}; none has a finite validation loss."
    # The network of times has neither of the last two.
    error = f", median validation error {distance(best.val_error_m_median)}"
    rate = f", learning rate {best.learning_rate:.2g}"
    return (
        f"{epochs}; epoch {best.epoch} (dotted line) was kept: "
        f"validation loss {decimal(best.val_loss, 3)}"
        f"{error if math.isfinite(best.val_error_m_median) else ''}"
        f"{rate if math.isfinite(best.learning_rate) else ''}."
    )
