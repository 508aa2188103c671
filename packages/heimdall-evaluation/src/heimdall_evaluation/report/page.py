"""The page of a report: values for `templates/report.html`, which lays out tables and columns."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
import numpy as np
from heimdall_export.atomic import write_whole
from heimdall_features.names import shown

from heimdall_evaluation import quantities
from heimdall_evaluation.coverage import coverage, shares_inside, squared_sigmas
from heimdall_evaluation.errors import ReportError
from heimdall_evaluation.intervals import Interval, ratio_of_medians
from heimdall_evaluation.quantities import count, distance, factor
from heimdall_evaluation.report import charts, sentences
from heimdall_evaluation.report.embedded import embed
from heimdall_evaluation.report.files import compressed, session_files
from heimdall_evaluation.report.map import choose_by_rank, closeups_figure, map_figure

if TYPE_CHECKING:
    import os

    from heimdall_evaluation.results import BaselineResult, Evaluation, ReportContents


def render_report(contents: ReportContents, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file that needs nothing else, whole or not at all.

    The same contents give the same bytes.

    Raises:
        ReportError: The file cannot be written there.
    """
    templates = importlib.resources.files("heimdall_evaluation.report") / "templates"
    script = (templates / "report.js").read_text(encoding="utf-8")
    # The page's security policy names its one script by this hash; no other runs.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return write_page(
        "report.html",
        Path(path),
        contents=contents,
        headline=sentences.headline(contents.evaluation),
        evaluated=_evaluated(contents) if len(contents.evaluation) else None,
        checks=[(each, sentences.about_check(each)) for each in contents.checks],
        training=[charts.training_figures(curve, k) for k, curve in enumerate(contents.curves)],
        embedded=embed(contents),
        script=script,
        script_hash=f"sha256-{digest}",
        exclusions=exclusion_groups(contents),
        split=flat_rows(contents.split_report),
    )


def write_page(template: str, path: Path, **values: object) -> Path:
    """Write a page, whole or not at all; every value is escaped, control characters included.

    Raises:
        ReportError: It cannot be written there.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("heimdall_evaluation.report"),
        autoescape=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values, q=quantities)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from error
    return path


def _evaluated(contents: ReportContents) -> dict[str, Any]:
    """Everything on the page that needs at least one evaluated session."""
    evaluation = contents.evaluation
    chosen = choose_by_rank(evaluation)
    return {
        "kind": sentences.session_kind(evaluation),
        "median_m": np.median(evaluation.error_m),
        "p95_m": np.percentile(evaluation.error_m, 95),
        "coverage": {claimed: coverage(evaluation, claimed) for claimed in (0.68, 0.95)},
        "in_sigmas": np.sqrt(squared_sigmas(evaluation)),
        "comparisons": [compare(evaluation, baseline) for baseline in contents.baselines],
        "map": map_figure(contents, chosen),
        "closeups": closeups_figure(evaluation, chosen),
        "files": {ending: compressed(text) for ending, text in session_files(contents).items()},
        "figures": {
            "errors": charts.errors_figure(contents),
            "coverage": charts.coverage_figure(evaluation),
            "sigma": charts.sigma_figure(evaluation),
            "pit": charts.pit_figure(evaluation),
            "distance": charts.distance_figure(contents),
            "receivers": charts.receivers_figure(evaluation),
            "snr": charts.snr_figure(evaluation),
        },
        "about_trained_on": sentences.about_trained_on(evaluation),
        "pictures": charts.pictures(evaluation, contents.spectrograms),
        "about_posterior": sentences.about_posterior(evaluation),
        "about_bounds": sentences.about_bounds(evaluation, contents.model.sigma_bounds_m),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A baseline's errors, and the network's against them."""

    baseline: BaselineResult
    n_answered: int
    median_m: float
    p95_m: float
    ratio: Interval
    """The network's median error over the baseline's, on the sessions that both answer."""
    inside: tuple[float, float] | None = None
    """Shares of truths in its 68 and 95 % ellipses, if it has any."""

    @property
    def verdict(self) -> Literal["better", "worse", "no difference", "unknown"]:
        """The network beside the baseline, as far as the ratio's interval shows it."""
        if not self.ratio.known:
            return "unknown"
        if self.ratio.high < 1:
            return "better"
        return "worse" if self.ratio.low > 1 else "no difference"

    @property
    def interval(self) -> str:
        """`0.29 to 0.43`."""
        return f"{factor(self.ratio.low)} to {factor(self.ratio.high)}"

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        if self.n_answered == 0:
            return "It has no answer for any of these sessions."
        times = (
            f"Its median error is {distance(self.median_m)}; the network's is "
            f"{factor(self.ratio.value)} times that"
        )
        if self.verdict == "unknown":
            return f"{times}. Sessions of a single transmitter cannot tell how sure that is."
        sessions = count(self.n_answered, "session")
        ending = {
            "better": "The network is better.",
            "worse": "The network is worse than this baseline.",
            "no difference": f"The network is not better as far as {sessions} can tell.",
        }[self.verdict]
        return f"{times} (95 % interval {self.interval}). {ending}"


def compare(evaluation: Evaluation, baseline: BaselineResult) -> Comparison:
    """Compare the network with a baseline, on the sessions for which the baseline has an answer."""
    answered = np.flatnonzero(np.isfinite(baseline.error_m))
    median, p95, ratio = np.nan, np.nan, Interval(np.nan)
    if answered.size:
        errors = baseline.error_m[answered]
        median, p95 = np.percentile(errors, [50, 95])
        sources = [evaluation.source_names[k] for k in answered]
        ratio = ratio_of_medians(evaluation.error_m[answered], errors, sources)
    return Comparison(
        baseline=baseline,
        n_answered=int(answered.size),
        median_m=float(median),
        p95_m=float(p95),
        ratio=ratio,
        inside=shares_inside(baseline, evaluation.truth_deg),
    )


def exclusion_groups(contents: ReportContents) -> list[tuple[str, list[str]]]:
    """Reasons with the ids of the sessions excluded for them, the most frequent first."""
    groups = defaultdict(list)
    for session_id, reason in contents.excluded:
        groups[reason].append(session_id)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def flat_rows(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested details as rows of a dotted name and a value."""
    rows: list[tuple[str, str]] = []
    for name, value in details.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}.{inner}", text) for inner, text in flat_rows(value)]
        elif isinstance(value, (list, tuple)):
            rows.append((str(name), ", ".join(map(str, value))))
        else:
            rows.append((str(name), f"{value:g}" if isinstance(value, float) else str(value)))
    return rows
