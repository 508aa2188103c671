"""Where the error comes from: how strong the signal was, and how many heard it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_trainer.report import ink
from heimdall_trainer.report.error_distribution import distance_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation

__all__ = ["known_snr", "receivers_svg", "snr_svg"]

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
    error_m = evaluation.error_m[known]
    with ink.drawing():
        figure, axes = _axes(error_m)
        axes.scatter(snr_db, error_m, s=14, color=ink.NETWORK, alpha=0.5, linewidth=0)
        groups = np.array_split(np.argsort(snr_db), max(1, min(6, len(snr_db) // _PER_GROUP)))
        middles = [[np.median(snr_db[rows]), np.median(error_m[rows])] for rows in groups]
        axes.plot(*np.transpose(middles), color=ink.INK, linewidth=1.3, marker="D", markersize=5)
        axes.set(xlabel="signal-to-noise ratio, dB")
        return ink.svg(figure, "snr", "Error over signal-to-noise ratio")


def receivers_svg(evaluation: Evaluation) -> str:
    """Error by number of receivers that heard the session, with medians."""
    with ink.drawing():
        figure, axes = _axes(evaluation.error_m)
        present = np.unique(evaluation.n_present)
        for heard in present:
            error_m = evaluation.error_m[evaluation.n_present == heard]
            aside = (np.arange(len(error_m)) * _GOLDEN % 1 - 0.5) * 0.5
            axes.scatter(heard + aside, error_m, s=14, color=ink.NETWORK, alpha=0.5, linewidth=0)
            median = float(np.median(error_m))
            axes.plot([heard - 0.32, heard + 0.32], [median] * 2, color=ink.INK, linewidth=2.2)
        labels = [f"{heard} (n = {np.sum(evaluation.n_present == heard)})" for heard in present]
        axes.set_xticks(present, labels)
        axes.set(xlabel="receivers that heard it", xlim=(present.min() - 0.6, present.max() + 0.6))
        return ink.svg(figure, "receivers", "Error by number of receivers")


def _axes(error_m: NDArray[np.float64]) -> tuple[Figure, Axes]:
    figure = ink.sheet(5.4, 3.4)
    axes = ink.plain_axes(figure.add_axes((0.125, 0.145, 0.84, 0.775)))
    distance_axis(axes, error_m, "y")
    ink.label_above(axes, "error")
    return figure, axes
