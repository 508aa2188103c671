"""The outcome of a comparison in words and rows, for the page, the screen and programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from heimdall_models import localization_metrics
from rich.console import Console
from rich.table import Table

from heimdall_evaluation.compare.significance import SIGNIFICANT
from heimdall_evaluation.report.quantities import count, decimal, factor
from heimdall_evaluation.report.tables import metric_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome, Paired
    from heimdall_evaluation.results import Evaluation, ModelResult

_METRICS = {
    "error_m_median": "median error",
    "error_m_mean": "mean error",
    "error_m_p68": "68 % within",
    "error_m_p95": "95 % within",
    "accuracy_30m": "within 30 m",
    "coverage_68": "truths in the 68 % ellipse",
    "coverage_95": "truths in the 95 % ellipse",
    "ece": "calibration error",
    "nll": "NLL, nats",
}


def headline(found: Outcome) -> str:
    """The result in one sentence."""
    times = factor(found.error_ratio.difference.value)
    if found.verdict == "unknown":
        return f"Not known: {count(found.n_sources, 'transmitter')} are too few."
    if found.verdict == "no difference":
        return f"No difference is shown: B's errors are {times} times A's."
    return f"{found.verdict} is better: B's errors are {times} times A's."


def about_errors(found: Outcome) -> str:
    """Numbers of sessions and transmitters, interval and p-value."""
    seen = f"{count(found.n_sessions, 'session')} of {count(found.n_sources, 'transmitter')}"
    ratio = _interval(found.error_ratio, factor)
    if found.verdict == "unknown":
        return f"Of {seen}: B's errors are {ratio} times A's."
    return f"Of {seen}: {ratio} times, {_p_value(found.error_ratio)}."


def about_nll(found: Outcome) -> str:
    """The difference of the log-likelihoods, which judge positions and ellipses together."""
    better = "{} says better where the transmitters are, its ellipses included"
    ending = {
        "A": better.format("A"),
        "B": better.format("B"),
        "no difference": "no difference is shown",
        "unknown": "too few transmitters to tell",
    }[found.nll_verdict]
    return (
        f"With ellipses: B's negative log-likelihood is {_interval(found.nll, decimal)} nats a "
        f"session beside A's, {_p_value(found.nll)}; {ending}."
    )


def about_seen(pair: Pair) -> list[str]:
    """Sessions that each model was trained on, and sessions that were left out."""
    lines = []
    for letter, side in pair.sides:
        flags = side.evaluation.trained_on
        if flags is None:
            lines.append(f"It is not known which of these sessions {letter} was trained on.")
        elif any(flags):
            sessions = count(len(flags), "session")
            lines.append(
                f"{letter} was trained on {sum(flags)} of these {sessions}, which flatter it."
            )
        else:
            lines.append(f"{letter} was trained on none of these sessions.")
    if pair.n_left_out:
        left = count(pair.n_left_out, "session")
        lines.append(f"{left} that only one of the models was evaluated on: left out.")
    return lines


def metric_rows(pair: Pair) -> list[tuple[str, str, str]]:
    """Name of each metric, A's value and B's value."""
    both = [_metrics(side.evaluation) for _, side in pair.sides]
    rows = []
    for name, title in _METRICS.items():
        a, b = (metric_text(name, found[name], decimal(found[name], 3)) for found in both)
        rows.append((title, a, b))
    return rows


def print_comparison(
    pair: Pair, found: Outcome, fair: Outcome | None, page: Path, console: Console | None = None
) -> None:
    """Print metrics side by side and the outcome.

    Args:
        pair: The models on the same sessions.
        found: Outcome on these sessions.
        fair: Outcome on those that no model was trained on, if it is another set.
        page: Path of the page.
        console: Where to print; standard output when None.
    """
    out = console or Console(highlight=False, soft_wrap=True)
    for letter, side in pair.sides:
        out.print(f"{letter}           {side.name}", markup=False)
    table = Table(title=f"{found.n_sessions} sessions", title_justify="left")
    table.add_column("metric")
    for letter, _ in pair.sides:
        table.add_column(letter, justify="right")
    for row in metric_rows(pair):
        table.add_row(*map(_plain_spaces, row))
    out.print(table)
    lines = [f"{headline(found)} {about_errors(found)}", about_nll(found), *about_seen(pair)]
    if fair is not None:
        without = f"{headline(fair)} {about_errors(fair)}"
        lines.append(f"Without those that a model is known to be trained on: {without}")
    for line in [*lines, f"report      {page}"]:
        out.print(_plain_spaces(line), markup=False)


def comparison_summary(
    pair: Pair, found: Outcome, fair: Outcome | None, page: Path
) -> dict[str, Any]:
    """The JSON of `--summary`; arguments as for `print_comparison`."""
    return {
        "a": _side_summary(pair.a),
        "b": _side_summary(pair.b),
        "session_ids": list(pair.a.evaluation.session_ids),
        "n_left_out": pair.n_left_out,
        **_outcome_summary(found),
        "not_trained_on": None if fair is None else _outcome_summary(fair),
        "report": str(page),
    }


def _side_summary(side: ModelResult) -> dict[str, Any]:
    evaluation, flags = side.evaluation, side.evaluation.trained_on
    trained_on = None
    if flags is not None:
        trained_on = [i for i, flag in zip(evaluation.session_ids, flags, strict=True) if flag]
    return {"model": side.name, "metrics": _metrics(evaluation), "trained_on": trained_on}


def _outcome_summary(found: Outcome) -> dict[str, Any]:
    return {
        "n_sessions": found.n_sessions,
        "n_sources": found.n_sources,
        "better": found.verdict,
        "error_ratio": _paired_summary(found.error_ratio),
        "better_with_ellipses": found.nll_verdict,
        "nll_difference": _paired_summary(found.nll),
    }


def _paired_summary(found: Paired) -> dict[str, float | None]:
    values = asdict(found.difference) | {"p": found.p}
    # JSON has no NaN, the ends of an interval of too few transmitters.
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """The contract's metrics, without a part of the split before their names."""
    return localization_metrics(
        evaluation.position_deg, evaluation.sigma_m, evaluation.truth_deg, evaluation.tilt
    )


def _p_value(found: Paired) -> str:
    return f"p = {found.p:.2g}" if found.p >= SIGNIFICANT / 50 else "p < 0.001"


def _interval(found: Paired, text_of: Callable[[float], str]) -> str:
    each = found.difference
    if not each.known:
        return text_of(each.value)
    return f"{text_of(each.value)} (95 % interval {text_of(each.low)} to {text_of(each.high)})"


def _plain_spaces(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")
