"""Charts of a report with their captions: errors, calibration, conditions, training, spectrograms.

A figure is a pair of inline SVG and caption. Errors and distances are in metres.
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from heimdall_models import error_m
from matplotlib import colormaps
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from heimdall_evaluation.coverage import (
    LEVELS,
    coverage,
    inside,
    levels_of_truths,
    predicted_error_m,
)
from heimdall_evaluation.intervals import rank_correlation
from heimdall_evaluation.quantities import count, decimal, distance, percent, round_distance
from heimdall_evaluation.report import svg

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, ReportContents, SessionSpectrograms

    Curve = tuple[NDArray[np.float64], dict[str, Any]]
    """Errors of one method, (n,), and the look of their distribution."""

_DASHES = ((5, 2), (2, 2), (7, 2, 2, 2), (1, 2), (9, 2), (4, 1, 1, 1), (3, 1))
"""Baselines differ by dash as well as by colour."""
_DOTS: dict[str, Any] = {"s": 14, "color": svg.NETWORK, "alpha": 0.5, "linewidth": 0}
_DIAMONDS: dict[str, Any] = {"color": svg.FOREGROUND, "linewidth": 1.3, "marker": "D"}
_ERROR_BOX = (0.125, 0.145, 0.84, 0.775)


def errors_figure(contents: ReportContents) -> tuple[str, str]:
    """Cumulative distributions of the errors of the network and of the baselines."""
    curves: list[Curve] = []
    for k, baseline in enumerate(contents.baselines):
        look = {"color": svg.BASELINES[k % 7], "linewidth": 1.5, "dashes": _DASHES[k % 7]}
        curves.append((baseline.error_m, look))
    errors_m = contents.evaluation.error_m
    curves.append((errors_m, {"color": svg.NETWORK, "linewidth": 2.3}))
    description = "Cumulative distribution of the error by method"
    low, median, high, p95 = map(distance, np.percentile(errors_m, [25, 50, 75, 95]))
    return distributions_svg(curves, 3.7, "errors", description), (
        f"The network's error is between {low} and {high} for the middle half of the sessions, "
        f"{median} at the median (dot) and below {p95} for {percent(0.95)}. Further left is better."
    )


def distributions_svg(
    curves: Sequence[Curve], height_in: float, name: str, description: str
) -> str:
    """Cumulative distributions of errors on a logarithmic axis, medians marked."""
    bottom = 0.5 / height_in
    box = (0.09, bottom, 0.875, 1 - bottom - 0.24 / height_in)
    with svg.chart(height_in, box) as (figure, axes):
        for errors_m, look in curves:
            known = np.sort(errors_m[np.isfinite(errors_m)])
            if known.size == 0:
                continue
            reached = np.arange(known.size + 1) / known.size
            axes.step([known[0], *known], reached, where="post", **look)
            dot: dict[str, Any] = {"edgecolor": svg.PAGE, "linewidth": 1, "zorder": 5}
            axes.scatter([np.median(known)], [0.5], s=34, color=look["color"], **dot)
        axes.axhline(0.5, color=svg.MUTED, linewidth=0.8, dashes=(1, 3))
        axes.set(ylim=(0, 1.01), xlabel="error")
        svg.label_above(axes, "share of sessions within that error")
        _percent_axis(axes, "y", np.linspace(0, 1, 5))
        distance_axis(axes, np.concatenate([errors_m for errors_m, _ in curves]), "x")
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
    axis, ticks = axes.xaxis if which == "x" else axes.yaxis, list(ticks)
    axis.set_ticks(ticks, labels=[f"{tick:.0%}" for tick in ticks])


def coverage_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Observed over claimed coverage of the ellipses from 10 to 95 %, with its 95 % interval."""
    curve = [coverage(evaluation, level) for level in LEVELS]
    observed = [point.value for point in curve]
    with svg.chart(4.3, (0.09, 0.115, 0.875, 0.83)) as (figure, axes):
        coverage_axes(axes)
        ends = [point.low for point in curve], [point.high for point in curve]
        axes.fill_between(LEVELS, *ends, color=svg.NETWORK, alpha=0.16, linewidth=0)
        axes.plot(LEVELS, observed, color=svg.NETWORK, linewidth=2, marker="o", markersize=3.5)
        for x in (0.68, 0.95):
            y = observed[LEVELS.index(x)]
            axes.plot([x, x], [x, y], color=svg.WARNING, linewidth=1.4)
            axes.scatter([x], [y], s=64, color=svg.NETWORK, edgecolor=svg.PAGE, zorder=5)
            crowded = x < 0.9 < y
            offset, side = ((10, -14), "left") if crowded else ((-10, 7), "right")
            text = f"{x:.0%} ellipse holds {y:.0%}"
            svg.text_beside(axes, text, (x, y), offset, ha=side, gid=svg.OUTLINED)
        drawn = svg.render(figure, "coverage", "Observed over claimed coverage of the ellipses")
    return drawn, " ".join(about_coverage(evaluation, claimed) for claimed in (0.68, 0.95))


