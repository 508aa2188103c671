"""Learning curves: the epochs of a training, light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS_LOSS, NETWORK_LOSS = "val/loss_by_levels", "val/loss_by_network"
"""Losses of the posterior by levels alone and of the best epoch, both calibrated."""
SIGMA_FACTOR, TEMPERATURE = "val/sigma_factor", "val/temperature"
"""What ellipses, or mixtures, were calibrated by on validation sessions."""
UNCALIBRATED = "_uncalibrated"
"""Ends the name of a metric of validation before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """Metrics at the end of one epoch; NaN where not measured."""

    epoch: int
    train_loss: float
    val_loss: float
    val_error_m_median: float
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """The epochs of one of several trainings in a run, such as an ensemble's member."""

    name: str
    history: tuple[EpochRecord, ...]
    best_epoch: int | None = None


def takes_levels_alone(metrics: Mapping[str, float]) -> bool:
    """Whether a run's metrics say that it ships the posterior by levels without corrections."""
    return LEVELS_LOSS in metrics and metrics[LEVELS_LOSS] <= metrics[NETWORK_LOSS]
