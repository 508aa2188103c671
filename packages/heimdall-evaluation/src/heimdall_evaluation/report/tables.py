"""Tables of a report, as rows of text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from heimdall_evaluation.coverage import shares_inside, squared_sigmas
from heimdall_evaluation.intervals import Interval, ratio_of_medians
from heimdall_evaluation.report.quantities import (
    count,
    decimal,
    distance,
    duration,
    factor,
    file_size,
    percent,
)

if TYPE_CHECKING:
    from heimdall_evaluation.results import (
        BaselineResult,
        Evaluation,
        ModelSummary,
        ReportContents,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A baseline's errors, and the network's against them."""

    name: str
    explanation: str
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
        name=baseline.name,
        explanation=baseline.explanation,
        n_answered=int(answered.size),
        median_m=float(median),
        p95_m=float(p95),
        ratio=ratio,
        inside=shares_inside(baseline, evaluation.truth_deg),
    )


class WorstSession(NamedTuple):
    """A row of the worst sessions."""

    session_id: str
    source: str
    error: str
    sigma: str
    in_sigmas: str
    n_present: int
    snr: str
    truth: str
    estimate: str


def worst_sessions(evaluation: Evaluation, n: int = 10) -> list[WorstSession]:
    """The sessions with the largest errors, worst first."""
    in_sigmas = np.sqrt(squared_sigmas(evaluation))
    snr_db = np.full(len(evaluation), np.nan) if evaluation.snr_db is None else evaluation.snr_db
    return [
        WorstSession(
            session_id=evaluation.session_ids[k],
            source=evaluation.source_names[k],
            error=distance(float(evaluation.error_m[k])),
            sigma=" / ".join(distance(float(sigma)) for sigma in evaluation.sigma_m[k]),
            in_sigmas=decimal(float(in_sigmas[k]), 1),
            n_present=int(evaluation.n_present[k]),
            snr=decimal(float(snr_db[k]), 1),
            truth="{:.3f}, {:.3f}".format(*evaluation.truth_deg[k]),
            estimate="{:.3f}, {:.3f}".format(*evaluation.position_deg[k]),
        )
        for k in np.argsort(-evaluation.error_m, kind="stable")[:n]
    ]


def exclusion_groups(contents: ReportContents) -> list[tuple[str, list[str]]]:
    """Reasons with the ids of the sessions excluded for them, the most frequent first."""
    groups = defaultdict(list)
    for session_id, reason in contents.excluded:
        groups[reason].append(session_id)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def stages(contents: ReportContents) -> list[tuple[str, str, float]]:
    """Name, time and share of the whole of each stage, in the order they ran."""
    total = sum(contents.timings.values()) or 1.0
    return [(name, duration(s), s / total) for name, s in contents.timings.items()]


def metric_rows(contents: ReportContents) -> list[tuple[str, str]]:
    """Metrics by name, with units."""
    return [
        (name, metric_text(name, value, f"{value:.4g}"))
        for name, value in sorted(contents.metrics.items())
    ]


def metric_text(name: str, value: float, otherwise: str) -> str:
    """A metric in the unit that its name implies, or `otherwise` if it has none."""
    short = name.rpartition("/")[2]
    if short.startswith("error_m"):
        return distance(value)
    return percent(value) if short.startswith(("coverage", "accuracy")) else otherwise


def model_line(model: ModelSummary) -> str:
    """`convnext_atto, 3,374,216 parameters, 13.6 MB`."""
    size = "" if model.size_bytes is None else f", {file_size(model.size_bytes)}"
    return f"{model.name}, {count(model.n_parameters, 'parameter')}{size}"


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
