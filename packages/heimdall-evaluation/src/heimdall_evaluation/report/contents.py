"""What a report is made of: frozen, checked once, and nothing else is read.

Shapes: `n` is the number of evaluated sessions; positions are (latitude, longitude) in WGS84
degrees; sigmas are standard deviations (east, north) in metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_models.training.curves import EpochRecord, LearningCurve

from heimdall_evaluation.results import (
    BaselineResult,
    Evaluation,
    ModelSummary,
    Receiver,
    SessionSpectrograms,
    _require_correlations,
    _require_shape,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from heimdall_models import Region
    from numpy.typing import NDArray

__all__ = ["ReportContents"]


"""Which sessions of a split were evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportContents:
    """Everything on the page.

    Raises:
        ReportError: A baseline was measured on another number of sessions than the network.
    """

    title: str
    created_at: datetime
    command: str
    seed: int
    versions: Mapping[str, str]
    model: ModelSummary
    region: Region
    receivers: tuple[Receiver, ...]
    evaluation: Evaluation
    baselines: tuple[BaselineResult, ...] = ()
    beside: str | None = None
    """The baseline whose estimates the map shows too, of the numbered sessions."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By the contract's names, such as `test/error_m_median`."""
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None
    """The epoch whose checkpoint was evaluated; None means the least validation loss."""
    more_curves: tuple[LearningCurve, ...] = ()
    """Of further trainings in the run: an ensemble's members, the network of times."""
    spectrograms: tuple[SessionSpectrograms, ...] = ()
    """Of the worst sessions."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What identifies source, data and model: commit, fingerprints."""
    excluded: tuple[tuple[str, str], ...] = ()
    """Session id and reason."""
    not_used: Mapping[str, int] = field(default_factory=dict)
    """Sessions that the catalogue's rules left out, by reason."""
    split_report: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage, in the order they ran."""

    @property
    def curves(self) -> tuple[LearningCurve, ...]:
        """Every training of the run that has epochs; the main one has no name."""
        main = LearningCurve(name="", history=self.history, best_epoch=self.best_epoch)
        return tuple(curve for curve in (main, *self.more_curves) if curve.history)

    @property
    def beside_deg(self) -> NDArray[np.float64] | None:
        """(n, 2): where that baseline puts the transmitters; None where there is none."""
        named = (baseline for baseline in self.baselines if baseline.name == self.beside)
        return next((baseline.position_deg for baseline in named), None)

    def __post_init__(self) -> None:
        n = len(self.evaluation)
        for baseline in self.baselines:
            owner = f"baseline {baseline.name!r}: error_m"
            _require_shape(owner, np.shape(baseline.error_m), (n,))
            for name in ("position_deg", "sigma_m"):
                if (values := getattr(baseline, name)) is not None:
                    owner = f"baseline {baseline.name!r}: {name}"
                    _require_shape(owner, np.shape(values), (n, 2))
            if baseline.correlation is not None:
                owner = f"baseline {baseline.name!r}: correlation"
                _require_correlations(owner, baseline.correlation, n)
