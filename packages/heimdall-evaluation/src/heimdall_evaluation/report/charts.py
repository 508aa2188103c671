"""Charts of a report: errors by method, calibration, conditions, training, and spectrograms."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from heimdall_models import error_m
from matplotlib import colormaps
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from heimdall_evaluation.coverage import LEVELS, coverage, levels_of_truths, predicted_error_m
from heimdall_evaluation.report import svg
from heimdall_evaluation.report.quantities import decimal, round_distance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, ReportContents, SessionSpectrograms

_DASHES = ((5, 2), (2, 2), (7, 2, 2, 2), (1, 2), (9, 2), (4, 1, 1, 1), (3, 1))
"""Baselines differ by dash as well as by colour."""


class Curve(NamedTuple):
    """Errors of one method, (n,) in metres, and the look of their distribution."""

    error_m: NDArray[np.float64]
    colour: str
    linewidth: float
    dashes: tuple[int, ...] = ()
    """Lengths of strokes and gaps; empty for a solid line."""


# Errors by method


def error_distribution_svg(contents: ReportContents) -> str:
    """Cumulative distributions of the errors of the network and of the baselines."""
    curves = [
        Curve(baseline.error_m, svg.BASELINES[k % len(svg.BASELINES)], 1.5, _DASHES[k % 7])
        for k, baseline in enumerate(contents.baselines)
    ]
    curves.append(Curve(contents.evaluation.error_m, svg.NETWORK, 2.3))
    return distributions_svg(
        curves, 3.7, "errors", "Cumulative distribution of the error by method"
    )


def distributions_svg(
    curves: Sequence[Curve], height_in: float, name: str, description: str
) -> str:
    """Cumulative distributions of errors, on a logarithmic axis, medians marked."""
    bottom = 0.5 / height_in
    with svg.chart(height_in, (0.09, bottom, 0.875, 1 - bottom - 0.24 / height_in)) as (
        figure,
        axes,
    ):
        for curve in curves:
            known = np.sort(curve.error_m[np.isfinite(curve.error_m)])
            if known.size == 0:
                continue
            reached = np.arange(known.size + 1) / known.size
            look: dict[str, Any] = {"linewidth": curve.linewidth}
            if curve.dashes:
                look["dashes"] = curve.dashes
            axes.step([known[0], *known], reached, where="post", color=curve.colour, **look)
            dot: dict[str, Any] = {"edgecolor": svg.PAGE, "linewidth": 1, "zorder": 5}
            axes.scatter([np.median(known)], [0.5], s=34, color=curve.colour, **dot)
        axes.axhline(0.5, color=svg.MUTED, linewidth=0.8, dashes=(1, 3))
        axes.set(ylim=(0, 1.01), xlabel="error")
        svg.label_above(axes, "share of sessions within that error")
        _percent_axis(axes, "y", np.linspace(0, 1, 5))
        distance_axis(axes, np.concatenate([curve.error_m for curve in curves]), "x")
        return svg.render(figure, name, description)


def distance_axis(axes: Axes, values_m: NDArray[np.float64], which: Literal["x", "y"]) -> None:
    """Make an axis of metres logarithmic, labelled 1, 2, 5 or, if there are many, by decades."""
    known = values_m[np.isfinite(values_m) & (values_m > 0)]
    least, most = (known.min(), known.max()) if known.size else (1.0, 1000.0)
    least, most = min(least, most / 3), max(most, least * 3)
    low, high = max(least / 1.25, most / 1e5), most * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, labels=[round_distance(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def draw_diagonal(axes: Axes) -> None:
    """Draw the line of equal distances across logarithmic axes."""
    ends = [1e-3, 1e9]
    axes.plot(ends, ends, color=svg.MUTED, linewidth=1, dashes=(5, 3), zorder=1)


def _percent_axis(axes: Axes, which: Literal["x", "y"], ticks: Iterable[float]) -> None:
    ticks = list(ticks)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, labels=[f"{tick:.0%}" for tick in ticks])


# Calibration


def coverage_svg(evaluation: Evaluation) -> str:
    """Observed over claimed coverage of the ellipses from 10 to 95 %, with its 95 % interval."""
    curve = [coverage(evaluation, level) for level in LEVELS]
    claimed = [point.claimed for point in curve]
    observed = [point.observed.value for point in curve]
    with svg.chart(4.3, (0.09, 0.115, 0.875, 0.83)) as (figure, axes):
        coverage_axes(axes)
        low = [point.observed.low for point in curve]
        high = [point.observed.high for point in curve]
        axes.fill_between(claimed, low, high, color=svg.NETWORK, alpha=0.16, linewidth=0)
        axes.plot(claimed, observed, color=svg.NETWORK, linewidth=2, marker="o", markersize=3.5)
        for x, y in zip(claimed, observed, strict=True):
            if x not in (0.68, 0.95):
                continue
            crowded = x < 0.9 < y
            axes.plot([x, x], [x, y], color=svg.WARNING, linewidth=1.4)
            axes.scatter([x], [y], s=64, color=svg.NETWORK, edgecolor=svg.PAGE, zorder=5)
            axes.annotate(
                f"{x:.0%} ellipse holds {y:.0%}",
                (x, y),
                xytext=(10, -14) if crowded else (-10, 7),
                textcoords="offset points",
                ha="left" if crowded else "right",
                gid=svg.OUTLINED,
            )
        return svg.render(figure, "coverage", "Observed over claimed coverage of the ellipses")


def coverage_axes(axes: Axes) -> None:
    """Make axes those of observed over claimed coverage, with the line of exact claims."""
    axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=1, dashes=(5, 3))
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="probability that the ellipse claims")
    svg.label_above(axes, "truths inside")
    for which in ("x", "y"):
        _percent_axis(axes, which, (0, 0.25, 0.5, 0.75, 1))


def sigma_svg(evaluation: Evaluation) -> str:
    """Actual over predicted error of each session, with the root mean squares of groups."""
    predicted = predicted_error_m(evaluation.sigma_m)

    def rms(values: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean(np.square(values))))

    with svg.chart(4.3, (0.125, 0.115, 0.84, 0.83)) as (figure, axes):
        axes.scatter(predicted, evaluation.error_m, s=14, color=svg.NETWORK, alpha=0.5, linewidth=0)
        groups = _groups(predicted, at_least=8)
        means = np.array([[rms(predicted[g]), rms(evaluation.error_m[g])] for g in groups])
        axes.plot(*means.T, color=svg.FOREGROUND, linewidth=1.3, marker="D", markersize=5, zorder=4)
        draw_diagonal(axes)
        distance_axis(axes, np.concatenate([predicted, means[:, 0]]), "x")
        distance_axis(axes, np.concatenate([evaluation.error_m, means[:, 1]]), "y")
        axes.set(xlabel="error that sigma predicts (root mean square)")
        svg.label_above(axes, "actual error")
        return svg.render(figure, "sigma", "Actual error over the error that sigma predicts")


def pit_svg(evaluation: Evaluation) -> str:
    """Histogram of the ellipse that each truth lies on, flat for an honest network.

    The band is where 95 % of such counts fall by chance if all sessions are independent.
    """
    n, n_bins = len(evaluation), 10
    counts, edges = np.histogram(levels_of_truths(evaluation), bins=n_bins, range=(0, 1))
    expected = n / n_bins
    half = 1.96 * np.sqrt(n * (1 - 1 / n_bins) / n_bins)
    with svg.chart(3.4, (0.09, 0.145, 0.875, 0.775)) as (figure, axes):
        axes.axhspan(max(0.0, expected - half), expected + half, color=svg.NETWORK, alpha=0.13)
        axes.stairs(counts, edges, fill=True, color=svg.NETWORK, alpha=0.55)
        axes.axhline(expected, color=svg.MUTED, linewidth=1, dashes=(5, 3))
        _percent_axis(axes, "x", np.linspace(0, 1, 6))
        axes.set(xlim=(0, 1), ylim=(0, max(counts.max(), expected + half) * 1.12))
        axes.set(xlabel="probability of the ellipse that the truth lies on")
        svg.label_above(axes, "sessions")
        return svg.render(figure, "pit", "Histogram of the ellipse that each truth lies on")


# Conditions


def known_snr(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(n,): true for sessions with a known signal-to-noise ratio."""
    if evaluation.snr_db is None:
        return np.zeros(len(evaluation), dtype=np.bool_)
    return np.asarray(np.isfinite(evaluation.snr_db), dtype=np.bool_)


