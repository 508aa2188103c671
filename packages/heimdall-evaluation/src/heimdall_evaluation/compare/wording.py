"""The outcome of a comparison in words and rows, for the page, the screen and programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import compress
from typing import TYPE_CHECKING, Any

from heimdall_features.names import shown
from rich.console import Console
from rich.table import Column, Table

from heimdall_evaluation.compare.significance import SIGNIFICANT
from heimdall_evaluation.quantities import count, decimal, factor, metric_text
from heimdall_evaluation.report.sentences import about_trained_on

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome, Paired
    from heimdall_evaluation.results import ModelResult

_METRICS = {
    "error_m_median": "median error",
    "error_m_mean": "mean error",
    "error_m_p68": "68 % within",
    "error_m_p95": "95 % within",
    "accuracy_30m": "within 30 m",
    "coverage_68": "truths in the 68 % ellipse",
    "coverage_95": "truths in the 95 % ellipse",
    "coverage_hdr_68": "truths in the 68 % region",
    "coverage_hdr_95": "truths in the 95 % region",
    "ece": "calibration error",
    "nll": "NLL of the ellipse, nats",
    "nll_mixture": "NLL of the posterior, nats",
    "energy_score": "energy score",
}


def headline(found: Outcome) -> str:
    """The result in one sentence."""
    if found.verdict == "unknown":
        return f"Not known: {count(found.n_sources, 'transmitter')} are too few."
    verdict = f"{found.verdict} is better"
    if found.verdict == "no difference":
        verdict = "No difference is shown"
    return f"{verdict}: B's errors are {factor(found.error_ratio.difference.value)} times A's."


def about_errors(found: Outcome) -> str:
    """Numbers of sessions and transmitters, interval and p-value."""
    seen = f"{count(found.n_sessions, 'session')} of {count(found.n_sources, 'transmitter')}"
    ratio = _interval(found.error_ratio, factor)
    if found.verdict == "unknown":
        return f"Of {seen}: B's errors are {ratio} times A's."
    return f"Of {seen}: {ratio} times, {_p_value(found.error_ratio)}."


def about_nll(found: Outcome) -> str:
    """The difference of the log-likelihoods, which judge positions and ellipses together."""
    ending = {
        "no difference": "no difference is shown",
        "unknown": "too few transmitters to tell",
    }.get(found.nll_verdict, f"{found.nll_verdict}'s positions and ellipses fit the truths better")
    return (
        f"With ellipses: B's negative log-likelihood is {_interval(found.nll, decimal)} nats a "
        f"session beside A's, {_p_value(found.nll)}; {ending}."
    )


def about_seen(pair: Pair) -> list[str]:
    """Sessions that each model was trained on, and sessions that were left out."""
    lines = [about_trained_on(side.evaluation, letter) for letter, side in pair.sides]
    if pair.n_left_out:
        left = count(pair.n_left_out, "session")
        lines.append(f"{left} that only one of the models was evaluated on: left out.")
    return lines


def metric_rows(pair: Pair) -> list[tuple[str, str, str]]:
    """Name of each metric, A's value and B's value."""
    a, b = pair.a.evaluation.metrics(), pair.b.evaluation.metrics()

    def text(name: str, value: float) -> str:
        return metric_text(name, value, decimal(value, 3))

    return [(title, text(name, a[name]), text(name, b[name])) for name, title in _METRICS.items()]


def print_comparison(pair: Pair, found: Outcome, fair: Outcome | None, page: Path) -> None:
    """Print metrics side by side and the outcome; arguments as for `render_comparison`."""
    out = Console(highlight=False, soft_wrap=True)
    for letter, side in pair.sides:
        out.print(f"{letter}           {shown(side.name)}", markup=False)
    values = (Column(letter, justify="right") for letter, _ in pair.sides)
    title = f"{found.n_sessions} sessions"
    table = Table("metric", *values, title=title, title_justify="left")
    for row in metric_rows(pair):
        table.add_row(*map(_plain_spaces, row))
    out.print(table)
    lines = [f"{headline(found)} {about_errors(found)}", about_nll(found), *about_seen(pair)]
    if fair is not None:
        without = f"{headline(fair)} {about_errors(fair)}"
        lines.append(f"Without those that a model is known to be trained on: {without}")
    for line in [*lines, f"report      {page}"]:
        out.print(shown(_plain_spaces(line)), markup=False)


def comparison_summary(
    pair: Pair, found: Outcome, fair: Outcome | None, page: Path
) -> dict[str, Any]:
    """The JSON of `--summary`; arguments as for `render_comparison`."""
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
    ids, flags = side.evaluation.session_ids, side.evaluation.trained_on
    return {
        "model": side.name,
        "metrics": side.evaluation.metrics(),
        "trained_on": None if flags is None else list(compress(ids, flags)),
    }


def _outcome_summary(found: Outcome) -> dict[str, Any]:
    def paired(one: Paired) -> dict[str, float | None]:
        values = asdict(one.difference) | {"p": one.p}
        # JSON has no NaN, the ends of an interval of too few transmitters.
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    return {
        "n_sessions": found.n_sessions,
        "n_sources": found.n_sources,
        "better": found.verdict,
        "error_ratio": paired(found.error_ratio),
        "better_with_ellipses": found.nll_verdict,
        "nll_difference": paired(found.nll),
    }


def _p_value(found: Paired) -> str:
    return f"p = {found.p:.2g}" if found.p >= SIGNIFICANT / 50 else "p < 0.001"


def _interval(found: Paired, text_of: Callable[[float], str]) -> str:
    each = found.difference
    if not each.known:
        return text_of(each.value)
    return f"{text_of(each.value)} (95 % interval {text_of(each.low)} to {text_of(each.high)})"


def _plain_spaces(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")
