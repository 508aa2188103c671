"""The network beside a method that needs no training, on the same sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from heimdall_trainer.report.calibration import shares_inside
from heimdall_trainer.report.intervals import Interval, ratio_of_medians
from heimdall_trainer.report.quantities import count, distance, factor

if TYPE_CHECKING:
    from heimdall_trainer.report.contents import BaselineResult, Evaluation, ReportContents

__all__ = ["Comparison", "compare", "comparisons"]

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
