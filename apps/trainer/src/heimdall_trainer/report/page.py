"""The page: everything computed, drawn and said is put into the template and written at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from heimdall_trainer.report import conditions, error_distribution, learning_curves, reliability
from heimdall_trainer.report import sentences as say
from heimdall_trainer.report.calibration import coverage
from heimdall_trainer.report.closeups import choose_by_rank, closeups_svg
from heimdall_trainer.report.comparison import comparisons
from heimdall_trainer.report.contents import ReportError
from heimdall_trainer.report.overview import map_svg
from heimdall_trainer.report.quantities import count, decimal, distance, duration, percent
from heimdall_trainer.report.tables import (
    exclusion_groups,
    metric_rows,
    model_line,
    stages,
    told,
    worst_sessions,
)
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    import os

    from heimdall_trainer.report.contents import Evaluation, ReportContents

__all__ = ["render_report"]


def render_report(contents: ReportContents, path: str | os.PathLike[str]) -> Path:
    """Write the report as one HTML file that needs nothing else; a reader never sees half of it.

    The same contents give the same bytes.

    Raises:
        ReportError: The file cannot be written there.
    """
    target = Path(path)
    page = _template().render(
        contents=contents,
        headline=say.headline(contents.evaluation),
        model_line=model_line(contents.model),
        evaluated=_evaluated(contents) if len(contents.evaluation) else None,
        training=_training(contents) if contents.history else None,
        exclusions=exclusion_groups(contents),
        stages=stages(contents),
        total_time=duration(sum(contents.timings.values())),
        metrics=metric_rows(contents),
        split=told(contents.split_report),
        count=count,
        decimal=decimal,
        distance=distance,
        percent=percent,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, page)
    except OSError as error:
        raise ReportError(f"cannot write the report to {target}: {error.strerror}") from error
    return target


def _evaluated(contents: ReportContents) -> dict[str, Any]:
    """All that needs at least one evaluated session."""
    evaluation = contents.evaluation
    chosen = choose_by_rank(evaluation)
    return {
        "cards": _cards(evaluation),
        "comparisons": comparisons(contents),
        "maps": [map_svg(contents, chosen), map_svg(contents, chosen, narrow=True)],
        "about_map": say.about_map(contents),
        "closeups": [
            closeups_svg(evaluation, chosen),
            closeups_svg(evaluation, chosen, narrow=True),
        ],
        "about_closeups": say.about_closeups(evaluation, chosen),
        "figures": _figures(contents),
        "worst": worst_sessions(evaluation),
        "median": distance(float(np.median(evaluation.error_m))),
        "inside": " / ".join(
            percent(coverage(evaluation, claimed).observed.value) for claimed in (0.68, 0.95)
        ),
        "p95": distance(float(np.percentile(evaluation.error_m, 95))),
    }


def _figures(contents: ReportContents) -> dict[str, tuple[str, str]]:
    """Each figure with the sentence below it."""
    evaluation = contents.evaluation
    covered = " ".join(say.about_coverage(evaluation, claimed) for claimed in (0.68, 0.95))
    figures = {
        "errors": (
            error_distribution.error_distribution_svg(contents),
            say.about_errors(evaluation),
        ),
        "coverage": (reliability.coverage_svg(evaluation), covered),
        "sigma": (reliability.sigma_svg(evaluation), say.about_sigma(evaluation)),
        "receivers": (conditions.receivers_svg(evaluation), say.about_receivers(evaluation)),
        "snr": ("", say.about_snr(evaluation)),
    }
    if conditions.known_snr(evaluation).any():
        figures["snr"] = (conditions.snr_svg(evaluation), say.about_snr(evaluation))
    return figures


def _training(contents: ReportContents) -> dict[str, str]:
    return {
        "loss": learning_curves.loss_curve_svg(contents),
        "error": learning_curves.error_curve_svg(contents),
        "about": say.about_training(contents),
    }


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The few numbers that matter: figure, name, remark."""
    median, p95 = np.percentile(evaluation.error_m, [50, 95])
    cards = [
        (distance(float(median)), "median error", f"95 % are within {distance(float(p95))}"),
    ]
    for claimed in (0.68, 0.95):
        point = coverage(evaluation, claimed)
        name = f"of truths in the {percent(claimed)} ellipse"
        interval = f"{percent(point.observed.low)} to {percent(point.observed.high)}"
        cards.append((percent(point.observed.value), name, f"95 % interval {interval}"))
    sources = count(len(set(evaluation.source_names)), "transmitter")
    cards.append((f"{len(evaluation):,}", "held-out sessions", f"of {sources} not trained on"))
    return cards


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heimdall_trainer.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
