"""How many sessions are within which distance: the network beside the baselines.

Where the error comes from: how strong the signal was, how far away, and how many heard it.

What training did, epoch by epoch, and which epoch was kept.

Whether the ellipses mean what they say, in two figures: over all, and one by one.

What the network was shown of a session: one small picture, receivers side by side.

The picture is a PNG inside the page, a pixel for each value; the page scales it up.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from heimdall_models import error_m
from matplotlib import colormaps
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from heimdall_evaluation.coverage import LEVELS, coverage, levels_of_truths, predicted_error_m
from heimdall_evaluation.report import svg as ink
from heimdall_evaluation.report.quantities import decimal, round_distance

if TYPE_CHECKING:
    from heimdall_models.training.curves import EpochRecord, LearningCurve
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation, ReportContents, SessionSpectrograms

__all__ = [
    "DASHES",
    "SpectrogramPicture",
    "best_epoch",
    "coverage_svg",
    "distance_axis",
    "distance_svg",
    "error_curve_svg",
    "error_distribution_svg",
    "has_errors",
    "known_snr",
    "loss_curve_svg",
    "nearest_receiver_m",
    "picture_of",
    "pictures",
    "pit_svg",
    "receivers_svg",
    "sigma_svg",
    "snr_svg",
]


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


_PER_GROUP = 10
_GOLDEN = 0.618034


def known_snr(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(n,) which sessions the catalogue knows a signal-to-noise ratio of."""
    if evaluation.snr_db is None:
        return np.zeros(len(evaluation), dtype=np.bool_)
    return np.asarray(np.isfinite(evaluation.snr_db), dtype=np.bool_)


def snr_svg(evaluation: Evaluation) -> str:
    """Error over signal-to-noise ratio, with the median of groups of equal size."""
    known = known_snr(evaluation)
    snr_db = np.asarray(evaluation.snr_db, dtype=np.float64)[known]
    with ink.drawing():
        figure, axes = _over(snr_db, evaluation.error_m[known])
        axes.set(xlabel="signal-to-noise ratio, dB")
        return ink.svg(figure, "snr", "Error over signal-to-noise ratio")


def distance_svg(contents: ReportContents) -> str:
    """Error over the distance from the transmitter to the nearest receiver, with medians."""
    with ink.drawing():
        figure, axes = _over(nearest_receiver_m(contents) / 1000, contents.evaluation.error_m)
        axes.set(xlabel="from the transmitter to the nearest receiver, km")
        return ink.svg(figure, "distance", "Error over distance from the nearest receiver")


def nearest_receiver_m(contents: ReportContents) -> NDArray[np.float64]:
    """(n,) how far each transmitter is from the receiver nearest to it, heard or not."""
    truth_deg = contents.evaluation.truth_deg
    places = [(r.latitude_deg, r.longitude_deg) for r in contents.receivers]
    away_m = [error_m(np.broadcast_to(place, truth_deg.shape), truth_deg) for place in places]
    return np.asarray(np.min(away_m, axis=0), dtype=np.float64)


def receivers_svg(evaluation: Evaluation) -> str:
    """Error by number of receivers that heard the session, with medians."""
    with ink.drawing():
        figure, axes = _axes(evaluation.error_m)
        present = np.unique(evaluation.n_present)
        for heard in present:
            errors_m = evaluation.error_m[evaluation.n_present == heard]
            aside = (np.arange(len(errors_m)) * _GOLDEN % 1 - 0.5) * 0.5
            axes.scatter(heard + aside, errors_m, s=14, color=ink.NETWORK, alpha=0.5, linewidth=0)
            median = float(np.median(errors_m))
            axes.plot([heard - 0.32, heard + 0.32], [median] * 2, color=ink.INK, linewidth=2.2)
        labels = [f"{heard} (n = {np.sum(evaluation.n_present == heard)})" for heard in present]
        axes.set_xticks(present, labels)
        axes.set(xlabel="receivers that heard it", xlim=(present.min() - 0.6, present.max() + 0.6))
        return ink.svg(figure, "receivers", "Error by number of receivers")


