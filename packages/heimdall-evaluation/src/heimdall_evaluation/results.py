"""What a report is made of: frozen, checked once, and nothing else is read.

Shapes: `n` is the number of evaluated sessions; positions are (latitude, longitude) in WGS84
degrees; sigmas are standard deviations (east, north) in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BaselineResult",
    "Evaluation",
    "ModelSummary",
    "Part",
    "Receiver",
    "ReportError",
    "SessionSpectrograms",
]


Part = Literal["test", "validation", "train", "all"]


class ReportError(TrainerError):
    """A report cannot be made of what was given."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver of the evaluated channels."""

    name: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """Which network was evaluated, and how large it is."""

    name: str
    n_parameters: int
    size_bytes: int | None = None
    """Of the exported file; None where nothing was exported."""
    sigma_bounds_m: tuple[float, float] | None = None
    """The least and the largest sigma that its levels may claim; None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionSpectrograms:
    """What the network was shown of one session."""

    session_id: str
    receivers: tuple[str, ...]
    levels_db: NDArray[np.float32]
    """(receivers, bands, frames), the lowest band first"""
    heard: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What the network said of every evaluated session, and how far off it was.

    Raises:
        ReportError: An array of another length, a NaN, or a sigma that is not positive; the
            message names the session.
    """

    session_ids: tuple[str, ...]
    source_names: tuple[str, ...]
    truth_deg: NDArray[np.float64]
    """(n, 2)"""
    position_deg: NDArray[np.float64]
    """(n, 2)"""
    sigma_m: NDArray[np.float64]
    """(n, 2), east and north"""
    error_m: NDArray[np.float64]
    """(n,), on the ellipsoid"""
    n_present: NDArray[np.int64]
    """(n,), receivers that were heard"""
    snr_db: NDArray[np.float64] | None = None
    """(n,), NaN where the catalogue does not know; None where it knows none"""
    correlation: NDArray[np.float64] | None = None
    """(n,), of the errors east and north; None where no ellipse is tilted"""
    part: Part = "test"
    """Which side of the split they are of."""
    trained_on: tuple[bool, ...] | None = None
    """Which of them the model was trained on; None where nobody knows"""

    def __post_init__(self) -> None:
        n = len(self.session_ids)
        if self.trained_on is not None:
            _require_shape("trained_on", (len(self.trained_on),), (n,))
        if self.correlation is not None:
            _require_correlations("correlation", self.correlation, n)
        _require_shape("source_names", (len(self.source_names),), (n,))
        for name, axes in (("truth_deg", 2), ("position_deg", 2), ("sigma_m", 2), ("error_m", 1)):
            values = getattr(self, name)
            _require_shape(name, np.shape(values), (n, 2)[:axes])
            self._require_finite(name, values)
        _require_shape("n_present", np.shape(self.n_present), (n,))
        if self.snr_db is not None:
            _require_shape("snr_db", np.shape(self.snr_db), (n,))
        self._require_positive_sigma()

    def __len__(self) -> int:
        return len(self.session_ids)

    @property
    def tilt(self) -> NDArray[np.float64]:
        """(n,): the correlation, 0 where none is given."""
        return np.zeros(len(self)) if self.correlation is None else self.correlation

    def _require_finite(self, name: str, values: NDArray[np.float64]) -> None:
        columns = np.reshape(values, (len(self), np.ndim(values)))
        bad = np.flatnonzero(~np.isfinite(columns).all(axis=1))
        if bad.size:
            raise ReportError(
                f"{name} of session {self.session_ids[bad[0]]!r} is {values[bad[0]]}; "
                f"leave the session out and list it in `excluded` with the reason"
            )

    def _require_positive_sigma(self) -> None:
        bad = np.flatnonzero((np.asarray(self.sigma_m) <= 0).any(axis=1))
        if bad.size:
            raise ReportError(
                f"sigma_m of session {self.session_ids[bad[0]]!r} is {self.sigma_m[bad[0]]}; "
                f"a standard deviation in metres is positive"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaselineResult:
    """How far off a simple method is on the same sessions."""

    name: str
    explanation: str
    """One sentence for the reader: what the method does."""
    error_m: NDArray[np.float64]
    """(n,), in the order of the evaluation's sessions; NaN where the method has no answer"""
    position_deg: NDArray[np.float64] | None = None
    """(n, 2) where the report is to show more than how far off it is"""
    sigma_m: NDArray[np.float64] | None = None
    """(n, 2) where the method says how sure it is"""
    correlation: NDArray[np.float64] | None = None
    """(n,), of the errors east and north; None where no ellipse is tilted"""

    @property
    def tilt(self) -> NDArray[np.float64]:
        """(n,): the correlation, 0 where none is given."""
        return np.zeros(len(self.error_m)) if self.correlation is None else self.correlation


def _require_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise ReportError(
            f"{name} has shape {shape}, expected {wanted}: one row for each evaluated session"
        )


def _require_correlations(name: str, values: NDArray[np.float64], n: int) -> None:
    _require_shape(name, np.shape(values), (n,))
    # Not `>=`: a NaN must fail as well.
    if not (np.abs(values) < 1).all():
        raise ReportError(f"{name}: {values[~(np.abs(values) < 1)][0]} is not between -1 and 1")
