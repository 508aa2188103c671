"""What a comparison came to, in words and as rows, the same on the screen and on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_models import localization_metrics

from heimdall_evaluation.compare.significance import SIGNIFICANT
from heimdall_evaluation.report.quantities import count, decimal, distance, factor, percent

if TYPE_CHECKING:
    from collections.abc import Callable

    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome, Paired
    from heimdall_evaluation.results import Evaluation

__all__ = [
    "MetricRow",
    "about_errors",
    "about_nll",
    "about_seen",
    "headline",
    "metric_rows",
    "metrics_of",
    "p_value",
]

_ROWS = (
    ("error_m_median", "median error"),
    ("error_m_mean", "mean error"),
    ("error_m_p68", "68 % within"),
    ("error_m_p95", "95 % within"),
    ("accuracy_30m", "within 30 m"),
    ("coverage_68", "truths in the 68 % ellipse"),
    ("coverage_95", "truths in the 95 % ellipse"),
    ("ece", "calibration error"),
    ("nll", "NLL, nats"),
)


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric of both models."""

    name: str
    a: str
    b: str


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """The contract's metrics, without a part of the split before their names."""
    return localization_metrics(
        evaluation.position_deg, evaluation.sigma_m, evaluation.truth_deg, evaluation.tilt
    )


def metric_rows(pair: Pair) -> list[MetricRow]:
    """Metrics side by side."""
    a, b = metrics_of(pair.a.evaluation), metrics_of(pair.b.evaluation)
    return [MetricRow(said, _metric(name, a[name]), _metric(name, b[name])) for name, said in _ROWS]


def headline(found: Outcome) -> str:
    """The result in one sentence."""
    times = factor(found.error_ratio.difference.value)
    if found.verdict == "unknown":
        return f"Nobody can tell: {count(found.n_sources, 'transmitter')} are too few."
    if found.verdict == "no difference":
        return f"No difference is shown: B's errors are {times} times A's."
    return f"{found.verdict} is better: B's errors are {times} times A's."


def about_errors(found: Outcome) -> str:
    """How sure that is."""
    seen = f"{count(found.n_sessions, 'session')} of {count(found.n_sources, 'transmitter')}"
    if found.verdict == "unknown":
        return f"Of {seen}: B's errors are {_interval(found.error_ratio, factor)} times A's."
    return f"Of {seen}: {_interval(found.error_ratio, factor)} times, {p_value(found.error_ratio)}."


def about_nll(found: Outcome) -> str:
    """Which model says better where transmitters are, its ellipses included."""
    endings = {
        "A": "A says better where the transmitters are, its ellipses included",
        "B": "B says better where the transmitters are, its ellipses included",
        "no difference": "no difference is shown",
        "unknown": "too few transmitters to tell",
    }
    return (
        f"With ellipses: B's negative log-likelihood is {_interval(found.nll, decimal)} nats a "
        f"session beside A's, {p_value(found.nll)}; {endings[found.nll_verdict]}."
    )


def about_seen(pair: Pair) -> list[str]:
    """Which of the sessions each model was trained on; they flatter it."""
    lines = []
    for letter, side in pair.sides:
        flags = side.evaluation.trained_on
        if flags is None:
            lines.append(f"Nobody knows which of these sessions {letter} was trained on.")
        elif any(flags):
            lines.append(
                f"{letter} was trained on {sum(flags)} of these {count(len(flags), 'session')}, "
                "which flatter it."
            )
        else:
            lines.append(f"{letter} was trained on none of these sessions.")
    if pair.n_left_out:
        left = count(pair.n_left_out, "session")
        lines.append(f"{left} that only one of the models was asked about: left out.")
    return lines


def p_value(found: Paired) -> str:
    """`p = 0.043`, or that it is below what the draws can tell."""
    return f"p = {found.p:.2g}" if found.p >= SIGNIFICANT / 50 else "p < 0.001"


def _interval(found: Paired, said: Callable[[float], str]) -> str:
    each = found.difference
    if not each.known:
        return said(each.value)
    return f"{said(each.value)} (95 % interval {said(each.low)} to {said(each.high)})"


def _metric(name: str, value: float) -> str:
    if name.startswith("error_m"):
        return distance(value)
    return percent(value) if name.startswith(("coverage", "accuracy")) else decimal(value, 3)
