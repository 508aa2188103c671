"""The map: receivers, where the transmitters were, and where the network put them.

What the sessions are drawn on: graticule, region, receivers, scale and north.

A few sessions at close range, drawn at one scale: the claim beside the truth.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_models.metrics import offset_east_north_m
from matplotlib.collections import EllipseCollection, LineCollection

from heimdall_evaluation.coverage import radius_sigmas
from heimdall_evaluation.report import svg as ink
from heimdall_evaluation.report.projection import Frame, graticule, outline_km, to_km
from heimdall_evaluation.report.quantities import distance, round_distance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from heimdall_models import Region
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, ReportContents

__all__ = [
    "MAX_DRAWN",
    "N_CLOSEUPS",
    "choose_by_rank",
    "closeups_svg",
    "draw_ellipses",
    "draw_ground",
    "draw_receivers",
    "draw_scale",
    "drawn_sessions",
    "ellipse_axes",
    "emptiest_side",
    "frame_of",
    "half_width_km",
    "map_svg",
    "session_note",
]


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


MAX_DRAWN = 400
"""More lines than this are a blot."""

_OUTLIER_KM = 300.0
"""Estimates farther off than this do not widen the picture."""


def frame_of(contents: ReportContents, shape: tuple[float, float]) -> Frame:
    """The frame that shows receivers and truths, and all but absurd estimates."""
    evaluation = contents.evaluation
    sane = evaluation.error_m < min(
        _OUTLIER_KM * 1000, 3 * float(np.percentile(evaluation.error_m, 90)) + 1
    )
    receivers = [(r.latitude_deg, r.longitude_deg) for r in contents.receivers]
    points = [*receivers, *evaluation.truth_deg, *evaluation.position_deg[sane]]
    return Frame.around(to_km(contents.region, points), shape)


def map_svg(contents: ReportContents, chosen: Sequence[int], *, narrow: bool = False) -> str:
    """Every held-out session as a line from truth to estimate, the chosen ones with ellipses."""
    evaluation = contents.evaluation
    frame = frame_of(contents, (0.8, 1.25) if narrow else (0.5, 0.78))
    width = 5.0 if narrow else 10.0
    with ink.drawing():
        figure = ink.sheet(width, width * frame.height / frame.width)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(frame.west, frame.east))
        axes.set(ylim=(frame.south, frame.north), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        draw_ground(axes, contents.region, frame)
        _draw_sessions(axes, contents, chosen, frame)
        draw_receivers(axes, contents, frame, width_in=width)
        draw_scale(axes, frame)
        name = "map-narrow" if narrow else "map-wide"
        notes = {f"session-{k}": session_note(evaluation, k) for k in range(len(evaluation))}
        drawn = ink.svg(figure, name, _description(contents), notes=notes)
        # What the page's scale bar needs to know while it magnifies the map.
        return drawn.replace("<svg ", f'<svg data-km="{frame.width:.3f}" ', 1)


def drawn_sessions(evaluation: Evaluation, chosen: Sequence[int]) -> list[int]:
    """All sessions, or as many as a picture bears, at evenly spaced ranks of error."""
    order = np.argsort(evaluation.error_m, kind="stable")
    n = min(len(order), MAX_DRAWN)
    picked = order[np.linspace(0, len(order) - 1, n).round().astype(np.int64)]
    return sorted({*picked.tolist(), *chosen})


def session_note(evaluation: Evaluation, k: int) -> str:
    """What the reader learns of a session by pointing at it."""
    east, north = (distance(float(sigma)) for sigma in evaluation.sigma_m[k])
    return (
        f"{evaluation.source_names[k]}, session {evaluation.session_ids[k]}: "
        f"off by {distance(float(evaluation.error_m[k]))}, "
        f"sigma {east} east, {north} north, {evaluation.n_present[k]} receivers"
    )


def draw_ellipses(
    axes: Axes,
    centres_km: NDArray[np.float64],
    sigma_m: NDArray[np.float64],
    correlation: NDArray[np.float64],
    *,
    outer_alpha: float,
) -> None:
    """The one-sigma ellipses, filled, and the 95 % ellipses, faint; (n, 2) twice and (n,)."""
    half_axes_m, turned_deg = ellipse_axes(sigma_m, correlation)
    for radius, fill, line in ((radius_sigmas(0.95), 0.0, outer_alpha), (1.0, 0.13, 0.9)):
        diameters = 2 * radius * half_axes_m / 1000
        for alpha, filled in ((fill, True), (line, False)):
            axes.add_collection(
                EllipseCollection(
                    diameters[:, 0],
                    diameters[:, 1],
                    turned_deg,
                    units="xy",
                    offsets=centres_km,
                    offset_transform=axes.transData,
                    facecolors=ink.NETWORK if filled else "none",
                    edgecolors="none" if filled else ink.NETWORK,
                    linewidths=0.9,
                    alpha=alpha,
                    zorder=3,
                )
            )


def ellipse_axes(
    sigma_m: NDArray[np.float64], correlation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half axes (n, 2) of the one-sigma ellipses, and how far the first is turned, (n,).

    Degrees from east to north; an upright ellipse has its axes east and north.
    """
    east, north = np.square(sigma_m).T
    both = correlation * sigma_m[:, 0] * sigma_m[:, 1]
    turned = np.where(both == 0, 0.0, np.arctan2(2 * both, east - north) / 2)
    half, swing = (east + north) / 2, np.hypot((east - north) / 2, both)
    squares = np.stack([half + swing, np.maximum(half - swing, 0.0)], axis=1)
    upright = (both == 0)[:, None]
    return np.where(upright, sigma_m, np.sqrt(squares)), np.degrees(turned)


