"""The map: receivers, where the transmitters were, and where the network put them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import EllipseCollection, LineCollection

from heimdall_trainer.report import ink
from heimdall_trainer.report.calibration import radius_sigmas
from heimdall_trainer.report.projection import Frame, graticule, outline_km, to_km
from heimdall_trainer.report.quantities import distance, round_distance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation, ReportContents

__all__ = ["draw_ellipses", "frame_of", "map_svg", "session_note"]

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
        _draw_ground(axes, contents, frame)
        _draw_sessions(axes, contents, chosen)
        _draw_receivers(axes, contents, frame)
        _draw_scale(axes, frame)
        name = "map-narrow" if narrow else "map-wide"
        notes = {f"session-{k}": session_note(evaluation, k) for k in range(len(evaluation))}
        return ink.svg(figure, name, _description(contents), notes=notes)


def session_note(evaluation: Evaluation, k: int) -> str:
    """What the reader learns of a session by pointing at it."""
    east, north = (distance(float(sigma)) for sigma in evaluation.sigma_m[k])
    return (
        f"{evaluation.source_names[k]}, session {evaluation.session_ids[k]}: "
        f"off by {distance(float(evaluation.error_m[k]))}, "
        f"sigma {east} east, {north} north, {evaluation.n_present[k]} receivers"
    )


def draw_ellipses(
    axes: Axes, centres_km: NDArray[np.float64], sigma_m: NDArray[np.float64]
) -> None:
    """The one-sigma ellipses, filled, and the 95 % ellipses, thin; (n, 2) each."""
    for radius, fill, line in ((radius_sigmas(0.95), 0.0, 0.3), (1.0, 0.13, 0.9)):
        diameters = 2 * radius * sigma_m / 1000
        for alpha, filled in ((fill, True), (line, False)):
            axes.add_collection(
                EllipseCollection(
                    diameters[:, 0],
                    diameters[:, 1],
                    np.zeros(len(diameters)),
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


def _description(contents: ReportContents) -> str:
    return (
        f"Map of {len(contents.receivers)} receivers and of {len(contents.evaluation)} held-out "
        f"sessions, each a line from the true position to the estimate"
    )


def _draw_ground(axes: Axes, contents: ReportContents, frame: Frame) -> None:
    for line in graticule(contents.region, frame):
        x, y = line.points_km.T
        axes.plot(x, y, color=ink.GRID, linewidth=0.8, zorder=0)
        if line.along == "meridian":
            at = (float(np.interp(frame.south, y, x)), frame.south + 0.012 * frame.height)
            style: dict[str, Any] = {"ha": "center", "va": "bottom"}
        else:
            at = (frame.west + 0.008 * frame.width, float(np.interp(frame.west, x, y)))
            style = {"ha": "left", "va": "center"}
        if frame.holds(np.array([at]))[0]:
            axes.text(*at, line.label, color=ink.MUTED, fontsize=8, gid=ink.HALO, **style)
    border = outline_km(contents.region)
    axes.plot(*border.T, color=ink.MUTED, linewidth=0.9, dashes=(5, 4), alpha=0.8, zorder=1)


def _draw_sessions(axes: Axes, contents: ReportContents, chosen: Sequence[int]) -> None:
    evaluation = contents.evaluation
    truth = to_km(contents.region, evaluation.truth_deg)
    estimate = to_km(contents.region, evaluation.position_deg)
    picked = np.array(chosen, dtype=np.int64)
    draw_ellipses(axes, estimate[picked], evaluation.sigma_m[picked])
    for k in range(len(evaluation)):
        strong = k in chosen
        axes.add_collection(
            LineCollection(
                [np.stack([truth[k], estimate[k]])],
                colors=ink.NETWORK,
                linewidths=1.7 if strong else 0.9,
                alpha=1.0 if strong else 0.45,
                zorder=4,
                gid=f"session-{k}",
            )
        )
    axes.scatter(
        truth[:, 0],
        truth[:, 1],
        s=13,
        facecolor=ink.PAGE,
        edgecolor=ink.TRUTH,
        linewidth=1,
        zorder=5,
    )
    axes.scatter(estimate[:, 0], estimate[:, 1], s=7, color=ink.NETWORK, linewidth=0, zorder=5)
    axes.scatter(
        estimate[picked, 0], estimate[picked, 1], s=26, color=ink.NETWORK, linewidth=0, zorder=6
    )
    for number, k in enumerate(chosen, start=1):
        away = np.sign(truth[k] - estimate[k])
        axes.annotate(
            str(number),
            (truth[k, 0], truth[k, 1]),
            xytext=(6 * away[0], 6 * away[1]),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold",
            gid=ink.HALO,
            zorder=8,
        )


def _draw_receivers(axes: Axes, contents: ReportContents, frame: Frame) -> None:
    places = to_km(contents.region, [(r.latitude_deg, r.longitude_deg) for r in contents.receivers])
    axes.scatter(
        places[:, 0],
        places[:, 1],
        marker="^",
        s=95,
        color=ink.RECEIVER,
        edgecolor=ink.PAGE,
        linewidth=1,
        zorder=7,
    )
    for names, place in _together(contents, places, within_km=frame.width / 30):
        right = place[0] < frame.west + 0.7 * frame.width
        axes.annotate(
            names,
            (place[0], place[1]),
            xytext=(8 if right else -8, 1),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=10,
            fontweight="bold",
            color=ink.RECEIVER,
            gid=ink.HALO,
            zorder=9,
        )


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


def _draw_scale(axes: Axes, frame: Frame) -> None:
    length = _round_length(frame.width / 6)
    x, y = frame.east - 0.03 * frame.width, frame.south + 0.05 * frame.height
    tick = 0.008 * frame.height
    axes.plot(
        [x - length, x - length, x, x], [y + tick, y, y, y + tick], color=ink.INK, linewidth=1.3
    )
    axes.text(
        x - length / 2,
        y + tick,
        round_distance(1000 * length),
        ha="center",
        va="bottom",
        gid=ink.HALO,
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
        gid=ink.HALO,
        arrowprops={"arrowstyle": "-|>", "color": ink.INK, "linewidth": 1.2, "shrinkA": 1},
    )


def _round_length(wanted_km: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(wanted_km))
    return max(m * magnitude for m in (1, 2, 5) if m * magnitude <= wanted_km)
