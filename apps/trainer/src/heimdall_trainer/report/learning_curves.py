"""What training did, epoch by epoch, and which epoch was kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from heimdall_trainer.report import ink
from heimdall_trainer.report.error_distribution import distance_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from heimdall_trainer.report.contents import EpochRecord, LearningCurve

__all__ = ["best_epoch", "error_curve_svg", "has_errors", "loss_curve_svg"]


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