def snr_svg(evaluation: Evaluation) -> str:
    """Error over signal-to-noise ratio, with medians; empty if no ratio is known."""
    known = known_snr(evaluation)
    if not known.any():
        return ""
    return _error_over(
        np.asarray(evaluation.snr_db, dtype=np.float64)[known],
        evaluation.error_m[known],
        "signal-to-noise ratio, dB",
        "snr",
        "Error over signal-to-noise ratio",
    )


def distance_svg(contents: ReportContents) -> str:
    """Error over the distance from the transmitter to the nearest receiver, with medians."""
    return _error_over(
        nearest_receiver_m(contents) / 1000,
        contents.evaluation.error_m,
        "from the transmitter to the nearest receiver, km",
        "distance",
        "Error over distance from the nearest receiver",
    )


def nearest_receiver_m(contents: ReportContents) -> NDArray[np.float64]:
    """(n,): distance of each transmitter from the receiver nearest to it, heard or not."""
    truth_deg = contents.evaluation.truth_deg
    places = [(r.latitude_deg, r.longitude_deg) for r in contents.receivers]
    away_m = [error_m(np.broadcast_to(place, truth_deg.shape), truth_deg) for place in places]
    return np.asarray(np.min(away_m, axis=0), dtype=np.float64)


def receivers_svg(evaluation: Evaluation) -> str:
    """Error by number of receivers that heard the session, with medians."""
    with svg.chart(3.4, (0.125, 0.145, 0.84, 0.775)) as (figure, axes):
        _error_axis(axes, evaluation.error_m)
        present = np.unique(evaluation.n_present)
        for heard in present:
            errors_m = evaluation.error_m[evaluation.n_present == heard]
            # Steps of the golden ratio spread the dots evenly, however many there are.
            aside = (np.arange(len(errors_m)) * 0.618034 % 1 - 0.5) * 0.5
            axes.scatter(heard + aside, errors_m, s=14, color=svg.NETWORK, alpha=0.5, linewidth=0)
            median = [float(np.median(errors_m))] * 2
            axes.plot([heard - 0.32, heard + 0.32], median, color=svg.FOREGROUND, linewidth=2.2)
        labels = [f"{heard} (n = {np.sum(evaluation.n_present == heard)})" for heard in present]
        axes.set_xticks(present, labels)
        axes.set(xlabel="receivers that heard it", xlim=(present.min() - 0.6, present.max() + 0.6))
        return svg.render(figure, "receivers", "Error by number of receivers")


