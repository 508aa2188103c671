"""The page: everything computed, drawn and said is put into the template and written at once."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from heimdall_export.atomic import write_whole

from heimdall_evaluation.coverage import coverage
from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.report import charts as conditions
from heimdall_evaluation.report import charts as error_distribution
from heimdall_evaluation.report import charts as learning_curves
from heimdall_evaluation.report import charts as reliability
from heimdall_evaluation.report import sentences as say
from heimdall_evaluation.report.charts import pictures
from heimdall_evaluation.report.embedded import embed
from heimdall_evaluation.report.map import choose_by_rank, closeups_svg, map_svg
from heimdall_evaluation.report.quantities import count, distance, duration, factor, percent
from heimdall_evaluation.report.tables import (
    comparisons,
    exclusion_groups,
    metric_rows,
    model_line,
    stages,
    told,
    worst_sessions,
)

if TYPE_CHECKING:
    import os

    from heimdall_models.training.curves import LearningCurve

    from heimdall_evaluation.results import Evaluation, ReportContents

__all__ = ["render_report", "template"]


def render_report(contents: ReportContents, path: str | os.PathLike[str]) -> Path:
    """Write the report as one HTML file that needs nothing else; a reader never sees half of it.

    The same contents give the same bytes.

    Raises:
        ReportError: The file cannot be written there.
    """
    target = Path(path)
    script = _script()
    page = template("report.html").render(
        contents=contents,
        headline=say.headline(contents.evaluation),
        model_line=model_line(contents.model),
        evaluated=_evaluated(contents) if len(contents.evaluation) else None,
        training=[_training(curve, k) for k, curve in enumerate(contents.curves)],
        embedded=embed(contents),
        script=script,
        script_hash=_hash_of(script),
        exclusions=exclusion_groups(contents),
        stages=stages(contents),
        total_time=duration(sum(contents.timings.values())),
        metrics=metric_rows(contents),
        split=told(contents.split_report),
        count=count,
        factor=factor,
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
        "about_trained_on": say.about_trained_on(evaluation),
        "worst": worst_sessions(evaluation),
        "pictures": pictures(evaluation, contents.spectrograms),
        "about_bounds": say.about_bounds(evaluation, contents.model.sigma_bounds_m),
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
    return {
        "errors": (
            error_distribution.error_distribution_svg(contents),
            say.about_errors(evaluation),
        ),
        "coverage": (reliability.coverage_svg(evaluation), covered),
        "sigma": (reliability.sigma_svg(evaluation), say.about_sigma(evaluation)),
        "pit": (reliability.pit_svg(evaluation), say.about_pit(evaluation)),
        "distance": (conditions.distance_svg(contents), say.about_distance(contents)),
        "receivers": (conditions.receivers_svg(evaluation), say.about_receivers(evaluation)),
        "snr": (
            conditions.snr_svg(evaluation) if conditions.known_snr(evaluation).any() else "",
            say.about_snr(evaluation),
        ),
    }


def _training(curve: LearningCurve, number: int) -> dict[str, str]:
    """One training's figures; ids of the first are plain, of others numbered."""
    mark = f"-{number}" if number else ""
    error = "" if curve.name and not learning_curves.has_errors(curve) else "error-by-epoch" + mark
    return {
        "name": curve.name,
        "loss": learning_curves.loss_curve_svg(curve, "loss" + mark),
        "error": learning_curves.error_curve_svg(curve, error) if error else "",
        "about": say.about_training(curve),
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
    of = f"of {sources} not trained on" if evaluation.part == "test" else f"of {sources}"
    cards.append((f"{len(evaluation):,}", say.sessions_of(evaluation) + "s", of))
    return cards


def _script() -> str:
    """The page's one script, which magnifies the map."""
    place = importlib.resources.files("heimdall_evaluation.report")
    return (place / "templates" / "zoom.js").read_text(encoding="utf-8")


def _hash_of(script: str) -> str:
    """What the page's security policy names the script by; no other can run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def template(name: str) -> jinja2.Template:
    """One of the pages' templates, which escapes whatever it is given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heimdall_evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