def coverage_axes(axes: Axes) -> None:
    """Make axes those of observed over claimed coverage, with the line of exact claims."""
    axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=1, dashes=(5, 3))
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="probability that the ellipse claims")
    svg.label_above(axes, "truths inside")
    for which in ("x", "y"):
        _percent_axis(axes, which, (0, 0.25, 0.5, 0.75, 1))


def about_coverage(evaluation: Evaluation, claimed: float) -> str:
    """Number of truths in the ellipse, and whether that agrees with its claim."""
    observed = coverage(evaluation, claimed)
    if observed.holds(claimed):
        verdict = "consistent with what the ellipse claims"
    elif observed.value < claimed:
        verdict = "the ellipses are too small, the network is surer than it should be"
    else:
        verdict = "the ellipses are larger than they need be"
    return (
        f"{inside(evaluation, claimed).sum()} of {len(evaluation)} truths lie inside the "
        f"{percent(claimed)} ellipse ({percent(observed.value)}; {percent(0.95)} interval "
        f"{percent(observed.low)} to {percent(observed.high)}): {verdict}."
    )


def sigma_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Actual over predicted error of each session, with the root mean squares of groups."""
    predicted = predicted_error_m(evaluation.sigma_m)
    both = np.stack([predicted, evaluation.error_m])
    with svg.chart(4.3, (0.125, 0.115, 0.84, 0.83)) as (figure, axes):
        axes.scatter(*both, **_DOTS)
        groups = _groups(predicted, at_least=8)
        rms = np.array([[np.sqrt(np.mean(np.square(row[g]))) for g in groups] for row in both])
        axes.plot(*rms, **_DIAMONDS, markersize=5, zorder=4)
        draw_diagonal(axes)
        distance_axis(axes, np.concatenate([both[0], rms[0]]), "x")
        distance_axis(axes, np.concatenate([both[1], rms[1]]), "y")
        axes.set(xlabel="error that sigma predicts (root mean square)")
        svg.label_above(axes, "actual error")
        drawn = svg.render(figure, "sigma", "Actual error over the error that sigma predicts")
    span = f"from {distance(float(predicted.min()))} to {distance(float(predicted.max()))}"
    expects = f"The network expects errors {span}."
    found = rank_correlation(predicted, evaluation.error_m, evaluation.source_names)
    if not found.known:
        few = "Too few sessions to tell whether larger ones go with larger errors."
        return drawn, f"{expects} {few}"
    verdict = "so its sigma tells good estimates from bad ones"
    if found.low <= 0:
        verdict = "so these sessions do not show that its sigma tells good estimates from bad ones"
    return drawn, (
        f"{expects} Rank correlation of expected and actual error {decimal(found.value)} "
        f"({percent(0.95)} interval {decimal(found.low)} to {decimal(found.high)}), {verdict}."
    )


def pit_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Histogram of the ellipse that each truth lies on, flat if the sigmas are right.

    The band is where 95 % of such counts fall by chance if all sessions are independent.
    """
    levels, n, n_bins = np.sort(levels_of_truths(evaluation)), len(evaluation), 10
    counts, edges = np.histogram(levels, bins=n_bins, range=(0, 1))
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
        drawn = svg.render(figure, "pit", "Histogram of the ellipse that each truth lies on")
    ideal = np.arange(n) / n
    furthest = float(np.max(np.maximum(levels - ideal, ideal + 1 / n - levels)))
    return drawn, (
        "If the sigmas are right, every tenth holds as many truths as any other (dashed line; the "
        f"band holds {percent(0.95)} of such counts if sessions are independent). More on the "
        "right: too sure; more on the left: not sure enough. Largest distance between observed "
        f"and claimed shares: {percent(furthest)}."
    )


