"""What each figure means, in words computed from what it shows."""

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

    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, Part, ReportContents

__all__ = [
    "about_bounds",
    "about_closeups",
    "about_coverage",
    "about_distance",
    "about_errors",
    "about_map",
    "about_pit",
    "about_receivers",
    "about_sigma",
    "about_snr",
    "about_trained_on",
    "about_training",
    "headline",
    "sessions_of",
]

_KINDS: dict[Part, str] = {
    "test": "held-out session",
    "validation": "validation session",
    "train": "training session",
    "all": "session",
}


def sessions_of(evaluation: Evaluation) -> str:
    """What one of the evaluated sessions is called: the reader must know what was seen before."""
    return _KINDS[evaluation.part]


def headline(evaluation: Evaluation) -> str:
    """The result in one sentence."""
    n, sources = len(evaluation), len(set(evaluation.source_names))
    if n == 0:
        return "No session was evaluated."
    median = distance(float(np.median(evaluation.error_m)))
    seen = f"{count(n, sessions_of(evaluation))} of {count(sources, 'transmitter')}"
    if n == 1:
        return f"The one {sessions_of(evaluation)} is placed {median} from the truth."
    return f"Half of the {seen} are placed within {median} of the truth."


def about_trained_on(evaluation: Evaluation) -> str:
    """Whether the model had seen these sessions; what was learnt by heart is no result."""
    if evaluation.trained_on is None:
        return "Nobody knows which of these sessions the model was trained on."
    n_seen, n = sum(evaluation.trained_on), len(evaluation)
    if not n_seen:
        return "The model was trained on none of these sessions."
    return (
        f"The model was trained on {n_seen} of these {count(n, 'session')}: "
        "they flatter it, and it cannot be judged by them."
    )


def about_map(contents: ReportContents) -> str:
    """How to read the map, and what of it cannot be seen."""
    evaluation = contents.evaluation
    estimates = to_km(contents.region, evaluation.position_deg)
    outside = int(np.sum(~frame_of(contents, (0.5, 0.78)).holds(estimates)))
    unseen = (
        f" {count(outside, 'estimate')} fell outside the picture; the line points there."
        if outside
        else ""
    )
    n_drawn = min(len(evaluation), MAX_DRAWN)
    which = f"one of {count(len(evaluation), sessions_of(evaluation))}"
    if n_drawn < len(evaluation):
        which += f" ({n_drawn} are drawn, at evenly spaced ranks of error)"
    return (
        f"Each line is the error of {which}, from the "
        f"true position (ring) to the estimate (dot). The dashed line is the border of the "
        f"region that the model was made for.{unseen}"
    )


def about_closeups(evaluation: Evaluation, chosen: Sequence[int]) -> str:
    """Why these sessions, at which scale, and what their ellipses claim."""
    across = distance(2000 * half_width_km(evaluation, chosen))
    return (
        f"The {count(len(chosen), 'numbered session')}, from the best to the worst at evenly "
        f"spaced ranks of error; every panel is {across} wide. The filled one-sigma ellipse "
        f"should hold the truth in {percent(ONE_SIGMA_SHARE)} of the cases, the "
        f"thin one in 95\N{NO-BREAK SPACE}%."
    )


def about_errors(evaluation: Evaluation) -> str:
    """Quartiles and tail of the error."""
    low, median, high, p95 = np.percentile(evaluation.error_m, [25, 50, 75, 95])
    return (
        f"The network's error is between {distance(low)} and {distance(high)} for the middle half "
        f"of the sessions, {distance(median)} at the median (dot) and below {distance(p95)} for "
        f"95\N{NO-BREAK SPACE}%. Further left is better."
    )


def about_coverage(evaluation: Evaluation, claimed: float) -> str:
    """How many truths the ellipse held, and whether that is honest."""
    point = coverage(evaluation, claimed)
    low, high = point.observed.low, point.observed.high
    if point.observed.holds(claimed):
        verdict = "consistent with an honest ellipse"
    elif point.observed.value < claimed:
        verdict = "the ellipses are too small, the network is surer than it should be"
    else:
        verdict = "the ellipses are larger than they need be"
    return (
        f"{point.n_inside} of {point.n} truths lie inside the {percent(claimed)} ellipse "
        f"({percent(point.observed.value)}; 95\N{NO-BREAK SPACE}% interval "
        f"{percent(low)} to {percent(high)}): {verdict}."
    )


def about_sigma(evaluation: Evaluation) -> str:
    """Whether a larger sigma goes with a larger error."""
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
        f"{middle} Rank correlation of expected and actual error {decimal(found.value)} (95"
        f"\N{NO-BREAK SPACE}% interval {decimal(found.low)} to {decimal(found.high)}), {verdict}."
    )