def _over(x: NDArray[np.float64], errors_m: NDArray[np.float64]) -> tuple[Figure, Axes]:
    """Errors over a quantity, (n,) each, with the medians of groups of equal size."""
    figure, axes = _axes(errors_m)
    axes.scatter(x, errors_m, s=14, color=ink.NETWORK, alpha=0.5, linewidth=0)
    groups = np.array_split(np.argsort(x), max(1, min(6, len(x) // _PER_GROUP)))
    middles = [[np.median(x[rows]), np.median(errors_m[rows])] for rows in groups]
    axes.plot(*np.transpose(middles), color=ink.INK, linewidth=1.3, marker="D", markersize=5)
    return figure, axes


def _axes(errors_m: NDArray[np.float64]) -> tuple[Figure, Axes]:
    figure = ink.sheet(5.4, 3.4)
    axes = ink.plain_axes(figure.add_axes((0.125, 0.145, 0.84, 0.775)))
    distance_axis(axes, errors_m, "y")
    ink.label_above(axes, "error")
    return figure, axes


def best_epoch(curve: LearningCurve) -> EpochRecord | None:
    """The epoch that was evaluated: as told, else the one of the least validation loss."""
    told = [e for e in curve.history if e.epoch == curve.best_epoch]
    finite = [e for e in curve.history if math.isfinite(e.val_loss)]
    if told:
        return told[0]
    return min(finite, key=lambda e: e.val_loss) if finite else None


def has_errors(curve: LearningCurve) -> bool:
    """Whether the validation error was measured in any epoch."""
    return any(math.isfinite(e.val_error_m_median) for e in curve.history)


def loss_curve_svg(curve: LearningCurve, name: str = "loss") -> str:
    """Training and validation loss by epoch, under a name that no other figure has."""
    with ink.drawing():
        figure = ink.sheet(5.4, 3.2)
        axes = ink.plain_axes(figure.add_axes((0.105, 0.15, 0.86, 0.76)))
        epochs = [e.epoch for e in curve.history]
        axes.plot(epochs, [e.train_loss for e in curve.history], color=ink.SECOND, linewidth=1.6)
        axes.plot(epochs, [e.val_loss for e in curve.history], color=ink.NETWORK, linewidth=2.1)
        best = best_epoch(curve)
        if best is not None:
            _mark(axes, best.epoch, best.val_loss)
        ink.label_above(axes, "loss")
        _epoch_axis(axes, epochs)
        return ink.svg(figure, name, "Training and validation loss by epoch")


def error_curve_svg(curve: LearningCurve, name: str = "error-by-epoch") -> str:
    """Median error of the validation sessions by epoch, under a name of its own."""
    with ink.drawing():
        figure = ink.sheet(5.4, 3.2)
        axes = ink.plain_axes(figure.add_axes((0.125, 0.15, 0.84, 0.76)))
        epochs = [e.epoch for e in curve.history]
        medians = np.array([e.val_error_m_median for e in curve.history], dtype=np.float64)
        axes.plot(epochs, medians, color=ink.NETWORK, linewidth=2.1)
        distance_axis(axes, medians, "y")
        best = best_epoch(curve)
        if best is not None:
            _mark(axes, best.epoch, best.val_error_m_median)
        ink.label_above(axes, "median error of the validation sessions")
        _epoch_axis(axes, epochs)
        return ink.svg(figure, name, "Median validation error by epoch")


def _mark(axes: Axes, epoch: int, value: float) -> None:
    axes.axvline(epoch, color=ink.MUTED, linewidth=0.9, dashes=(2, 3))
    if math.isfinite(value):
        axes.scatter([epoch], [value], s=52, color=ink.NETWORK, edgecolor=ink.PAGE, zorder=5)


def _epoch_axis(axes: Axes, epochs: list[int]) -> None:
    axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


_MARKED = (0.68, 0.95)
_PER_GROUP_reliability = 8
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
                _mark_reliability(axes, point.claimed, point.observed.value)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="probability that the ellipse claims")
        ink.label_above(axes, "truths inside")
        axes.set_xticks(ticks, [f"{p:.0%}" for p in ticks])
        axes.set_yticks(ticks, [f"{p:.0%}" for p in ticks])
        return ink.svg(figure, "coverage", "Observed over claimed coverage of the ellipses")


def _mark_reliability(axes: Axes, claimed: float, observed: float) -> None:
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
        groups = np.array_split(
            np.argsort(predicted), max(1, min(6, len(predicted) // _PER_GROUP_reliability))
        )
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


_UNHEARD = (0.6, 0.6, 0.6, 0.35)
_QUIET_PERCENTILE, _LOUD_PERCENTILE = 2.0, 99.8


@dataclass(frozen=True, slots=True)
class SpectrogramPicture:
    """A picture, ready for the page."""

    source_name: str
    session_id: str
    names: tuple[str, ...]
    source: str
    """A `data:` address."""
    about: str


def pictures(
    evaluation: Evaluation, shown: tuple[SessionSpectrograms, ...]
) -> list[SpectrogramPicture]:
    """One picture for each session, in the order given."""
    sources = dict(zip(evaluation.session_ids, evaluation.source_names, strict=True))
    return [picture_of(session, sources.get(session.session_id, "")) for session in shown]


def picture_of(session: SessionSpectrograms, source_name: str) -> SpectrogramPicture:
    """The spectrograms of a session on one colour scale, which is that of what was heard."""
    heard = np.array(session.heard, dtype=np.bool_)
    if heard.any():
        levels = session.levels_db[heard]
        low, high = np.percentile(levels, [_QUIET_PERCENTILE, _LOUD_PERCENTILE])
        scale = f"{decimal(float(low), 0)} to {decimal(float(high), 0)} dB"
    else:
        low, high, scale = 0.0, 1.0, "nothing was heard"
    return SpectrogramPicture(
        source_name=source_name,
        session_id=session.session_id,
        names=session.receivers,
        source=_png(_coloured(session.levels_db, heard, (float(low), float(high)))),
        about=f"{scale}; {int(heard.sum())} of {len(heard)} receivers",
    )


def _coloured(
    levels_db: NDArray[np.float32], heard: NDArray[np.bool_], limits: tuple[float, float]
) -> NDArray[np.uint8]:
    """(bands, receivers * (frames + 1), 4): the highest band first, a clear line between two."""
    low, high = limits
    shares = np.clip((levels_db - low) / max(high - low, 1e-6), 0, 1)
    colours = colormaps["viridis"](shares)
    colours[~heard] = _UNHEARD
    gap = np.zeros((*colours.shape[:2], 1, 4))
    panels = np.concatenate([colours, gap], axis=2)[:, ::-1]
    whole = np.concatenate(list(panels), axis=1)
    return np.round(255 * whole).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    written = io.BytesIO()
    # Its own note names its version, with which the bytes would change.
    imsave(written, pixels, format="png", metadata={"Software": "heimdall"})
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
