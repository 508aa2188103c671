"""The end of `heimdall compare`: a table for people, JSON for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from heimdall_evaluation.compare import wording as say

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_evaluation.compare.pairs import Pair, Side
    from heimdall_evaluation.compare.significance import Outcome, Paired

__all__ = ["comparison_summary", "print_comparison"]

NBSP = "\N{NO-BREAK SPACE}"


def print_comparison(
    pair: Pair, found: Outcome, fair: Outcome | None, page: Path, console: Console | None = None
) -> None:
    """Print metrics side by side and what their difference amounts to."""
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(f"A           {pair.a.name}", markup=False)
    out.print(f"B           {pair.b.name}", markup=False)
    table = Table(title=f"{found.n_sessions} sessions", title_justify="left")
    table.add_column("metric")
    table.add_column("A", justify="right")
    table.add_column("B", justify="right")
    for row in say.metric_rows(pair):
        table.add_row(*(text.replace(NBSP, " ") for text in (row.name, row.a, row.b)))
    out.print(table)
    lines = [f"{say.headline(found)} {say.about_errors(found)}", say.about_nll(found)]
    lines += say.about_seen(pair)
    if fair is not None:
        said = f"{say.headline(fair)} {say.about_errors(fair)}"
        lines.append(f"Without those that a model is known to be trained on: {said}")
    for line in lines:
        out.print(line.replace(NBSP, " "), markup=False)
    out.print(f"report      {page}", markup=False)


def comparison_summary(
    pair: Pair, found: Outcome, fair: Outcome | None, page: Path
) -> dict[str, Any]:
    """What `--summary` writes."""
    return {
        "a": _side(pair.a),
        "b": _side(pair.b),
        "session_ids": list(pair.a.evaluation.session_ids),
        "n_left_out": pair.n_left_out,
        **_outcome(found),
        "not_trained_on": None if fair is None else _outcome(fair),
        "report": str(page),
    }


def _side(side: Side) -> dict[str, Any]:
    seen = side.evaluation.trained_on
    ids = side.evaluation.session_ids
    return {
        "model": side.name,
        "metrics": say.metrics_of(side.evaluation),
        "trained_on": None
        if seen is None
        else [id_ for id_, flag in zip(ids, seen, strict=True) if flag],
    }


def _outcome(found: Outcome) -> dict[str, Any]:
    return {
        "n_sessions": found.n_sessions,
        "n_sources": found.n_sources,
        "better": found.verdict,
        "error_ratio": _paired(found.error_ratio),
        "better_with_ellipses": found.nll_verdict,
        "nll_difference": _paired(found.nll),
    }


def _paired(found: Paired) -> dict[str, float | None]:
    told = asdict(found.difference) | {"p": found.p}
    # JSON has no NaN: too few transmitters to tell.
    return {name: None if math.isnan(value) else value for name, value in told.items()}
