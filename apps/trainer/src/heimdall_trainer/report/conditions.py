"""Where the error comes from: how strong the signal was, how far away, and how many heard it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_models import error_m

from heimdall_trainer.report import ink
from heimdall_trainer.report.error_distribution import distance_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation, ReportContents

__all__ = ["distance_svg", "known_snr", "nearest_receiver_m", "receivers_svg", "snr_svg"]

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
