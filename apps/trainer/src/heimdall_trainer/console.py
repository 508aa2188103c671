"""The closing table of a run: the model beside the baselines, and where everything is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_evaluation.coverage import shares_inside
from heimdall_evaluation.report.quantities import count
from heimdall_evaluation.report.sentences import about_trained_on, session_kind
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heimdall_evaluation.evaluate import EvaluatedModel
    from numpy.typing import NDArray

    from heimdall_trainer.summary import RunOutcome

__all__ = ["print_closing", "print_evaluation"]

N_EXAMPLES = 4
NBSP = "\N{NO-BREAK SPACE}"


def print_evaluation(evaluated: EvaluatedModel, console: Console | None = None) -> None:
    """Print the errors of a model and of the baselines, on the same sessions."""
    title = count(len(evaluated.evaluation), session_kind(evaluated.evaluation)).replace(NBSP, " ")
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("median error", "68 %", "95 %", "in 68 / 95 % ellipse"):
        table.add_column(heading, justify="right")
    coverage = _coverage(evaluated.metrics)
    table.add_row("model", *_quantiles_km(evaluated.evaluation.error_m), coverage)
    for baseline in evaluated.baselines:
        inside = shares_inside(baseline, evaluated.evaluation.truth_deg)
        said = f"{inside[0]:.0%} / {inside[1]:.0%}" if inside else ""
        table.add_row(baseline.name, *_quantiles_km(baseline.error_m), said)
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(table)
    if any(evaluated.evaluation.trained_on or ()):
        out.print(about_trained_on(evaluated.evaluation).replace(NBSP, " "), markup=False)


def print_closing(outcome: RunOutcome, console: Console | None = None) -> None:
    """Print what a run came to, as tables that also read well in a log file."""
    out = console or Console(highlight=False, soft_wrap=True)
    print_evaluation(outcome.delivery.evaluated, out)
    _print_left_out(outcome, out)
    summary = outcome.summary
    for name, value in (
        ("model file", f"{summary.onnx_uri}  (version {summary.model_version}, alias staging)"),
        ("local copy", summary.onnx_path),
        ("MLflow run", f"{outcome.run_name}  ({summary.run_id})"),
        ("checkpoint", summary.checkpoint),
        ("report", summary.report),
        ("took", f"{summary.elapsed_seconds:.0f} s"),
    ):
        out.print(f"{name:11s} {value}", markup=False)


def _quantiles_km(error_m: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(_km(float(q)) for q in np.nanquantile(error_m, (0.5, 0.68, 0.95)))


def _km(length_m: float) -> str:
    return f"{length_m / 1000:.1f} km" if length_m >= 1000 else f"{length_m:.0f} m"


def _coverage(metrics: Mapping[str, float]) -> str:
    found = {name.rpartition("/")[2]: value for name, value in metrics.items()}
    return f"{found['coverage_68']:.0%} / {found['coverage_95']:.0%}"


def _print_left_out(outcome: RunOutcome, out: Console) -> None:
    data = outcome.data
    not_used = ", ".join(f"{count} {reason}" for reason, count in data.not_used.items())
    out.print(f"sessions not for training: {not_used or 'none'}", markup=False)
    out.print(f"sessions excluded as unusable: {len(data.exclusions) or 'none'}", markup=False)
    _print_some([f"{left.session_id}: {left.reason}" for left in data.exclusions], out)
    out.print(f"recordings left out: {len(data.unusable) or 'none'}", markup=False)
    _print_some(
        [f"{left.session_id}, {left.station}: {left.reason}" for left in data.unusable], out
    )


def _print_some(lines: list[str], out: Console) -> None:
    for line in lines[:N_EXAMPLES]:
        out.print(f"  {line}", markup=False)
    if len(lines) > N_EXAMPLES:
        out.print(f"  and {len(lines) - N_EXAMPLES} more, in the report", markup=False)
