"""Results of an evaluation and the contents of a report: frozen, and checked once.

Shapes: `n` is the number of evaluated sessions; positions are `(n, 2)`, latitude and longitude in
WGS84 degrees; sigmas are `(n, 2)`, standard deviations east and north in metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from heimdall_models import localization_metrics
from heimdall_models.metrics import Posteriors, PosteriorScores, of_ellipses, posterior_scores
from heimdall_models.training.curves import LearningCurve

from heimdall_evaluation.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from heimdall_export.serving.metadata import Receiver
    from heimdall_models import Region
    from heimdall_models.training.curves import EpochRecord
    from numpy.typing import ArrayLike, NDArray

    from heimdall_evaluation.intervals import Interval

Part = Literal["test", "validation", "train", "all", "new"]
"""Sessions of a split that are evaluated, or those since some time, without a split."""
PAIRS = ("truth_deg", "position_deg", "sigma_m")
"""Columns with two values a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """Name and size of the evaluated model."""

    name: str
    n_parameters: int
    size_bytes: int | None = None
    """Size of the exported file; None where nothing was exported."""
    sigma_bounds_m: tuple[float, float] | None = None
    """Least and largest sigma that its levels may claim; None if not known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionSpectrograms:
    """The network's input for one session."""

    session_id: str
    receivers: tuple[str, ...]
    levels_db: NDArray[np.float32]
    """(receivers, bands, frames), the lowest band first"""
    heard: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The network's answers for every evaluated session, and their errors.

    Raises:
        ReportError: An array of another length, a NaN, a sigma that is not positive or a
            correlation that is not between -1 and 1; the message names the session where it can.
    """

    session_ids: tuple[str, ...]
    source_names: tuple[str, ...]
    truth_deg: NDArray[np.float64]
    position_deg: NDArray[np.float64]
    sigma_m: NDArray[np.float64]
    error_m: NDArray[np.float64]
    """(n,), on the ellipsoid"""
    n_present: NDArray[np.int64]
    """(n,), receivers that were heard"""
    snr_db: NDArray[np.float64] | None = None
    """(n,), NaN where it is not known; None if it is known of no session"""
    correlation: NDArray[np.float64] | None = None
    """(n,), of the errors east and north; None if no ellipse is tilted"""
    posteriors: Posteriors | None = None
    """mixtures of Gaussians; None if the ellipses are all there is"""
    part: Part = "test"
    """Side of the split that the sessions are"""
    trained_on: tuple[bool, ...] | None = None
    """True for sessions that the model was trained on; None if not known"""

    def __post_init__(self) -> None:
        _check_columns(self, len(self))
        if self.posteriors is not None:
            _check_shape("posteriors", self.posteriors.weights[:, 0], (len(self),))
        for name in (*PAIRS, "error_m"):
            values = getattr(self, name)
            valid = np.isfinite(values) & ((values > 0) | (name != "sigma_m"))
            if (bad := np.argwhere(~valid)).size:
                session_id, value = self.session_ids[bad[0, 0]], values[bad[0, 0]]
                raise ReportError(
                    f"{name} of session {session_id!r} is {value}, not finite or not positive; "
                    "leave the session out and list it in `excluded` with the reason"
                )

    def __len__(self) -> int:
        return len(self.session_ids)

    @property
    def tilt(self) -> NDArray[np.float64]:
        """(n,): the correlation, 0 where none is given."""
        return np.zeros(len(self)) if self.correlation is None else self.correlation

    @property
    def snr_or_nan_db(self) -> NDArray[np.float64]:
        """(n,): signal-to-noise ratio, NaN where it is not known."""
        return np.full(len(self), np.nan) if self.snr_db is None else self.snr_db

    @property
    def worst(self) -> NDArray[np.int64]:
        """Rows of the ten sessions with the largest errors, worst first."""
        return np.argsort(-self.error_m, kind="stable")[:10]

    def metrics(self) -> dict[str, float]:
        """The contract's metrics, without a part of the split before their names."""
        return localization_metrics(
            self.position_deg, self.sigma_m, self.truth_deg, self.tilt, self.posteriors
        )

    def scores(self) -> PosteriorScores:
        """Scores of each session's posterior; of the ellipse's Gaussian where that is all."""
        posteriors = self.posteriors or of_ellipses(self.position_deg, self.sigma_m, self.tilt)
        return posterior_scores(posteriors, self.truth_deg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelResult:
    """A model's evaluation, and what decides whether it can be compared with another's."""

    name: str
    evaluation: Evaluation
    receivers: tuple[Receiver, ...]
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineResult:
    """Answers of a simple method for the same sessions."""

    name: str
    explanation: str
    """One sentence for the reader: how the method works."""
    error_m: NDArray[np.float64]
    """(n,), in the order of the evaluation's sessions; NaN where the method has no answer"""
    position_deg: NDArray[np.float64] | None = None
    """None if the report is to show its errors alone"""
    sigma_m: NDArray[np.float64] | None = None
    """None if the method has no uncertainty"""
    correlation: NDArray[np.float64] | None = None
    """(n,), of the errors east and north; None if no ellipse is tilted"""

    @property
    def tilt(self) -> NDArray[np.float64]:
        """(n,): the correlation, 0 where none is given."""
        return np.zeros(len(self.error_m)) if self.correlation is None else self.correlation


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One threshold, and whether an evaluation meets it."""

    threshold: str
    """Its name, such as `min_coverage_95` or `max_error_m_median`."""
    limit: float
    value: float
    """Metric that the limit is for."""
    share: Interval
    """Share of the sessions that are inside the ellipse, or within the limit."""
    needed: float
    """Share at which the threshold is met."""
    verdict: Literal["met", "unclear", "not met"]
    """`unclear` where the sessions miss the threshold and are too few to show it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportContents:
    """Everything on the page of a report.

    Raises:
        ReportError: A baseline is of another number of sessions than the evaluation.
    """

    title: str
    """Heading of the page."""
    created_at: datetime
    """Aware time of the evaluation."""
    command: str
    """Command line that makes the page again."""
    seed: int
    """Seed of the run."""
    versions: Mapping[str, str]
    """Versions of packages by name."""
    model: ModelSummary
    """The model that was judged."""
    region: Region
    """Plane that the maps are drawn in."""
    receivers: tuple[Receiver, ...]
    """Receivers of the model, in channel order."""
    evaluation: Evaluation
    """Answers and errors, session by session."""
    baselines: tuple[BaselineResult, ...] = ()
    """Simple methods on the same sessions."""
    map_baseline: str | None = None
    """Name of the baseline whose estimates the map shows, too, for the numbered sessions."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By the contract's names, such as `test/error_m_median`."""
    checks: tuple[Check, ...] = ()
    """Thresholds that were asked for."""
    history: tuple[EpochRecord, ...] = ()
    """Losses of the training by epoch."""
    best_epoch: int | None = None
    """The epoch whose checkpoint was evaluated; None means the least validation loss."""
    more_curves: tuple[LearningCurve, ...] = ()
    """Further trainings in the run: an ensemble's members, the network of times."""
    spectrograms: tuple[SessionSpectrograms, ...] = ()
    """Inputs of the worst sessions."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Identity of source, data and model: commit, fingerprints."""
    excluded: tuple[tuple[str, str], ...] = ()
    """Session id and reason."""
    rejected_counts: Mapping[str, int] = field(default_factory=dict)
    """Sessions that the catalogue's rules leave out, by reason."""
    split_report: Mapping[str, Any] = field(default_factory=dict)
    """Counts of the split, as JSON values."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage, in the order they ran."""

    def __post_init__(self) -> None:
        for baseline in self.baselines:
            _check_columns(baseline, len(self.evaluation), f"baseline {baseline.name!r}: ")

    @property
    def curves(self) -> tuple[LearningCurve, ...]:
        """Every training of the run that has epochs; the main one has no name."""
        main = LearningCurve(name="", history=self.history, best_epoch=self.best_epoch)
        return tuple(curve for curve in (main, *self.more_curves) if curve.history)

    @property
    def places_deg(self) -> list[tuple[float, float]]:
        """Latitude and longitude of each receiver."""
        return [(receiver.latitude_deg, receiver.longitude_deg) for receiver in self.receivers]

    @property
    def map_baseline_deg(self) -> NDArray[np.float64] | None:
        """(n, 2): estimates of the baseline on the map, if it has any."""
        named = (b.position_deg for b in self.baselines if b.name == self.map_baseline)
        return next(named, None)


def _check_columns(result: Evaluation | BaselineResult, n: int, owner: str = "") -> None:
    """Refuse columns of another shape, and correlations that are not between -1 and 1."""
    for name in ("source_names", "n_present", "error_m", "snr_db", "trained_on", "correlation"):
        _check_shape(owner + name, getattr(result, name, None), (n,))
    for name in PAIRS:
        _check_shape(owner + name, getattr(result, name, None), (n, 2))
    correlation = result.correlation
    if correlation is not None and not (valid := np.abs(correlation) < 1).all():  # nor NaN
        raise ReportError(f"{owner}correlation: {correlation[~valid][0]} is not between -1 and 1")


def _check_shape(name: str, values: ArrayLike | None, expected: tuple[int, ...]) -> None:
    if values is not None and (found := np.shape(values)) != expected:
        raise ReportError(
            f"{name} has shape {found}, expected {expected}: one row for each evaluated session"
        )
