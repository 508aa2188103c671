"""What the sessions are drawn on: graticule, region, receivers, scale and north."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from heimdall_trainer.report import ink
from heimdall_trainer.report.projection import Frame, graticule, outline_km, to_km
from heimdall_trainer.report.quantities import round_distance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_models import Region
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import ReportContents

__all__ = ["draw_ground", "draw_receivers", "draw_scale", "emptiest_side"]

_LETTER, _LINE = 6.6, 13.0
"""About the width of a bold letter and the height of a line, in points."""


def draw_ground(axes: Axes, region: Region, frame: Frame) -> None:
    """Meridians and parallels with their degrees, and the border of the region."""
    for line in graticule(region, frame):
        x, y = line.points_km.T
        axes.plot(x, y, color=ink.GRID, linewidth=0.8, zorder=0)
        if line.along == "meridian":
            at = (float(np.interp(frame.south, y, x)), frame.south + 0.012 * frame.height)
            style: dict[str, Any] = {"ha": "center", "va": "bottom"}
            inner = frame.shrunk(0.05 * frame.width, 0)
        else:
            at = (frame.west + 0.008 * frame.width, float(np.interp(frame.west, x, y)))
            style, inner = {"ha": "left", "va": "center"}, frame.shrunk(0, 0.03 * frame.height)
        if inner.holds(np.array([at]))[0]:
            gid = ink.beside(*frame.share_of(np.array(at)))
            axes.text(*at, line.label, color=ink.MUTED, fontsize=8, gid=gid, **style)
    border = outline_km(region)
    axes.plot(*border.T, color=ink.MUTED, linewidth=0.9, dashes=(5, 4), alpha=0.8, zorder=1)


def draw_receivers(axes: Axes, contents: ReportContents, frame: Frame, *, width_in: float) -> None:
    """Triangles with names, each name where it hides the fewest true positions.

    Args:
        axes: Filling a figure that is `width_in` inches wide.
        contents: The receivers and the true positions.
        frame: What the axes show.
        width_in: Tells how many kilometres a label takes.
    """
    places = to_km(contents.region, [(r.latitude_deg, r.longitude_deg) for r in contents.receivers])
    marks = np.concatenate(
        [to_km(contents.region, contents.evaluation.truth_deg), _furniture(frame)]
    )
    km_per_point = frame.width / (72 * width_in)
    axes.scatter(
        places[:, 0],
        places[:, 1],
        marker="^",
        s=95,
        color=ink.RECEIVER,
        edgecolor=ink.PAGE,
        linewidth=1,
        zorder=8.5,
    )
    for names, place in _together(contents, places, within_km=frame.width / 30):
        label = km_per_point * np.array([_LETTER * len(names), _LINE])
        side = emptiest_side(place, label, frame, marks)
        axes.annotate(
            names,
            (place[0], place[1]),
            xytext=(9 * side[0], 11 * side[1]),
            textcoords="offset points",
            ha=("right", "center", "left")[side[0] + 1],
            va="center",
            fontsize=10,
            fontweight="bold",
            color=ink.RECEIVER,
            gid=ink.beside(*frame.share_of(place)),
            zorder=9,
        )


def emptiest_side(
    place_km: NDArray[np.float64],
    size_km: NDArray[np.float64],
    frame: Frame,
    marks_km: NDArray[np.float64],
) -> tuple[int, int]:
    """Where a label hides the fewest of the marks (n, 2) and is not cut by the frame's edge.

    Args:
        place_km: (2,) what is labelled.
        size_km: (2,) width and height of the label.
        frame: The picture.
        marks_km: (n, 2) what should stay visible.

    Returns:
        East and north, each -1, 0 or 1.
    """

    def hidden(side: tuple[int, int]) -> int:
        middle = place_km + (size_km + size_km[1]) / 2 * side
        corners = middle + np.array([[1], [-1]]) * size_km / 2
        covered = (np.abs(marks_km - middle) <= size_km / 2).all(axis=1)
        return int(covered.sum()) + (0 if frame.holds(corners).all() else len(marks_km) + 1)

    return min(((1, 0), (-1, 0), (0, -1), (0, 1)), key=hidden)


def _together(
    contents: ReportContents, places: NDArray[np.float64], within_km: float
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Receivers too close for a label each share one."""
    left = list(range(len(places)))
    while left:
        first = left[0]
        near = [k for k in left if np.hypot(*(places[k] - places[first])) <= within_km]
        yield ", ".join(contents.receivers[k].name for k in near), places[near].mean(axis=0)
        left = [k for k in left if k not in near]


def draw_scale(axes: Axes, frame: Frame) -> None:
    """A bar of a round length at the lower right, and north at the upper right."""
    length = _round_length(frame.width / 6)
    x, y = frame.east - 0.03 * frame.width, frame.south + 0.05 * frame.height
    tick = 0.008 * frame.height
    axes.plot(
        [x - length, x - length, x, x],
        [y + tick, y, y, y + tick],
        color=ink.INK,
        linewidth=1.3,
        gid=ink.FURNITURE,
    )
    axes.text(
        x - length / 2,
        y + tick,
        round_distance(1000 * length),
        ha="center",
        va="bottom",
        gid=ink.FURNITURE,
    )
    top = frame.north - 0.03 * frame.height
    axes.annotate(
        "N",
        xy=(x, top),
        xytext=(0, -30),
        textcoords="offset points",
        ha="center",
        va="center",
        fontweight="bold",
        gid=ink.FURNITURE,
        arrowprops={"arrowstyle": "-|>", "color": ink.INK, "linewidth": 1.2, "shrinkA": 1},
    )


def _furniture(frame: Frame) -> NDArray[np.float64]:
    """Points on the scale bar and the arrow, which a name had better not hide; (n, 2)."""
    bar = np.linspace(0.78, 0.97, 12)
    x = frame.west + frame.width * np.concatenate([bar, bar, [0.97] * 3])
    share = np.concatenate([np.full(12, 0.05), np.full(12, 0.085), [0.9, 0.93, 0.97]])
    return np.stack([x, frame.south + frame.height * share], axis=1)


def _round_length(wanted_km: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(wanted_km))
    return max(m * magnitude for m in (1, 2, 5) if m * magnitude <= wanted_km)
