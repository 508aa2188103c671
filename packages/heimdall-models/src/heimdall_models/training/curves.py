"""Learning curves: the epochs of a training, light to import."""

from __future__ import annotations

from dataclasses import dataclass


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
