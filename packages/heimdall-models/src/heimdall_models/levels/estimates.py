"""What level baselines are fitted on, and what they answer.

Every method is a function from `TrainingLevels` to a `LevelEstimator`, so that a report or a
benchmark can run all of them alike. Levels are of the signal, in dB against any reference that is
the same for all sessions of a receiver; a transmitter's power is known to none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.region import Region

LEAST_SESSIONS = 3
"""Fewer positions have no spread in both directions."""


class PositionEstimate(NamedTuple):
    """Positions, and how sure a method is of them."""

    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude, WGS84."""
    covariance_m2: NDArray[np.float64]
    """`(n, 2, 2)`: of the error, east and north, square metres."""

    @property
    def sigma_m(self) -> NDArray[np.float64]:
        """Standard deviations east and north in metres, `(n, 2)`: the ellipse without its tilt."""
        return np.sqrt(np.diagonal(self.covariance_m2, axis1=1, axis2=2))


class LevelEstimator(Protocol):
    """A fitted method."""

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """Positions of sessions.

        Args:
            levels_db: `(n, receivers)`, receivers in the order of training.
            present: `(n, receivers)`, whether the receiver was up; absent ones weigh nothing.

        Raises:
            ModelError: If the shapes are wrong or a level that counts is not finite.
        """


@dataclass(frozen=True, slots=True)
class TrainingLevels:
    """Levels of sessions whose transmitters are known.

    Raises:
        ModelError: If the shapes disagree, a level that counts is not finite, there are fewer
            than three sessions, or no receiver was up in any of them.
    """

    levels_db: NDArray[np.float64]
    """`(n, receivers)`."""
    present: NDArray[np.bool_]
    """`(n, receivers)`, whether the receiver was up."""
    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude of the transmitters, WGS84."""
    receivers_deg: NDArray[np.float64]
    """`(receivers, 2)`."""
    region: Region
    """The plane in which methods compute."""

    def __post_init__(self) -> None:
        for name in ("position_deg", "receivers_deg"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, value.reshape(-1, 2))
        levels, present = checked_levels(self.levels_db, self.present, len(self.receivers_deg))
        if len(levels) != len(self.position_deg) or len(levels) < LEAST_SESSIONS:
            raise ModelError(
                f"{len(levels)} sessions with levels and {len(self.position_deg)} positions; "
                f"give as many of both, at least {LEAST_SESSIONS}"
            )
        if not present.any():
            raise ModelError(
                f"no receiver was up in any of {len(levels)} sessions; levels say nothing then"
            )
        object.__setattr__(self, "levels_db", levels)
        object.__setattr__(self, "present", present)

    @property
    def places(self) -> NDArray[np.float64]:
        """The transmitters in plane units, `(n, 2)`: east, north."""
        return self.region.to_plane(self.position_deg)

    @property
    def receiver_places(self) -> NDArray[np.float64]:
        """The receivers in plane units, `(receivers, 2)`."""
        return self.region.to_plane(self.receivers_deg)

    def some(self, n_sessions: int) -> TrainingLevels:
        """At most so many of the sessions, chosen at random, always the same ones."""
        if len(self.levels_db) <= n_sessions:
            return self
        chosen = np.random.default_rng(0).permutation(len(self.levels_db))[:n_sessions]
        return self.only(chosen)

    def only(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> TrainingLevels:
        """The sessions in these rows."""
        return replace(
            self,
            levels_db=self.levels_db[rows],
            present=self.present[rows],
            position_deg=self.position_deg[rows],
        )


def checked_levels(
    levels_db: ArrayLike, present: ArrayLike, n_receivers: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Levels and presence as arrays `(n, receivers)`; what an absent receiver reads becomes zero.

    Raises:
        ModelError: If the shapes are wrong or a level that counts is not finite.
    """
    levels = np.asarray(levels_db, dtype=np.float64)
    up = np.asarray(present, dtype=bool)
    if levels.ndim != 2 or levels.shape != up.shape or levels.shape[1] != n_receivers:
        raise ModelError(
            f"levels {levels.shape} and present {up.shape} must both be (n, {n_receivers}): "
            f"a row for each session, a column for each receiver"
        )
    if not np.isfinite(levels[up]).all():
        raise ModelError("a level of a receiver that is present is not finite")
    return np.where(up, levels, 0.0), up
