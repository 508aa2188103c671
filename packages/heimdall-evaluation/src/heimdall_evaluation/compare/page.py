"""The page of a comparison: one HTML file that needs nothing else, like a report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from heimdall_evaluation.compare import wording
from heimdall_evaluation.compare.significance import LEAST_M
from heimdall_evaluation.coverage import LEVELS, coverage
from heimdall_evaluation.report import charts, svg
from heimdall_evaluation.report.page import write_page

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome

_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": svg.BASELINES[1], "linewidth": 2, "dashes": (5, 2)},
    {"color": svg.NETWORK, "linewidth": 2},
)
"""Lines of A and B."""


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
        found: Outcome on these sessions.
        fair: Outcome on those that no model was trained on, if they are fewer.
        path: Path of the page.
        command: The command that made it.
        versions: Versions of packages, and the commit, by name.

    Raises:
        ReportError: It cannot be written.
    """
    errors = [side.evaluation.error_m for _, side in pair.sides]
    a, b = (np.maximum(error_m, LEAST_M) for error_m in errors)
    log_ratio = np.log(b / a)
    curves = list(zip(errors, _LOOKS, strict=True))
    about_distributions = "Cumulative distributions of both errors"
    return write_page(
        "comparison.html",
        path,
        pair=pair,
        headline=wording.headline(found),
        about_errors=wording.about_errors(found),
        about_nll=wording.about_nll(found),
        about_seen=wording.about_seen(pair),
        fair=None if fair is None else f"{wording.headline(fair)} {wording.about_errors(fair)}",
        rows=wording.metric_rows(pair),
        figures={
            "pairs": _pairs_svg(pair),
            "distributions": charts.distributions_svg(
                curves, 4.6, "distributions", about_distributions
            ),
            "coverages": _coverages_svg(pair),
        },
        ratio=np.exp(log_ratio),
        better_a=[k for k in np.argsort(-log_ratio, kind="stable")[:10] if log_ratio[k] > 0],
        better_b=[k for k in np.argsort(log_ratio, kind="stable")[:10] if log_ratio[k] < 0],
        seen=[pair.a.evaluation.session_ids[k] for k in pair.seen],
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=command,
        versions=versions,
    )


def _pairs_svg(pair: Pair) -> str:
    """B's error over A's, a dot a session: below the diagonal B is nearer to the truth."""
    a, b = pair.a.evaluation.error_m, pair.b.evaluation.error_m
    with svg.chart(4.6, (0.125, 0.105, 0.84, 0.845)) as (figure, axes):
        charts.draw_diagonal(axes)
        axes.scatter(a, b, s=16, color=svg.NETWORK, alpha=0.5, linewidth=0)
        for which in ("x", "y"):
            charts.distance_axis(axes, np.concatenate([a, b]), which)
        axes.set(xlabel="error of A")
        svg.label_above(axes, "error of B")
        return svg.render(figure, "pairs", "Error of B over error of A, a dot a session")


def _coverages_svg(pair: Pair) -> str:
    """Observed over claimed coverage of both models' ellipses."""
    with svg.chart(4.3, (0.09, 0.115, 0.875, 0.83)) as (figure, axes):
        charts.coverage_axes(axes)
        for (_, side), look in zip(pair.sides, _LOOKS, strict=True):
            observed = [coverage(side.evaluation, level).value for level in LEVELS]
            axes.plot(LEVELS, observed, **look)
            axes.scatter(LEVELS, observed, s=16, color=look["color"], zorder=3)
        return svg.render(figure, "coverages", "Observed over claimed coverage of both models")
