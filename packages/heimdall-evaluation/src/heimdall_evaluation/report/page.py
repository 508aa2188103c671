"""The page of a report: what is computed, drawn and said, put into the template."""

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
from heimdall_evaluation.report import charts, sentences, tables
from heimdall_evaluation.report.embedded import embed
from heimdall_evaluation.report.map import choose_by_rank, closeups_svg, map_svg
from heimdall_evaluation.report.quantities import count, distance, duration, factor, percent

if TYPE_CHECKING:
    import os

    from heimdall_models.training.curves import LearningCurve

    from heimdall_evaluation.results import Evaluation, ReportContents

__all__ = ["render_report", "template"]


def render_report(contents: ReportContents, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file that needs nothing else, whole or not at all.

    The same contents give the same bytes.

    Raises:
        ReportError: The file cannot be written there.
    """
    target = Path(path)
    script = (
        importlib.resources.files("heimdall_evaluation.report") / "templates" / "zoom.js"
    ).read_text(encoding="utf-8")
    # The page's security policy names its one script by this hash; no other runs.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = template("report.html").render(
        contents=contents,
        headline=sentences.headline(contents.evaluation),
        model_line=tables.model_line(contents.model),
        evaluated=_evaluated(contents) if len(contents.evaluation) else None,
        training=[_training(curve, k) for k, curve in enumerate(contents.curves)],
        embedded=embed(contents),
        script=script,
        script_hash=f"sha256-{digest}",
        exclusions=tables.exclusion_groups(contents),
        stages=tables.stages(contents),
        total_time=duration(sum(contents.timings.values())),
        metrics=tables.metric_rows(contents),
        split=tables.flat_rows(contents.split_report),
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


def template(name: str) -> jinja2.Template:
    """One of the pages' templates; it escapes every value."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heimdall_evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _evaluated(contents: ReportContents) -> dict[str, Any]:
    """Everything on the page that needs at least one evaluated session."""
    evaluation = contents.evaluation
    chosen = choose_by_rank(evaluation)
    inside = [percent(coverage(evaluation, p).observed.value) for p in (0.68, 0.95)]
    sizes = (False, True)
    return {
        "cards": _cards(evaluation),
        "comparisons": [tables.compare(evaluation, baseline) for baseline in contents.baselines],
        "maps": [map_svg(contents, chosen, narrow=narrow) for narrow in sizes],
        "about_map": sentences.about_map(contents),
        "closeups": [closeups_svg(evaluation, chosen, narrow=narrow) for narrow in sizes],
        "about_closeups": sentences.about_closeups(evaluation, chosen),
        "figures": _figures(contents),
        "about_trained_on": sentences.about_trained_on(evaluation),
        "worst": tables.worst_sessions(evaluation),
        "pictures": charts.pictures(evaluation, contents.spectrograms),
        "about_bounds": sentences.about_bounds(evaluation, contents.model.sigma_bounds_m),
        "median": distance(float(np.median(evaluation.error_m))),
        "inside": " / ".join(inside),
        "p95": distance(float(np.percentile(evaluation.error_m, 95))),
    }


def _figures(contents: ReportContents) -> dict[str, tuple[str, str]]:
    """Each figure with the sentence below it."""
    evaluation = contents.evaluation
    covered = " ".join(sentences.about_coverage(evaluation, p) for p in (0.68, 0.95))
    return {
        "errors": (charts.error_distribution_svg(contents), sentences.about_errors(evaluation)),
        "coverage": (charts.coverage_svg(evaluation), covered),
        "sigma": (charts.sigma_svg(evaluation), sentences.about_sigma(evaluation)),
        "pit": (charts.pit_svg(evaluation), sentences.about_pit(evaluation)),
        "distance": (charts.distance_svg(contents), sentences.about_distance(contents)),
        "receivers": (charts.receivers_svg(evaluation), sentences.about_receivers(evaluation)),
        "snr": (charts.snr_svg(evaluation), sentences.about_snr(evaluation)),
    }


def _training(curve: LearningCurve, number: int) -> dict[str, str]:
    """Figures of one training; the first has plain ids, further ones are numbered."""
    suffix = f"-{number}" if number else ""
    with_error = not curve.name or charts.has_errors(curve)
    return {
        "name": curve.name,
        "loss": charts.loss_curve_svg(curve, "loss" + suffix),
        "error": charts.error_curve_svg(curve, "error-by-epoch" + suffix) if with_error else "",
        "about": sentences.about_training(curve),
    }


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The few numbers that matter: figure, name, remark."""
    median, p95 = np.percentile(evaluation.error_m, [50, 95])
    cards = [
        (distance(float(median)), "median error", f"95 % are within {distance(float(p95))}"),
    ]
    for claimed in (0.68, 0.95):
        observed = coverage(evaluation, claimed).observed
        name = f"of truths in the {percent(claimed)} ellipse"
        interval = f"{percent(observed.low)} to {percent(observed.high)}"
        cards.append((percent(observed.value), name, f"95 % interval {interval}"))
    sources = count(len(set(evaluation.source_names)), "transmitter")
    unseen = " not trained on" if evaluation.part == "test" else ""
    kind = sentences.session_kind(evaluation) + "s"
    cards.append((f"{len(evaluation):,}", kind, f"of {sources}{unseen}"))
    return cards