def snr_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Error over signal-to-noise ratio, with medians; not drawn if no ratio is known."""
    snr_db = evaluation.snr_or_nan_db
    n_known = int(np.isfinite(snr_db).sum())
    if not n_known:
        return "", "The catalogue holds no signal-to-noise ratio for these sessions."
    which = f"Signal-to-noise ratio is known for {n_known} of {len(evaluation)} sessions"
    trend = _trend(evaluation, snr_db, "stronger signals", rising="worse")
    return _error_over(evaluation, snr_db, "snr", "signal-to-noise ratio, dB"), f"{which}; {trend}."


def distance_figure(contents: ReportContents) -> tuple[str, str]:
    """Error over the distance from the transmitter to the nearest receiver, heard or not."""
    truth_deg = contents.evaluation.truth_deg
    away_m = np.min(
        [error_m(np.broadcast_to(p, truth_deg.shape), truth_deg) for p in contents.places_deg],
        axis=0,
    )
    span = f"From {distance(float(away_m.min()))} to {distance(float(away_m.max()))}"
    trend = _trend(contents.evaluation, away_m, "nearer transmitters", rising="better")
    label = "distance from the nearest receiver, km"
    drawn = _error_over(contents.evaluation, away_m / 1000, "distance", label)
    return drawn, f"{span}; {trend}."


def receivers_figure(evaluation: Evaluation) -> tuple[str, str]:
    """Error by number of receivers that heard the session, with medians."""
    present, labels, medians = np.unique(evaluation.n_present), [], []
    with svg.chart(3.4, _ERROR_BOX) as (figure, axes):
        _error_axis(axes, evaluation.error_m)
        for heard in present:
            errors_m = evaluation.error_m[evaluation.n_present == heard]
            # Steps of the golden ratio spread the dots evenly, however many there are.
            aside = (np.arange(len(errors_m)) * 0.618034 % 1 - 0.5) * 0.5
            axes.scatter(heard + aside, errors_m, **_DOTS)
            median_m = float(np.median(errors_m))
            ends = [heard - 0.32, heard + 0.32]
            axes.plot(ends, [median_m] * 2, color=svg.FOREGROUND, linewidth=2.2)
            labels.append(f"{heard} (n = {len(errors_m)})")
            medians.append(f"{distance(median_m)} with {count(int(heard), 'receiver')}")
        axes.set_xticks(present, labels)
        axes.set(xlabel="receivers that heard it", xlim=(present.min() - 0.6, present.max() + 0.6))
        drawn = svg.render(figure, "receivers", "Error by number of receivers")
    return drawn, f"Median error: {', '.join(medians)}."


def _error_over(evaluation: Evaluation, x: NDArray[np.float64], name: str, label: str) -> str:
    """Errors over a quantity, (n,), where it is known, with medians of groups of equal size."""
    known = np.isfinite(x)
    x, errors_m = x[known], evaluation.error_m[known]
    with svg.chart(3.4, _ERROR_BOX) as (figure, axes):
        _error_axis(axes, errors_m)
        axes.scatter(x, errors_m, **_DOTS)
        middles = [[np.median(x[g]), np.median(errors_m[g])] for g in _groups(x, at_least=10)]
        axes.plot(*np.transpose(middles), **_DIAMONDS, markersize=5)
        axes.set(xlabel=label)
        return svg.render(figure, name, f"Error over {label}")


def _error_axis(axes: Axes, errors_m: NDArray[np.float64]) -> None:
    distance_axis(axes, errors_m, "y")
    svg.label_above(axes, "error")


def _trend(evaluation: Evaluation, x: NDArray[np.float64], which: str, *, rising: str) -> str:
    """Chart of the error against x, (n,), where x is known.

    `rising` says if errors that rise with x mean that `which` are placed better or worse.
    """
    known = np.isfinite(x)
    sources = np.array(evaluation.source_names)[known].tolist()
    found = rank_correlation(x[known], evaluation.error_m[known], sources)
    if not found.known:
        return "too few sessions to tell how the error changes with it"
    trend = "no clear trend"
    if found.low > 0 or found.high < 0:
        falling = {"better": "worse", "worse": "better"}[rising]
        trend = f"{which} are placed {rising if found.low > 0 else falling}"
    return f"{trend} (rank correlation {decimal(found.value)})"


def _groups(values: NDArray[np.float64], *, at_least: int) -> list[NDArray[np.int64]]:
    """Rows in up to six groups of equal size, from the least values to the largest."""
    return np.array_split(np.argsort(values), max(1, min(6, len(values) // at_least)))


def best_epoch(curve: LearningCurve) -> EpochRecord | None:
    """The epoch that was evaluated: the named one, else that of the least validation loss."""
    named = [epoch for epoch in curve.history if epoch.epoch == curve.best_epoch]
    finite = [epoch for epoch in curve.history if math.isfinite(epoch.val_loss)]
    return named[0] if named else min(finite, key=lambda epoch: epoch.val_loss, default=None)


def training_figures(curve: LearningCurve, number: int) -> dict[str, str]:
    """Figures of one training; the first has plain ids, further ones are numbered."""
    suffix = f"-{number}" if number else ""
    error, best, epochs = "", best_epoch(curve), count(len(curve.history), "epoch")
    if not curve.name or any(math.isfinite(epoch.val_error_m_median) for epoch in curve.history):
        error = _epochs_svg(curve, f"error-by-epoch{suffix}", errors=True)
    about = f"{epochs}; none has a finite validation loss."
    if best is not None:
        about = f"{epochs}; epoch {best.epoch} (dotted line) was kept: "
        about += f"validation loss {decimal(best.val_loss, 3)}"
        # The network of times has neither of the last two.
        if math.isfinite(best.val_error_m_median):
            about += f", median validation error {distance(best.val_error_m_median)}"
        if math.isfinite(best.learning_rate):
            about += f", learning rate {best.learning_rate:.2g}"
        about += "."
    loss = _epochs_svg(curve, f"loss{suffix}", errors=False)
    return {"name": curve.name, "loss": loss, "error": error, "about": about}


def _epochs_svg(curve: LearningCurve, name: str, *, errors: bool) -> str:
    """Median validation errors, or losses, by epoch; the best epoch is marked."""
    field = "val_error_m_median" if errors else "val_loss"
    label = "median error of the validation sessions" if errors else "loss"
    description = "Median validation error" if errors else "Training and validation loss"
    left = 0.125 if errors else 0.105
    with svg.chart(3.2, (left, 0.15, 0.965 - left, 0.76)) as (figure, axes):
        epochs = [epoch.epoch for epoch in curve.history]
        values = [getattr(epoch, field) for epoch in curve.history]
        if not errors:
            losses = [epoch.train_loss for epoch in curve.history]
            axes.plot(epochs, losses, color=svg.SECOND, linewidth=1.6)
        axes.plot(epochs, values, color=svg.NETWORK, linewidth=2.1)
        if errors:
            distance_axis(axes, np.array(values, dtype=np.float64), "y")
        if (best := best_epoch(curve)) is not None:
            axes.axvline(best.epoch, color=svg.MUTED, linewidth=0.9, dashes=(2, 3))
            if math.isfinite(value := getattr(best, field)):
                dot: dict[str, Any] = {"color": svg.NETWORK, "edgecolor": svg.PAGE, "zorder": 5}
                axes.scatter([best.epoch], [value], s=52, **dot)
        svg.label_above(axes, label)
        axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return svg.render(figure, name, f"{description} by epoch")


def pictures(
    evaluation: Evaluation, spectrograms: Iterable[SessionSpectrograms]
) -> list[dict[str, Any]]:
    """The network's input for each session as a picture with a pixel for each value.

    Receivers are side by side, on the colour scale of those heard. `source` is a `data:` address.
    """
    sources = dict(zip(evaluation.session_ids, evaluation.source_names, strict=True))
    found = []
    for session in spectrograms:
        heard = np.array(session.heard, dtype=np.bool_)
        low, high, scale = 0.0, 1.0, "nothing was heard"
        if heard.any():
            low, high = map(float, np.percentile(session.levels_db[heard], [2.0, 99.8]))
            scale = f"{decimal(low, 0)} to {decimal(high, 0)} dB"
        found.append(
            {
                "source_name": sources.get(session.session_id, ""),
                "session_id": session.session_id,
                "names": session.receivers,
                "source": _png(session.levels_db, heard, low, high),
                "about": f"{scale}; {int(heard.sum())} of {len(heard)} receivers",
            }
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
