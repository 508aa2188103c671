"""How many sessions are within which distance: the network beside the baselines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from heimdall_trainer.report import ink
from heimdall_trainer.report.quantities import round_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import ReportContents

__all__ = ["DASHES", "distance_axis", "error_distribution_svg"]

DASHES: tuple[tuple[int, ...], ...] = (
    (5, 2),
    (2, 2),
    (7, 2, 2, 2),
    (1, 2),
    (9, 2),
    (4, 1, 1, 1),
    (3, 1),
)
"""Baselines differ by dash as well as by colour."""


def error_distribution_svg(contents: ReportContents) -> str:
    """The cumulative distribution of the error, on a logarithmic axis, medians marked."""
    with ink.drawing():
        figure = ink.sheet(5.4, 3.7)
        axes = ink.plain_axes(figure.add_axes((0.09, 0.135, 0.875, 0.8)))
        errors = [contents.evaluation.error_m, *(b.error_m for b in contents.baselines)]
        for k, baseline in enumerate(contents.baselines):
            colour = ink.BASELINES[k % len(ink.BASELINES)]
            _draw_steps(axes, baseline.error_m, colour, dashes=DASHES[k % len(DASHES)])
        _draw_steps(axes, contents.evaluation.error_m, ink.NETWORK)
        axes.axhline(0.5, color=ink.MUTED, linewidth=0.8, dashes=(1, 3))
        axes.set(ylim=(0, 1.01), xlabel="error")
        ink.label_above(axes, "share of sessions within that error")
        axes.set_yticks(np.linspace(0, 1, 5), [f"{p:.0%}" for p in np.linspace(0, 1, 5)])
        distance_axis(axes, np.concatenate(errors), "x")
        return ink.svg(figure, "errors", "Cumulative distribution of the error by method")


def distance_axis(axes: Axes, values_m: NDArray[np.float64], which: Literal["x", "y"]) -> None:
    """A logarithmic axis of metres, labelled 1, 2, 5 or by decades if there are many."""
    known = values_m[np.isfinite(values_m) & (values_m > 0)]
    least, most = (known.min(), known.max()) if known.size else (1.0, 1000.0)
    least, most = min(least, most / 3), max(most, least * 3)
    low, high = max(least / 1.25, most / 1e5), most * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    if which == "x":
        axes.set(xscale="log", xlim=(low, high))
    else:
        axes.set(yscale="log", ylim=(low, high))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, labels=[round_distance(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def _draw_steps(
    axes: Axes, error_m: NDArray[np.float64], colour: str, *, dashes: tuple[int, ...] = ()
) -> None:
    known = np.sort(error_m[np.isfinite(error_m)])
    if known.size == 0:
        return
    style = {"dashes": dashes, "linewidth": 1.5} if dashes else {"linewidth": 2.3}
    reached = np.arange(known.size + 1) / known.size
    axes.step([known[0], *known], reached, where="post", color=colour, **style)
    median = float(np.median(known))
    axes.scatter([median], [0.5], s=34, color=colour, edgecolor=ink.PAGE, linewidth=1, zorder=5)
