"""A few sessions at close range, drawn at one scale: the claim beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_models.metrics import offset_east_north_m

from heimdall_trainer.report import ink
from heimdall_trainer.report.overview import draw_ellipses, session_note
from heimdall_trainer.report.quantities import distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation

__all__ = ["N_CLOSEUPS", "choose_by_rank", "closeups_svg", "half_width_km"]

N_CLOSEUPS = 12


def choose_by_rank(evaluation: Evaluation, n: int = N_CLOSEUPS) -> list[int]:
    """Sessions at evenly spaced ranks of error, least first: no choice of good ones.

    Of the sessions about a rank, one of a transmitter not yet chosen is preferred.
    """
    order = np.argsort(evaluation.error_m, kind="stable")
    wanted = np.linspace(0, len(order) - 1, min(n, len(order)))
    chosen: list[int] = []
    for rank in wanted:
        by_nearness = order[np.argsort(np.abs(np.arange(len(order)) - rank), kind="stable")]
        free = [int(k) for k in by_nearness if k not in chosen]
        taken = {evaluation.source_names[k] for k in chosen}
        near = free[: max(1, len(order) // len(wanted))]
        chosen.append(next((k for k in near if evaluation.source_names[k] not in taken), free[0]))
    return sorted(chosen, key=lambda k: float(evaluation.error_m[k]))


def closeups_svg(evaluation: Evaluation, chosen: Sequence[int], *, narrow: bool = False) -> str:
    """One panel for each chosen session, centred between truth and estimate."""
    columns = 3 if narrow else 6
    rows = -(-len(chosen) // columns)
    width = 5.0 if narrow else 10.0
    cell = width / columns
    offset_km = offset_east_north_m(evaluation.position_deg, evaluation.truth_deg) / 1000
    half = half_width_km(evaluation, chosen)
    with ink.drawing():
        figure = ink.sheet(width, rows * (cell + 0.18))
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(0.004, 0.004, 0.996, 1 - 0.2 / (rows * (cell + 0.18)), 0.05, 0.16)
        for axes in grid.flat[len(chosen) :]:
            axes.set_visible(False)
        for number, (axes, k) in enumerate(zip(grid.flat, chosen, strict=False), start=1):
            _draw(axes, evaluation, k, offset_km[k], half)
            axes.set_title(f"{number}", loc="left", fontsize=9.5, fontweight="bold", pad=3)
            axes.set_title(distance(float(evaluation.error_m[k])), loc="right", fontsize=9.5, pad=3)
        name = "closeups-narrow" if narrow else "closeups-wide"
        notes = {f"session-{k}": session_note(evaluation, k) for k in chosen}
        return ink.svg(figure, name, f"Close-ups of {len(chosen)} sessions", notes=notes)


def half_width_km(evaluation: Evaluation, chosen: Sequence[int]) -> float:
    """Half a panel: an extreme session may leave its own, the typical one may not shrink."""
    picked = list(chosen)
    reach_m = evaluation.error_m[picked] / 2 + 2.6 * evaluation.sigma_m[picked].max(axis=1)
    return float(np.percentile(reach_m, 75)) / 1000


def _draw(
    axes: Axes, evaluation: Evaluation, k: int, offset_km: NDArray[np.float64], half: float
) -> None:
    estimate = -offset_km / 2
    truth = offset_km / 2
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color(ink.GRID)
    axes.set_gid(f"session-{k}")
    tilt = evaluation.tilt[[k]]
    draw_ellipses(axes, estimate[None], evaluation.sigma_m[[k]], tilt, outer_alpha=0.4)
    axes.plot(*np.stack([truth, estimate]).T, color=ink.NETWORK, linewidth=1.4, zorder=4)
    axes.scatter(
        truth[0], truth[1], s=22, facecolor=ink.PAGE, edgecolor=ink.TRUTH, linewidth=1.2, zorder=5
    )
    axes.scatter(estimate[0], estimate[1], s=18, color=ink.NETWORK, linewidth=0, zorder=5)