def _description(contents: ReportContents) -> str:
    return (
        f"Map of {len(contents.receivers)} receivers and of {len(contents.evaluation)} held-out "
        f"sessions, each a line from the true position to the estimate"
    )


def _draw_sessions(
    axes: Axes, contents: ReportContents, chosen: Sequence[int], frame: Frame
) -> None:
    evaluation = contents.evaluation
    truth = to_km(contents.region, evaluation.truth_deg)
    estimate = to_km(contents.region, evaluation.position_deg)
    drawn, picked = drawn_sessions(evaluation, chosen), list(chosen)
    if contents.map_baseline_deg is not None:
        _draw_beside(axes, truth[picked], to_km(contents.region, contents.map_baseline_deg[picked]))
    draw_ellipses(
        axes,
        estimate[picked],
        evaluation.sigma_m[picked],
        evaluation.tilt[picked],
        outer_alpha=0.25,
    )
    others = [k for k in drawn if k not in picked]
    _draw_every_ellipse(axes, estimate[others], evaluation.sigma_m[others], evaluation.tilt[others])
    for k in drawn:
        _draw_line(axes, np.stack([truth[k], estimate[k]]), f"session-{k}", strong=k in chosen)
    ring: dict[str, Any] = {"facecolor": ink.PAGE, "edgecolor": ink.TRUTH, "linewidth": 1}
    dot: dict[str, Any] = {"color": ink.NETWORK, "linewidth": 0}
    for points, size, style in (
        (truth[drawn], 13, ring),
        (estimate[drawn], 7, dot),
        (estimate[picked], 26, dot),
    ):
        axes.scatter(points[:, 0], points[:, 1], s=size, zorder=5, **style)
    for number, k in enumerate(chosen, start=1):
        _draw_number(axes, number, truth[k], np.sign(truth[k] - estimate[k]), frame)


def _draw_every_ellipse(
    axes: Axes,
    centres_km: NDArray[np.float64],
    sigma_m: NDArray[np.float64],
    correlation: NDArray[np.float64],
) -> None:
    """The one-sigma ellipses of the sessions without a number, until then unseen."""
    half_axes_m, turned_deg = ellipse_axes(sigma_m, correlation)
    diameters_km = 2 * half_axes_m / 1000
    axes.add_collection(
        EllipseCollection(
            diameters_km[:, 0],
            diameters_km[:, 1],
            turned_deg,
            units="xy",
            offsets=centres_km,
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=ink.NETWORK,
            linewidths=0.7,
            alpha=0.5,
            zorder=2.5,
            gid=ink.EVERY,
        )
    )


def _draw_beside(axes: Axes, truth_km: NDArray[np.float64], beside_km: NDArray[np.float64]) -> None:
    """Where another method puts the same sessions: squares on dashed lines."""
    lines = LineCollection(
        list(np.stack([truth_km, beside_km], axis=1)),
        colors=ink.SECOND,
        linewidths=0.9,
        linestyles=[(0, (4, 3))],
        zorder=3,
    )
    axes.add_collection(lines)
    east, north = beside_km.T
    axes.scatter(east, north, s=16, marker="s", color=ink.SECOND, linewidth=0, zorder=4)


def _draw_line(axes: Axes, ends_km: NDArray[np.float64], gid: str, *, strong: bool) -> None:
    line = LineCollection(
        [ends_km],
        colors=ink.NETWORK,
        linewidths=1.7 if strong else 0.9,
        alpha=1.0 if strong else 0.45,
        zorder=4,
        gid=gid,
    )
    axes.add_collection(line)


def _draw_number(
    axes: Axes,
    number: int,
    place_km: NDArray[np.float64],
    away: NDArray[np.float64],
    frame: Frame,
) -> None:
    """On the side of the true position where the line does not start."""
    axes.annotate(
        str(number),
        (place_km[0], place_km[1]),
        xytext=(6 * away[0], 6 * away[1]),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold",
        gid=ink.beside(*frame.share_of(place_km)),
        zorder=8,
    )


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
