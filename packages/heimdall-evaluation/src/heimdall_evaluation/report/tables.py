"""The tables of the page, as rows of text.

The network beside a method that needs no training, on the same sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    from heimdall_evaluation.results import BaselineResult, Evaluation, ModelSummary, ReportContents

__all__ = [
    "Comparison",
    "ExclusionGroup",
    "Stage",
    "WorstSession",
    "compare",
    "comparisons",
    "exclusion_groups",
    "metric_rows",
    "model_line",
    "stages",
    "told",
    "worst_sessions",
]


Verdict = Literal["better", "worse", "no difference", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a baseline fares, and how the network fares against it."""

    name: str
    explanation: str
    n_answered: int
    median_m: float
    p95_m: float
    ratio: Interval
    """The network's median error over the baseline's, on the sessions that both answer."""
    inside: tuple[float, float] | None = None
    """Shares of truths in its 68 and 95 % ellipses, where it has any."""

    @property
    def verdict(self) -> Verdict:
        """What the interval of the ratio allows to say of the network."""
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
        """The comparison in words; it says so where the network is not better."""
        if self.n_answered == 0:
            return "It has no answer for any of these sessions."
        times = (
            f"Its median error is {distance(self.median_m)}; the network's is "
            f"{factor(self.ratio.value)} times that"
        )
        if self.verdict == "unknown":
            return f"{times}. Sessions of a single transmitter cannot tell how sure that is."
        endings = {
            "better": "The network is better.",
            "worse": "The network is worse than this baseline.",
            "no difference": (
                f"The network is not better as far as {count(self.n_answered, 'session')} can tell."
            ),
        }
        return f"{times} (95 % interval {self.interval}). {endings[self.verdict]}"


def comparisons(contents: ReportContents) -> list[Comparison]:
    """Every baseline in the order given."""
    return [compare(contents.evaluation, baseline) for baseline in contents.baselines]


def compare(evaluation: Evaluation, baseline: BaselineResult) -> Comparison:
    """Compare on the sessions for which the baseline has an answer."""
    answered = np.flatnonzero(np.isfinite(baseline.error_m))
    errors = baseline.error_m[answered]
    if answered.size == 0:
        median = p95 = np.nan
        ratio = Interval(np.nan)
    else:
        median, p95 = np.median(errors), np.percentile(errors, 95)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSession:
    """One row of the worst sessions, ready to print."""

    session_id: str
    source: str
    error: str
    sigma: str
    in_sigmas: str
    n_present: int
    snr: str
    truth: str
    estimate: str


@dataclass(frozen=True, slots=True)
class ExclusionGroup:
    """The sessions that were left out for one reason."""

    reason: str
    session_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """How long one stage of the run took, and its share of the whole."""

    name: str
    took: str
    share: float


def worst_sessions(evaluation: Evaluation, n: int = 10) -> list[WorstSession]:
    """The sessions with the largest errors, worst first."""
    in_sigmas = np.sqrt(squared_sigmas(evaluation))
    snr_db = evaluation.snr_db
    order = np.argsort(-evaluation.error_m, kind="stable")[:n]
    return [
        WorstSession(
            session_id=evaluation.session_ids[k],
            source=evaluation.source_names[k],
            error=distance(float(evaluation.error_m[k])),
            sigma=" / ".join(distance(float(sigma)) for sigma in evaluation.sigma_m[k]),
            in_sigmas=decimal(float(in_sigmas[k]), 1),
            n_present=int(evaluation.n_present[k]),
            snr=decimal(float(snr_db[k]), 1) if snr_db is not None else decimal(np.nan),
            truth="{:.3f}, {:.3f}".format(*evaluation.truth_deg[k]),
            estimate="{:.3f}, {:.3f}".format(*evaluation.position_deg[k]),
        )
        for k in order
    ]


def exclusion_groups(contents: ReportContents) -> list[ExclusionGroup]:
    """Excluded sessions by reason, the most frequent first."""
    reasons = Counter(reason for _, reason in contents.excluded)
    return [
        ExclusionGroup(reason, tuple(s for s, why in contents.excluded if why == reason))
        for reason, _ in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def stages(contents: ReportContents) -> list[Stage]:
    """The run's stages in the order given."""
    total = sum(contents.timings.values()) or 1.0
    return [Stage(name, duration(s), s / total) for name, s in contents.timings.items()]


def metric_rows(contents: ReportContents) -> list[tuple[str, str]]:
    """Metrics by name in a unit that fits each."""
    return [(name, _metric(name, value)) for name, value in sorted(contents.metrics.items())]


def model_line(model: ModelSummary) -> str:
    """`convnext_atto, 3.4 million parameters, 13.6 MB`."""
    size = "" if model.size_bytes is None else f", {file_size(model.size_bytes)}"
    return f"{model.name}, {count(model.n_parameters, 'parameter')}{size}"


def told(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested details as rows of a dotted name and a value."""
    rows: list[tuple[str, str]] = []
    for name, value in details.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}.{inner}", text) for inner, text in told(value)]
        elif isinstance(value, (list, tuple)):
            rows.append((str(name), ", ".join(str(item) for item in value)))
        else:
            rows.append((str(name), f"{value:g}" if isinstance(value, float) else str(value)))
    return rows


def _metric(name: str, value: float) -> str:
    short = name.rpartition("/")[2]
    if short.startswith("error_m"):
        return distance(value)
    if short.startswith(("coverage", "accuracy")):
        return percent(value)
    return f"{value:.4g}"
