"""The map of receivers, true positions and estimates, and close-ups of a few sessions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_models.metrics import offset_east_north_m
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.figure import Figure

from heimdall_evaluation.coverage import ONE_SIGMA_SHARE, radius_sigmas
from heimdall_evaluation.quantities import count, distance, percent, round_distance
from heimdall_evaluation.report import svg
from heimdall_evaluation.report.projection import Frame, graticule, outline_km, to_km
from heimdall_evaluation.report.sentences import session_kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_models import Region
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, ReportContents

MAX_DRAWN = 400
"""Sessions on the map; more lines hide each other."""
N_CLOSEUPS = 12
_OUTLIER_KM = 300.0
"""Estimates farther off than this do not widen the picture."""
_LETTER, _LINE = 6.6, 13.0
"""Approximate width of a bold letter and height of a line, in points."""
_RING: dict[str, Any] = {"facecolor": svg.PAGE, "edgecolor": svg.TRUTH, "zorder": 5}
_DOT: dict[str, Any] = {"color": svg.NETWORK, "linewidth": 0, "zorder": 5}
_OUTLINE: dict[str, Any] = {"facecolors": "none", "edgecolors": svg.NETWORK}
_BOLD: dict[str, Any] = {"va": "center", "fontweight": "bold"}


def map_figure(contents: ReportContents, chosen: Sequence[int]) -> tuple[str, str, str]:
    """The map for a wide and for a narrow page, and their caption.

    Every session is a line from truth to estimate; the chosen ones are numbered, with ellipses.
    """
    wide, narrow = (_map_svg(contents, chosen, narrow=narrow) for narrow in (False, True))
    n, kind = len(contents.evaluation), session_kind(contents.evaluation)
    estimates = to_km(contents.region, contents.evaluation.position_deg)
    outside = int(np.sum(~_frame_of(contents, narrow=False).holds(estimates)))
    unseen = f" {count(outside, 'estimate')} fell outside the picture; the line points there."
    thinned = f" ({MAX_DRAWN} are drawn, at evenly spaced ranks of error)"
    return (
        wide,
        narrow,
        (
            f"Each line is the error of one of {count(n, kind)}{thinned if n > MAX_DRAWN else ''}, "
            "from the true position (ring) to the estimate (dot). The dashed line is the border of "
            f"the region that the model was made for.{unseen if outside else ''}"
        ),
    )


def _map_svg(contents: ReportContents, chosen: Sequence[int], *, narrow: bool) -> str:
    n, width = len(contents.evaluation), 5.0 if narrow else 10.0
    frame = _frame_of(contents, narrow=narrow)
    with svg.style():
        figure = Figure(figsize=(width, width * frame.height / frame.width))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(frame.west, frame.east))
        axes.set(ylim=(frame.south, frame.north), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _draw_graticule(axes, contents.region, frame)
        _draw_sessions(axes, contents, chosen, frame)
        _draw_receivers(axes, contents, frame, km_per_point=frame.width / (72 * width))
        _draw_scale(axes, frame)
        description = (
            f"Map of {len(contents.receivers)} receivers and of {n} held-out "
            "sessions, each a line from the true position to the estimate"
        )
        name = "map-narrow" if narrow else "map-wide"
        notes = _notes(contents.evaluation, range(n))
        drawn = svg.render(figure, name, description, notes=notes)
    # The page's scale bar needs the width while it magnifies the map.
    return drawn.replace("<svg ", f'<svg data-km="{frame.width:.3f}" ', 1)


def _frame_of(contents: ReportContents, *, narrow: bool) -> Frame:
    """The frame that shows receivers and truths, and all estimates but those very far off."""
    shape = (0.8, 1.25) if narrow else (0.5, 0.78)
    evaluation = contents.evaluation
    farthest_m = 3 * float(np.percentile(evaluation.error_m, 90)) + 1
    shown = evaluation.position_deg[evaluation.error_m < min(_OUTLIER_KM * 1000, farthest_m)]
    points = [*contents.places_deg, *evaluation.truth_deg, *shown]
    return Frame.around(to_km(contents.region, points), shape)


def choose_by_rank(evaluation: Evaluation) -> list[int]:
    """Up to twelve sessions at evenly spaced ranks of error, least first.

    Of the sessions about a rank, one of a transmitter not yet chosen is preferred.
    """
    order = np.argsort(evaluation.error_m, kind="stable")
    wanted = np.linspace(0, len(order) - 1, min(N_CLOSEUPS, len(order)))
    chosen: list[int] = []
    for rank in wanted:
        by_nearness = order[np.argsort(np.abs(np.arange(len(order)) - rank), kind="stable")]
        free = [int(k) for k in by_nearness if k not in chosen]
        taken = {evaluation.source_names[k] for k in chosen}
        near = free[: max(1, len(order) // len(wanted))]
        chosen.append(next((k for k in near if evaluation.source_names[k] not in taken), free[0]))
    return sorted(chosen, key=lambda k: float(evaluation.error_m[k]))


def drawn_sessions(evaluation: Evaluation, chosen: Sequence[int]) -> list[int]:
    """All sessions, or `MAX_DRAWN` at evenly spaced ranks of error, and the chosen ones."""
    order = np.argsort(evaluation.error_m, kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(len(order), MAX_DRAWN)).round().astype(np.int64)
    return sorted({*order[ranks].tolist(), *chosen})


def _notes(evaluation: Evaluation, rows: Sequence[int]) -> dict[str, str]:
    """Text over each session, by its gid."""
    notes = {}
    for k in rows:
        east, north = (distance(float(sigma)) for sigma in evaluation.sigma_m[k])
        notes[f"session-{k}"] = (
            f"{evaluation.source_names[k]}, session {evaluation.session_ids[k]}: "
            f"off by {distance(float(evaluation.error_m[k]))}, "
            f"sigma {east} east, {north} north, {evaluation.n_present[k]} receivers"
        )
    return notes


def _draw_graticule(axes: Axes, region: Region, frame: Frame) -> None:
    """Meridians and parallels with their degrees, and the border of the region."""
    for label, is_meridian, points_km in graticule(region, frame):
        x, y = points_km.T
        axes.plot(x, y, color=svg.GRID, linewidth=0.8, zorder=0)
        if is_meridian:
            at = (float(np.interp(frame.south, y, x)), frame.south + 0.012 * frame.height)
            align, margin_km = ("center", "bottom"), (0.05 * frame.width, 0.0)
        else:
            at = (frame.west + 0.008 * frame.width, float(np.interp(frame.west, x, y)))
            align, margin_km = ("left", "center"), (0.0, 0.03 * frame.height)
        if frame.holds([at], margin_km)[0]:
            look: dict[str, Any] = {"color": svg.MUTED, "fontsize": 8, "ha": align[0]}
            gid = svg.anchored(*frame.share_of(at))
            axes.text(*at, label, va=align[1], gid=gid, **look)
    border = outline_km(region)
    axes.plot(*border.T, color=svg.MUTED, linewidth=0.9, dashes=(5, 4), alpha=0.8, zorder=1)


def _draw_receivers(
    axes: Axes, contents: ReportContents, frame: Frame, *, km_per_point: float
) -> None:
    """Triangles with names, each name where it hides the fewest true positions.

    Receivers that are too close for a label each share one.
    """
    places = to_km(contents.region, contents.places_deg)
    truths = to_km(contents.region, contents.evaluation.truth_deg)
    # Labels avoid the scale bar and the north arrow too.
    bar = np.linspace(0.78, 0.97, 12)
    x = frame.west + frame.width * np.concatenate([bar, bar, [0.97] * 3])
    shares = np.concatenate([np.full(12, 0.05), np.full(12, 0.085), [0.9, 0.93, 0.97]])
    scale = np.stack([x, frame.south + frame.height * shares], axis=1)
    marks = np.concatenate([truths, scale])
    triangle: dict[str, Any] = {
        "marker": "^",
        "s": 95,
        "color": svg.RECEIVER,
        "edgecolor": svg.PAGE,
    }
    axes.scatter(*places.T, **triangle, linewidth=1, zorder=8.5)
    unlabelled = list(range(len(places)))
    while unlabelled:
        away = np.hypot(*(places - places[unlabelled[0]]).T)
        near = [k for k in unlabelled if away[k] <= frame.width / 30]
        unlabelled = [k for k in unlabelled if k not in near]
        names = ", ".join(contents.receivers[k].name for k in near)
        place = places[near].mean(axis=0)
        label = km_per_point * np.array([_LETTER * len(names), _LINE])
        east, north = emptiest_side(place, label, frame, marks)
        look = {"color": svg.RECEIVER, "fontsize": 10, "ha": ("right", "center", "left")[east + 1]}
        gid = svg.anchored(*frame.share_of(place))
        svg.text_beside(
            axes, names, place, (9 * east, 11 * north), gid=gid, zorder=9, **_BOLD, **look
        )


def emptiest_side(
    place_km: NDArray[np.float64],
    size_km: NDArray[np.float64],
    frame: Frame,
    marks_km: NDArray[np.float64],
) -> tuple[int, int]:
    """Side, east and north, each -1, 0 or 1, on which a label hides the fewest marks.

    A side where the frame's edge cuts the label comes last. The label is beside `place_km`, (2,),
    and of `size_km`, (2,); marks are (n, 2).
    """

    def n_hidden(side: tuple[int, int]) -> int:
        middle = place_km + (size_km + size_km[1]) / 2 * side
        corners = middle + np.array([[1], [-1]]) * size_km / 2
        covered = (np.abs(marks_km - middle) <= size_km / 2).all(axis=1)
        return int(covered.sum()) + (0 if frame.holds(corners).all() else len(marks_km) + 1)

    return min(((1, 0), (-1, 0), (0, -1), (0, 1)), key=n_hidden)


def _draw_scale(axes: Axes, frame: Frame) -> None:
    """A bar of a round length at the lower right, and north at the upper right."""
    magnitude = 10.0 ** math.floor(math.log10(frame.width / 6))
    length = max(m * magnitude for m in (1, 2, 5) if m * magnitude <= frame.width / 6)
    x, y = frame.east - 0.03 * frame.width, frame.south + 0.05 * frame.height
    tick, gid = y + 0.008 * frame.height, svg.WHOLE_MAP_ONLY
    bar = ([x - length, x - length, x, x], [tick, y, y, tick])
    axes.plot(*bar, color=svg.FOREGROUND, linewidth=1.3, gid=gid)
    label = round_distance(1000 * length)
    axes.text(x - length / 2, tick, label, ha="center", va="bottom", gid=gid)
    tip = (x, frame.north - 0.03 * frame.height)
    arrow = {"arrowstyle": "-|>", "color": svg.FOREGROUND, "linewidth": 1.2, "shrinkA": 1}
    svg.text_beside(axes, "N", tip, (0, -30), ha="center", gid=gid, arrowprops=arrow, **_BOLD)


def _draw_sessions(
    axes: Axes, contents: ReportContents, chosen: Sequence[int], frame: Frame
) -> None:
    evaluation, picked = contents.evaluation, list(chosen)
    truth = to_km(contents.region, evaluation.truth_deg)
    estimate = to_km(contents.region, evaluation.position_deg)
    if contents.map_baseline_deg is not None:
        # Squares on dashed lines, for the numbered sessions only.
        other = to_km(contents.region, contents.map_baseline_deg[picked])
        lines = list(np.stack([truth[picked], other], axis=1))
        dashed: dict[str, Any] = {"linewidths": 0.9, "linestyles": [(0, (4, 3))], "zorder": 3}
        axes.add_collection(LineCollection(lines, colors=svg.SECOND, **dashed))
        axes.scatter(*other.T, **_DOT | {"s": 16, "marker": "s", "color": svg.SECOND, "zorder": 4})
    _draw_both_ellipses(axes, estimate[picked], evaluation, picked, outer_alpha=0.25)
    drawn = drawn_sessions(evaluation, chosen)
    others = [k for k in drawn if k not in picked]
    faint = _OUTLINE | {"linewidths": 0.7, "alpha": 0.5, "zorder": 2.5, "gid": svg.ON_REQUEST}
    _draw_ellipses(axes, estimate[others], evaluation, others, 1.0, **faint)
    for k in drawn:
        width, alpha = (1.7, 1.0) if k in picked else (0.9, 0.45)
        look: dict[str, Any] = {"linewidths": width, "alpha": alpha, "gid": f"session-{k}"}
        line = [np.stack([truth[k], estimate[k]])]
        axes.add_collection(LineCollection(line, colors=svg.NETWORK, zorder=4, **look))
    axes.scatter(*truth[drawn].T, **_RING | {"s": 13, "linewidth": 1})
    axes.scatter(*estimate[drawn].T, **_DOT | {"s": 7})
    axes.scatter(*estimate[picked].T, **_DOT | {"s": 26})
    for number, k in enumerate(chosen, start=1):
        # On the side of the true position where the line does not start.
        offset, gid = 6 * np.sign(truth[k] - estimate[k]), svg.anchored(*frame.share_of(truth[k]))
        look = {"ha": "center", "fontsize": 9, "zorder": 8, "gid": gid}
        svg.text_beside(axes, str(number), truth[k], offset, **_BOLD, **look)


def _draw_both_ellipses(
    axes: Axes,
    centres_km: NDArray[np.float64],
    evaluation: Evaluation,
    rows: list[int],
    *,
    outer_alpha: float,
) -> None:
    """Filled one-sigma ellipses and faint 95 % ellipses around centres (rows, 2)."""
    filled = {"facecolors": svg.NETWORK, "edgecolors": "none", "alpha": 0.13}
    outer, inner = _OUTLINE | {"alpha": outer_alpha}, _OUTLINE | {"alpha": 0.9}
    for radius, look in ((radius_sigmas(0.95), outer), (1.0, filled), (1.0, inner)):
        _draw_ellipses(axes, centres_km, evaluation, rows, radius, linewidths=0.9, zorder=3, **look)


def _draw_ellipses(
    axes: Axes,
    centres_km: NDArray[np.float64],
    evaluation: Evaluation,
    rows: list[int],
    radius: float,
    **look: Any,  # noqa: ANN401 - as Matplotlib takes them
) -> None:
    half_axes_m, turned_deg = ellipse_axes(evaluation.sigma_m[rows], evaluation.tilt[rows])
    widths_km, heights_km = (2 * radius * half_axes_m / 1000).T
    look |= {"units": "xy", "offsets": centres_km, "offset_transform": axes.transData}
    axes.add_collection(EllipseCollection(widths_km, heights_km, turned_deg, **look))


def ellipse_axes(
    sigma_m: NDArray[np.float64], correlation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half axes (n, 2) of one-sigma ellipses, and the angle of the first axis, (n,).

    Angles are degrees from east to north; an upright ellipse has its axes east and north.
    """
    east, north = np.square(sigma_m).T
    both = correlation * sigma_m[:, 0] * sigma_m[:, 1]
    turned = np.where(both == 0, 0.0, np.arctan2(2 * both, east - north) / 2)
    half, swing = (east + north) / 2, np.hypot((east - north) / 2, both)
    squares = np.stack([half + swing, np.maximum(half - swing, 0.0)], axis=1)
    upright = (both == 0)[:, None]
    return np.where(upright, sigma_m, np.sqrt(squares)), np.degrees(turned)


