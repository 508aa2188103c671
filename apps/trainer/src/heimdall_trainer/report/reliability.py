"""Whether the ellipses mean what they say, in two figures: over all, and one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_trainer.report import ink
from heimdall_trainer.report.calibration import (
    LEVELS,
    coverage,
    levels_of_truths,
    predicted_error_m,
)
from heimdall_trainer.report.error_distribution import distance_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from heimdall_trainer.report.contents import Evaluation

__all__ = ["coverage_svg", "pit_svg", "sigma_svg"]

_MARKED = (0.68, 0.95)
_PER_GROUP = 8
_BINS = 10


def coverage_svg(evaluation: Evaluation) -> str:
    """Observed over claimed coverage of the ellipses from 10 to 95 %, with its 95 % interval."""
    curve = [coverage(evaluation, level) for level in LEVELS]
    claimed = [point.claimed for point in curve]
    observed = [point.observed.value for point in curve]
    with ink.drawing():
        figure = ink.sheet(5.4, 4.3)
        axes = ink.plain_axes(figure.add_axes((0.09, 0.115, 0.875, 0.83)))
        axes.plot([0, 1], [0, 1], color=ink.MUTED, linewidth=1, dashes=(5, 3))
        low = [point.observed.low for point in curve]
        high = [point.observed.high for point in curve]
        axes.fill_between(claimed, low, high, color=ink.NETWORK, alpha=0.16, linewidth=0)
        axes.plot(claimed, observed, color=ink.NETWORK, linewidth=2, marker="o", markersize=3.5)
        for point in curve:
            if point.claimed in _MARKED:
                _mark(axes, point.claimed, point.observed.value)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="probability that the ellipse claims")
        ink.label_above(axes, "truths inside")
        axes.set_xticks(ticks, [f"{p:.0%}" for p in ticks])
        axes.set_yticks(ticks, [f"{p:.0%}" for p in ticks])
        return ink.svg(figure, "coverage", "Observed over claimed coverage of the ellipses")


def _mark(axes: Axes, claimed: float, observed: float) -> None:
    """A claim that the page speaks of, with its distance from the truth."""
    crowded = claimed < 0.9 < observed
    axes.plot([claimed] * 2, [claimed, observed], color=ink.WARNING, linewidth=1.4)
    axes.scatter([claimed], [observed], s=64, color=ink.NETWORK, edgecolor=ink.PAGE, zorder=5)
    axes.annotate(
        f"{claimed:.0%} ellipse holds {observed:.0%}",
        (claimed, observed),
        xytext=(10, -14) if crowded else (-10, 7),
        textcoords="offset points",
        ha="left" if crowded else "right",
        gid=ink.HALO,
    )


def sigma_svg(evaluation: Evaluation) -> str:
    """Actual over predicted error of each session, with the root mean squares of groups."""
    predicted = predicted_error_m(evaluation.sigma_m)
    with ink.drawing():
        figure = ink.sheet(5.4, 4.3)
        axes = ink.plain_axes(figure.add_axes((0.125, 0.115, 0.84, 0.83)))
        axes.scatter(predicted, evaluation.error_m, s=14, color=ink.NETWORK, alpha=0.5, linewidth=0)
        groups = np.array_split(np.argsort(predicted), max(1, min(6, len(predicted) // _PER_GROUP)))
        means = np.array(
            [[_rms(predicted[rows]), _rms(evaluation.error_m[rows])] for rows in groups]
        )
        axes.plot(*means.T, color=ink.INK, linewidth=1.3, marker="D", markersize=5, zorder=4)
        both = np.array([1e-3, 1e9])
        axes.plot(both, both, color=ink.MUTED, linewidth=1, dashes=(5, 3), zorder=1)
        distance_axis(axes, np.concatenate([predicted, means[:, 0]]), "x")
        distance_axis(axes, np.concatenate([evaluation.error_m, means[:, 1]]), "y")
        axes.set(xlabel="error that sigma predicts (root mean square)")
        ink.label_above(axes, "actual error")
        return ink.svg(figure, "sigma", "Actual error over the error that sigma predicts")


def pit_svg(evaluation: Evaluation) -> str:
    """How many truths lie on the border of which ellipse: a flat histogram where all is honest.

    The band is where 95 % of such counts fall by chance, were all sessions independent.
    """
    n = len(evaluation)
    counts, edges = np.histogram(levels_of_truths(evaluation), bins=_BINS, range=(0, 1))
    expected = n / _BINS
    half = 1.96 * np.sqrt(n * (1 - 1 / _BINS) / _BINS)
    with ink.drawing():
        figure = ink.sheet(5.4, 3.4)
        axes = ink.plain_axes(figure.add_axes((0.09, 0.145, 0.875, 0.775)))
        axes.axhspan(max(0.0, expected - half), expected + half, color=ink.NETWORK, alpha=0.13)
        axes.stairs(counts, edges, fill=True, color=ink.NETWORK, alpha=0.55)
        axes.axhline(expected, color=ink.MUTED, linewidth=1, dashes=(5, 3))
        ticks = np.linspace(0, 1, 6)
        axes.set_xticks(ticks, [f"{p:.0%}" for p in ticks])
        axes.set(xlim=(0, 1), ylim=(0, max(counts.max(), expected + half) * 1.12))
        axes.set(xlabel="probability of the ellipse that the truth lies on")
        ink.label_above(axes, "sessions")
        return ink.svg(figure, "pit", "Histogram of the ellipse that each truth lies on")


def _rms(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
