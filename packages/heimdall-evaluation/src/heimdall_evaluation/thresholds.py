"""Thresholds that a model must meet, checked as far as the number of sessions allows.

Every threshold is one of a share: that of the truths inside an ellipse, or that of the errors up
to a limit, since a median error is above the limit where less than half of the errors are below
it. A threshold is not met only where the exact 95 % interval of the share excludes what is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_evaluation.coverage import inside
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.intervals import exact_share
from heimdall_evaluation.results import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heimdall_evaluation.results import Evaluation

LEAST = {"min_coverage_68": 0.68, "min_coverage_95": 0.95}
"""Thresholds for the share of truths inside an ellipse, with the probability that it claims."""
MOST = {"max_error_m_median": 0.5, "max_error_m_p95": 0.95}
"""Thresholds for errors in metres, with the share of the sessions that must be within."""


def check(evaluation: Evaluation, limits: Mapping[str, float]) -> tuple[Check, ...]:
    """Check an evaluation of at least one session against limits by the names of thresholds.

    Raises:
        EvaluationError: There is no threshold of that name.
    """
    metrics = evaluation.metrics() if limits else {}
    found = []
    for threshold, limit in limits.items():
        if threshold in LEAST:
            hits, needed = inside(evaluation, LEAST[threshold]), limit
        elif threshold in MOST:
            hits, needed = evaluation.error_m <= limit, MOST[threshold]
        else:
            known = ", ".join((*LEAST, *MOST))
            raise EvaluationError(f"no threshold is called {threshold!r}; there are {known}")
        kind, _, metric = threshold.partition("_")
        value = metrics[metric]
        share = exact_share(hits, evaluation.source_names)
        is_met = value >= limit if kind == "min" else value <= limit
        found.append(
            Check(
                threshold=threshold,
                limit=limit,
                value=value,
                share=share,
                needed=needed,
                verdict="met" if is_met else "not met" if share.high < needed else "unclear",
            )
        )
    return tuple(found)