def _error_over(
    x: NDArray[np.float64], errors_m: NDArray[np.float64], xlabel: str, name: str, description: str
) -> str:
    """Errors over a quantity, (n,) each, with the medians of groups of equal size."""
    with svg.chart(3.4, (0.125, 0.145, 0.84, 0.775)) as (figure, axes):
        _error_axis(axes, errors_m)
        axes.scatter(x, errors_m, s=14, color=svg.NETWORK, alpha=0.5, linewidth=0)
        middles = [[np.median(x[g]), np.median(errors_m[g])] for g in _groups(x, at_least=10)]
        line = np.transpose(middles)
        axes.plot(*line, color=svg.FOREGROUND, linewidth=1.3, marker="D", markersize=5)
        axes.set(xlabel=xlabel)
        return svg.render(figure, name, description)


def _error_axis(axes: Axes, errors_m: NDArray[np.float64]) -> None:
    distance_axis(axes, errors_m, "y")
    svg.label_above(axes, "error")


def _groups(values: NDArray[np.float64], *, at_least: int) -> list[NDArray[np.int64]]:
    """Rows in up to six groups of equal size, from the least values to the largest."""
    return np.array_split(np.argsort(values), max(1, min(6, len(values) // at_least)))


# Training


def best_epoch(curve: LearningCurve) -> EpochRecord | None:
    """The epoch that was evaluated: the named one, else that of the least validation loss."""
    named = [epoch for epoch in curve.history if epoch.epoch == curve.best_epoch]
    finite = [epoch for epoch in curve.history if math.isfinite(epoch.val_loss)]
    return named[0] if named else min(finite, key=lambda epoch: epoch.val_loss, default=None)


def has_errors(curve: LearningCurve) -> bool:
    """Return True if the validation error was measured in any epoch."""
    return any(math.isfinite(epoch.val_error_m_median) for epoch in curve.history)


def loss_curve_svg(curve: LearningCurve, name: str) -> str:
    """Training and validation loss by epoch, under a name unique on the page."""
    return _epochs_svg(curve, name, "val_loss", "loss", "Training and validation loss by epoch")


def error_curve_svg(curve: LearningCurve, name: str) -> str:
    """Median error of the validation sessions by epoch, under a name unique on the page."""
    label, description = "median error of the validation sessions", "Median validation error"
    return _epochs_svg(curve, name, "val_error_m_median", label, f"{description} by epoch")


def _epochs_svg(curve: LearningCurve, name: str, field: str, label: str, description: str) -> str:
    """A field of the epochs, with the best one marked; beside a loss, that of training."""
    is_loss = field == "val_loss"
    left = 0.105 if is_loss else 0.125
    with svg.chart(3.2, (left, 0.15, 0.965 - left, 0.76)) as (figure, axes):
        epochs = [epoch.epoch for epoch in curve.history]
        if is_loss:
            losses = [epoch.train_loss for epoch in curve.history]
            axes.plot(epochs, losses, color=svg.SECOND, linewidth=1.6)
        values = [getattr(epoch, field) for epoch in curve.history]
        axes.plot(epochs, values, color=svg.NETWORK, linewidth=2.1)
        if not is_loss:
            distance_axis(axes, np.array(values, dtype=np.float64), "y")
        if (best := best_epoch(curve)) is not None:
            axes.axvline(best.epoch, color=svg.MUTED, linewidth=0.9, dashes=(2, 3))
            if math.isfinite(value := getattr(best, field)):
                at = ([best.epoch], [value])
                axes.scatter(*at, s=52, color=svg.NETWORK, edgecolor=svg.PAGE, zorder=5)
        svg.label_above(axes, label)
        axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return svg.render(figure, name, description)


# Spectrograms


class SpectrogramPicture(NamedTuple):
    """The network's input for one session, as a picture with a pixel for each value."""

    source_name: str
    session_id: str
    names: tuple[str, ...]
    source: str
    """A `data:` address."""
    about: str


def pictures(
    evaluation: Evaluation, spectrograms: Iterable[SessionSpectrograms]
) -> list[SpectrogramPicture]:
    """A picture for each session, receivers side by side on the colour scale of those heard."""
    sources = dict(zip(evaluation.session_ids, evaluation.source_names, strict=True))
    found = []
    for session in spectrograms:
        heard = np.array(session.heard, dtype=np.bool_)
        low, high, scale = 0.0, 1.0, "nothing was heard"
        if heard.any():
            low, high = map(float, np.percentile(session.levels_db[heard], [2.0, 99.8]))
            scale = f"{decimal(low, 0)} to {decimal(high, 0)} dB"
        found.append(
            SpectrogramPicture(
                source_name=sources.get(session.session_id, ""),
                session_id=session.session_id,
                names=session.receivers,
                source=_png(session.levels_db, heard, low, high),
                about=f"{scale}; {int(heard.sum())} of {len(heard)} receivers",
            )
        )
    return found


def _png(levels_db: NDArray[np.float32], heard: NDArray[np.bool_], low: float, high: float) -> str:
    """Address of a picture `(bands, receivers * (frames + 1))`, a clear line after each one."""
    colours = colormaps["viridis"](np.clip((levels_db - low) / max(high - low, 1e-6), 0, 1))
    colours[~heard] = (0.6, 0.6, 0.6, 0.35)
    gap = np.zeros((*colours.shape[:2], 1, 4))
    panels = np.concatenate([colours, gap], axis=2)[:, ::-1]  # the highest band on top
    pixels = np.round(255 * np.concatenate(list(panels), axis=1)).astype(np.uint8)
    written = io.BytesIO()
    # Matplotlib's own note names its version, with which the bytes would change.
    imsave(written, pixels, format="png", metadata={"Software": "heimdall"})
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
