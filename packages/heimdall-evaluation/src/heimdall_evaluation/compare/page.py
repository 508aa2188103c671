"""The page of a comparison: one HTML file that needs nothing else, like a report.

Two models in pictures: session by session, and as distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.atomic import write_whole

from heimdall_evaluation.compare import wording as say
from heimdall_evaluation.coverage import LEVELS, coverage
from heimdall_evaluation.report import svg as ink
from heimdall_evaluation.report.charts import distance_axis
from heimdall_evaluation.report.page import template
from heimdall_evaluation.report.quantities import count, distance, factor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome

__all__ = [
    "ComparedSession",
    "coverages_svg",
    "distributions_svg",
    "most_different",
    "pairs_svg",
    "render_comparison",
]


_STYLES = ((ink.BASELINES[1], (5, 2)), (ink.NETWORK, (1, 0)))
"""Of A, dashed, and of B."""


def pairs_svg(pair: Pair) -> str:
    """B's error over A's, a dot a session: below the diagonal B is nearer to the truth."""
    a, b = pair.a.evaluation.error_m, pair.b.evaluation.error_m
    both = np.concatenate([a, b])
    with ink.drawing():
        figure = ink.sheet(5.4, 4.6)
        axes = ink.plain_axes(figure.add_axes((0.125, 0.105, 0.84, 0.845)))
        ends = np.array([1e-3, 1e9])
        axes.plot(ends, ends, color=ink.MUTED, linewidth=1, dashes=(5, 3), zorder=1)
        axes.scatter(a, b, s=16, color=ink.NETWORK, alpha=0.5, linewidth=0)
        distance_axis(axes, both, "x")
        distance_axis(axes, both, "y")
        axes.set(xlabel="error of A")
        ink.label_above(axes, "error of B")
        return ink.svg(figure, "pairs", "Error of B over error of A, a dot a session")


def distributions_svg(pair: Pair) -> str:
    """The cumulative distributions of both errors, medians marked."""
    errors = [side.evaluation.error_m for _, side in pair.sides]
    with ink.drawing():
        figure = ink.sheet(5.4, 4.6)
        axes = ink.plain_axes(figure.add_axes((0.09, 0.105, 0.875, 0.845)))
        for error_m, (colour, dashes) in zip(errors, _STYLES, strict=True):
            known = np.sort(error_m)
            reached = np.arange(known.size + 1) / known.size
            steps = [known[0], *known]
            axes.step(steps, reached, where="post", color=colour, linewidth=2, dashes=dashes)
            axes.scatter(
                [np.median(known)], [0.5], s=34, color=colour, edgecolor=ink.PAGE, zorder=5
            )
        axes.axhline(0.5, color=ink.MUTED, linewidth=0.8, dashes=(1, 3))
        axes.set_yticks(np.linspace(0, 1, 5), [f"{p:.0%}" for p in np.linspace(0, 1, 5)])
        axes.set(ylim=(0, 1.01), xlabel="error")
        ink.label_above(axes, "share of sessions within that error")
        distance_axis(axes, np.concatenate(errors), "x")
        return ink.svg(figure, "distributions", "Cumulative distributions of both errors")


def coverages_svg(pair: Pair) -> str:
    """Observed over claimed coverage of both models' ellipses."""
    with ink.drawing():
        figure = ink.sheet(5.4, 4.3)
        axes = ink.plain_axes(figure.add_axes((0.09, 0.115, 0.875, 0.83)))
        axes.plot([0, 1], [0, 1], color=ink.MUTED, linewidth=1, dashes=(5, 3))
        for (_, side), (colour, dashes) in zip(pair.sides, _STYLES, strict=True):
            observed = [coverage(side.evaluation, level).observed.value for level in LEVELS]
            axes.plot(LEVELS, observed, color=colour, linewidth=2, dashes=dashes)
            axes.scatter(LEVELS, observed, s=16, color=colour, zorder=3)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set_xticks(ticks, [f"{p:.0%}" for p in ticks])
        axes.set_yticks(ticks, [f"{p:.0%}" for p in ticks])
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="probability that the ellipse claims")
        ink.label_above(axes, "truths inside")
        return ink.svg(figure, "coverages", "Observed over claimed coverage of both models")


N_LISTED = 10


@dataclass(frozen=True, slots=True)
class ComparedSession:
    """A session on which the models differ much."""

    source: str
    session_id: str
    a: str
    b: str
    ratio: str


def render_comparison(
    pair: Pair,
    found: Outcome,
    fair: Outcome | None,
    path: Path,
    *,
    command: str,
    versions: Mapping[str, str],
) -> Path:
    """Write the page, whole or not at all.

    Args:
        pair: The models on the same sessions.
        found: What these tell.
        fair: What those tell that no model was trained on, where that is another set.
        path: Where it goes.
        command: The command that compares, for whoever wants to do it again.
        versions: Versions of packages, and the commit, by name.

    Raises:
        OSError: It cannot be written.
    """
    page = template("comparison.html").render(
        pair=pair,
        headline=say.headline(found),
        about_errors=say.about_errors(found),
        about_nll=say.about_nll(found),
        about_seen=say.about_seen(pair),
        fair=None if fair is None else f"{say.headline(fair)} {say.about_errors(fair)}",
        rows=say.metric_rows(pair),
        figures={
            "pairs": pairs_svg(pair),
            "distributions": distributions_svg(pair),
            "coverages": coverages_svg(pair),
        },
        better_a=most_different(pair, better="A"),
        better_b=most_different(pair, better="B"),
        seen=[pair.a.evaluation.session_ids[k] for k in pair.seen],
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=command,
        versions=versions,
        count=count,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def most_different(pair: Pair, *, better: str) -> list[ComparedSession]:
    """The sessions on which that model is better by the largest factor, at most ten."""
    a, b = pair.a.evaluation, pair.b.evaluation
    ratio = np.log(np.maximum(b.error_m, 1e-3) / np.maximum(a.error_m, 1e-3))
    gain = ratio if better == "A" else -ratio
    order = [k for k in np.argsort(-gain, kind="stable")[:N_LISTED] if gain[k] > 0]
    return [
        ComparedSession(
            a.source_names[k],
            a.session_ids[k],
            distance(float(a.error_m[k])),
            distance(float(b.error_m[k])),
            factor(float(np.exp(ratio[k]))),
        )
        for k in order
    ]
