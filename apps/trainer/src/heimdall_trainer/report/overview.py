"""The map: receivers, where the transmitters were, and where the network put them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import EllipseCollection, LineCollection

from heimdall_trainer.report import ink
from heimdall_trainer.report.calibration import radius_sigmas
from heimdall_trainer.report.ground import draw_ground, draw_receivers, draw_scale
from heimdall_trainer.report.projection import Frame, to_km
from heimdall_trainer.report.quantities import distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation, ReportContents

__all__ = [
    "MAX_DRAWN",
    "draw_ellipses",
    "drawn_sessions",
    "ellipse_axes",
    "frame_of",
    "map_svg",
    "session_note",
]

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
    if contents.beside_deg is not None:
        _draw_beside(axes, truth[picked], to_km(contents.region, contents.beside_deg[picked]))
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