def about_training(curve: LearningCurve) -> str:
    """Which epoch was kept and why training ended there."""
    best = best_epoch(curve)
    epochs = count(len(curve.history), "epoch")
    if best is None:
        return f"{epochs}; none has a finite validation loss."
    return (
        f"{epochs}; epoch {best.epoch} (dotted line) was kept: "
        f"validation loss {decimal(best.val_loss, 3)}{_beside_loss(best)}."
    )


def _beside_loss(best: EpochRecord) -> str:
    """Of the network of times nobody measures these."""
    error = f", median validation error {distance(best.val_error_m_median)}"
    rate = f", learning rate {best.learning_rate:.2g}"
    return (error if math.isfinite(best.val_error_m_median) else "") + (
        rate if math.isfinite(best.learning_rate) else ""
    )


def about_pit(evaluation: Evaluation) -> str:
    """What the histogram would be if all were honest, and how far from it this one is."""
    levels = np.sort(levels_of_truths(evaluation))
    n = len(levels)
    ideal = np.arange(n) / n
    furthest = float(np.max(np.maximum(levels - ideal, ideal + 1 / n - levels)))
    return (
        "Of honest ellipses every tenth holds as many truths as any other (dashed line; the band "
        "holds 95\N{NO-BREAK SPACE}% of such counts if sessions are independent). More on the "
        "right: too sure; more on the left: not sure enough. Largest distance between observed "
        f"and claimed shares: {percent(furthest)}."
    )


def about_bounds(evaluation: Evaluation, bounds_m: tuple[float, float] | None) -> str:
    """How many sigmas say what their bounds allow and not what the network found."""
    if bounds_m is None:
        return "The model does not say which sigmas it may claim at least and at most."
    found = at_bounds(evaluation.sigma_m, bounds_m)
    allowed = f"Sigmas of levels are between {distance(bounds_m[0])} and {distance(bounds_m[1])}."
    if not found.n_least + found.n_largest:
        return f"{allowed} None of {count(found.n, 'session')} has a sigma at either bound."
    shares = [percent(number / found.n) for number in (found.n_least, found.n_largest)]
    return (
        f"{allowed} {found.n_least} of {count(found.n, 'session')} have a sigma at the least "
        f"({shares[0]}) and {found.n_largest} at the largest ({shares[1]}): these say what the "
        "bounds allow and not what the network found; train with other --sigma_min and --sigma_max."
    )


def about_distance(contents: ReportContents) -> str:
    """How error goes with the distance from the nearest receiver."""
    evaluation = contents.evaluation
    away_m = nearest_receiver_m(contents)
    found = rank_correlation(away_m, evaluation.error_m, evaluation.source_names)
    span = f"From {distance(float(away_m.min()))} to {distance(float(away_m.max()))}"
    if not found.known:
        return f"{span}; too few sessions to tell how error goes with it."
    trend = "no clear trend"
    if found.low > 0:
        trend = "nearer transmitters are placed better"
    elif found.high < 0:
        trend = "nearer transmitters are placed worse"
    return f"{span}; {trend} (rank correlation {decimal(found.value)})."


def about_snr(evaluation: Evaluation) -> str:
    """How error goes with signal-to-noise ratio, or why that cannot be said."""
    known = known_snr(evaluation)
    if not known.any():
        return "The catalogue holds no signal-to-noise ratio for these sessions."
    sources = [
        name for name, is_known in zip(evaluation.source_names, known, strict=True) if is_known
    ]
    snr_db = np.asarray(evaluation.snr_db, dtype=np.float64)[known]
    found = rank_correlation(snr_db, evaluation.error_m[known], sources)
    what = f"Signal-to-noise ratio is known for {known.sum()} of {len(known)} sessions"
    if not found.known:
        return f"{what}; too few to tell how error goes with it."
    return f"{what}; {_trend(found.low, found.high)} (rank correlation {decimal(found.value)})."


def about_receivers(evaluation: Evaluation) -> str:
    """Median error by number of receivers."""
    parts = [
        f"{distance(_median(evaluation, heard))} with {count(int(heard), 'receiver')}"
        for heard in np.unique(evaluation.n_present)
    ]
    return f"Median error: {', '.join(parts)}."


def _median(evaluation: Evaluation, heard: NDArray[np.int64]) -> float:
    return float(np.median(evaluation.error_m[evaluation.n_present == heard]))


def _trend(low: float, high: float) -> str:
    if high < 0:
        return "stronger signals are placed better"
    if low > 0:
        return "stronger signals are placed worse"
    return "no clear trend"