def closeups_figure(evaluation: Evaluation, chosen: Sequence[int]) -> tuple[str, str, str]:
    """Close-ups of the chosen sessions for a wide and for a narrow page, and their caption."""
    picked = list(chosen)
    # An extreme session may leave its own panel, but a typical one must not shrink.
    reach_m = evaluation.error_m[picked] / 2 + 2.6 * evaluation.sigma_m[picked].max(axis=1)
    half_km = float(np.percentile(reach_m, 75)) / 1000
    wide, narrow = (_closeups_svg(evaluation, picked, half_km, narrow=n) for n in (False, True))
    return (
        wide,
        narrow,
        (
            f"The {count(len(picked), 'numbered session')}, from the best to the worst at evenly "
            f"spaced ranks of error; every panel is {distance(2000 * half_km)} wide. The filled "
            f"one-sigma ellipse should hold the truth in {percent(ONE_SIGMA_SHARE)} of the cases, "
            f"the thin one in {percent(0.95)}."
        ),
    )


def _closeups_svg(
    evaluation: Evaluation, chosen: list[int], half_km: float, *, narrow: bool
) -> str:
    """A panel for each session, at one scale, centred between truth and estimate."""
    columns, width = (3, 5.0) if narrow else (6, 10.0)
    rows = -(-len(chosen) // columns)
    height = rows * (width / columns + 0.18)
    offset_km = offset_east_north_m(evaluation.position_deg, evaluation.truth_deg) / 1000
    ends = (-half_km, half_km)
    with svg.style():
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(0.004, 0.004, 0.996, 1 - 0.2 / height, 0.05, 0.16)
        for axes in grid.flat[len(chosen) :]:
            axes.set_visible(False)
        for number, (axes, k) in enumerate(zip(grid.flat, chosen, strict=False), start=1):
            estimate, truth = -offset_km[k] / 2, offset_km[k] / 2
            axes.set(xlim=ends, ylim=ends, aspect="equal", xticks=[], yticks=[])
            axes.spines[:].set_color(svg.GRID)
            axes.set_gid(f"session-{k}")
            _draw_both_ellipses(axes, estimate[None], evaluation, [k], outer_alpha=0.4)
            line = np.stack([truth, estimate]).T
            axes.plot(*line, color=svg.NETWORK, linewidth=1.4, zorder=4)
            axes.scatter(*truth, s=22, linewidth=1.2, **_RING)
            axes.scatter(*estimate, s=18, **_DOT)
            axes.set_title(f"{number}", loc="left", fontsize=9.5, fontweight="bold", pad=3)
            error = distance(float(evaluation.error_m[k]))
            axes.set_title(error, loc="right", fontsize=9.5, pad=3)
        name = "closeups-narrow" if narrow else "closeups-wide"
        description = f"Close-ups of {len(chosen)} sessions"
        return svg.render(figure, name, description, notes=_notes(evaluation, chosen))
