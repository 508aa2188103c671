"""Sentences about an evaluation as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_evaluation.coverage import at_bounds
from heimdall_evaluation.quantities import count, decimal, distance, percent

if TYPE_CHECKING:
    from heimdall_evaluation.results import Check, Evaluation


def session_kind(evaluation: Evaluation) -> str:
    """Name of one evaluated session, such as `held-out session`."""
    kinds = {"test": "held-out", "validation": "validation", "train": "training", "new": "new"}
    return f"{kinds.get(evaluation.part, '')} session".lstrip()


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


def about_trained_on(evaluation: Evaluation, model: str = "the model") -> str:
    """Number of the sessions that a model was trained on, as a sentence."""
    flags = evaluation.trained_on
    if flags is None:
        return f"It is not known which of these sessions {model} was trained on."
    start = f"{model[0].upper()}{model[1:]} was trained on"
    if not any(flags):
        return f"{start} none of these sessions."
    sessions = count(len(flags), "session")
    return f"{start} {sum(flags)} of these {sessions}, so its errors look smaller than they are."


def about_check(check: Check) -> str:
    """Shares behind the verdict about a threshold."""
    needed, low, high = map(percent, (check.needed, check.share.low, check.share.high))
    is_coverage = check.threshold.startswith("min")
    what = f"inside the {check.threshold[-2:]} % ellipse"
    if not is_coverage:
        what = f"within {distance(check.limit)}"
    found = f"{percent(check.share.value)} ({low} to {high}) of the sessions are {what}"
    rest = "" if is_coverage else f" The best {needed} are within {distance(check.value)}."
    return f"{found}; {needed} are needed.{rest}"


def about_posterior(evaluation: Evaluation) -> str:
    """Components of the answers, and how well they and their regions hold the truths."""
    found = evaluation.metrics()
    parts = 1 if evaluation.posteriors is None else evaluation.posteriors.weights.shape[1]
    inside = [percent(found[f"coverage_hdr_{level}"]) for level in (68, 95)]
    return (
        f"An answer has {count(parts, 'component')}. The smallest regions that claim 68 and 95 % "
        f"hold {inside[0]} and {inside[1]} of the truths. Negative log-likelihood: "
        f"{decimal(found['nll_mixture'])} nats, of the ellipse alone {decimal(found['nll'])}; "
        f"energy score {distance(found['energy_score'])}."
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
        f"the largest {largest}: these are what the bounds allow and not what the network found; "
        "train with other --sigma_min and --sigma_max."
    )
