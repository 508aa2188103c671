"""What a comparison came to, in words and as rows, the same on the screen and on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heimdall_models import localization_metrics

from heimdall_trainer.comparing.significance import FEWEST_SOURCES, SIGNIFICANT
from heimdall_trainer.report.quantities import count, decimal, distance, percent

if TYPE_CHECKING:
    from heimdall_trainer.comparing.pairs import Pair
    from heimdall_trainer.comparing.significance import Outcome, Paired
    from heimdall_trainer.report import Evaluation

__all__ = [
    "MetricRow",
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


def headline(pair: Pair, found: Outcome) -> str:
    """The result in one sentence."""
    times = _interval(found.error_ratio)
    sessions = f"{count(found.n_sessions, 'session')} of {count(found.n_sources, 'transmitter')}"
    if found.verdict == "unknown":
        return (
            f"{sessions} cannot tell which model is better: that takes {FEWEST_SOURCES} "
            f"transmitters. B's errors are {decimal(found.error_ratio.difference.value)} times A's."
        )
    if found.verdict == "no difference":
        return (
            f"{sessions} show no difference between the models: B's errors are {times} times A's, "
            f"p = {p_value(found.error_ratio)}."
        )
    better = {"A": pair.a.name, "B": pair.b.name}[found.verdict]
    return (
        f"{found.verdict} is better, {better}: B's errors are {times} times A's on {sessions}, "
        f"p = {p_value(found.error_ratio)}."
    )


def about_nll(found: Outcome) -> str:
    """Which model says better where transmitters are, its ellipses included."""
    endings = {
        "A": "A says better where the transmitters are, its ellipses included",
        "B": "B says better where the transmitters are, its ellipses included",
        "no difference": "no difference is shown",
        "unknown": "too few transmitters to tell",
    }
    return (
        f"With ellipses: B's negative log-likelihood is {_interval(found.nll)} nats a session "
        f"beside A's, p = {p_value(found.nll)}; {endings[found.nll_verdict]}."
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
    """Two figures, or that it is below what the draws can tell."""
    return f"{found.p:.2g}" if found.p >= SIGNIFICANT / 50 else "below 0.001"


def _interval(found: Paired) -> str:
    each = found.difference
    if not each.known:
        return decimal(each.value)
    return f"{decimal(each.value)} (95 % interval {decimal(each.low)} to {decimal(each.high)})"


def _metric(name: str, value: float) -> str:
    if name.startswith("error_m"):
        return distance(value)
    return percent(value) if name.startswith(("coverage", "accuracy")) else decimal(value, 3)
