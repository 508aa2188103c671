"""What a report is made of: frozen, checked once, and nothing else is read.

Shapes: `n` is the number of evaluated sessions; positions are (latitude, longitude) in WGS84
degrees; sigmas are standard deviations (east, north) in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EpochRecord", "LearningCurve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch of training ended with; NaN for what was not measured."""

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
