"""Maps of levels learned from training sessions, as the arrays that a network carries.

The kriged field on a grid of fixed shape: one map of all sessions, and one for each fold of them,
made without that fold. A map fits its own sessions closer than others, so a network that learns
its uncertainty must see each session through a map made without it. Folds are by place, so that
all sessions of one site are in one fold, and the target gives the fold.

Source: cross-fitting, V. Chernozhukov et al., "Double/debiased machine learning", Econometrics
Journal 21 (2018); stacking, D. H. Wolpert, Neural Networks 5 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from heimdall_models.levels.grid import Grid
from heimdall_models.levels.kriging import KrigedField
from heimdall_models.levels.path_loss import found_receivers
from heimdall_models.levels.received_power import ReceivedPower, TrainingLevels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from heimdall_models.region import Region

GRID_SHAPE = (96, 96)
"""Cells east and north over the training transmitters: 1.8 km in a region of 170 km."""
N_FOLDS = 4
LEAST_SESSIONS = 20
"""Fewer make no map."""
LEAST_ELSEWHERE = 3
"""Sessions outside of each fold; fewer make no map."""
_PLACES_A_UNIT = 4096
"""Sites within 1/4096 plane unit, 20 m in such a region, are one; others share a fold by chance."""
N_KNOWN = 3
"""Gaussians for powers as in training."""
REACH = 1.2
"""Distance of the outer Gaussians from the middle one in standard deviations of the training
powers: flat enough for a uniform distribution, which ends at 1.73."""
LEAST_SPACING_DB = 0.5
"""Nearer Gaussians are one."""
OTHERWISE = 0.04
"""Share of sessions with powers unlike any in training."""
OTHERWISE_DB = 15.0
"""Standard deviation of their power."""
_ROUNDS = 60
"""Steps of expectation and maximisation."""


@dataclass(frozen=True, slots=True)
class TransmitPowers:
    """Distribution of transmit powers: a mixture of Gaussians, in dB of the mean power.

    Powers are almost uniform between two limits, which three Gaussians fit, with shares learned
    from training sessions. A wide one covers any power; otherwise the position would have to
    explain why a transmitter is twenty decibels weaker than all of training.

    Source of the fit: A. P. Dempster, N. M. Laird and D. B. Rubin, "Maximum likelihood from
    incomplete data via the EM algorithm", J. Royal Statistical Society B 39 (1977).
    """

    offset_db: NDArray[np.float64]
    """`(N_KNOWN + 1,)`, the wide one last."""
    variance: NDArray[np.float64]
    """The same shape, dB^2."""
    share: NDArray[np.float64]
    """The same shape; they add up to one."""

    @classmethod
    def spaced(cls, power_variance: float) -> TransmitPowers:
        """Equal shares, for powers of that variance in dB^2."""
        spread = max(float(np.sqrt(power_variance)), LEAST_SPACING_DB * (N_KNOWN - 1) / 2 / REACH)
        known = np.linspace(-REACH * spread, REACH * spread, N_KNOWN)
        spacing = known[1] - known[0]
        return cls(
            np.append(known, 0.0),
            np.append(np.full(N_KNOWN, (spacing / 2) ** 2), OTHERWISE_DB**2 + power_variance),
            np.append(np.full(N_KNOWN, (1 - OTHERWISE) / N_KNOWN), OTHERWISE),
        )

    def fitted(
        self,
        residual_db: NDArray[np.float64],
        present: NDArray[np.bool_],
        own_variance: NDArray[np.float64],
        common_variance: NDArray[np.float64],
    ) -> TransmitPowers:
        """The same with the likeliest shares, but for the wide one's.

        Args:
            residual_db: Levels less the map's at the transmitter's place, `(n, receivers)`, of
                sessions that the map was made without.
            present: The same shape.
            own_variance: Of each receiver's deviation, `(n,)` in dB^2.
            common_variance: Of the deviation that all share, without power, `(n,)` in dB^2.
        """
        heard = present.any(axis=1)
        count = present.sum(axis=1)[heard]
        # Of the levels only their mean depends on the power.
        mean = (np.where(present, residual_db, 0.0).sum(axis=1)[heard] / count)[:, None]
        noise = (own_variance[heard] / count + common_variance[heard])[:, None]
        spread = noise + self.variance[:-1]
        density = np.exp(-0.5 * (mean - self.offset_db[:-1]) ** 2 / spread) / np.sqrt(spread)
        density = np.maximum(density, np.finfo(np.float64).tiny)
        share = np.full(N_KNOWN, 1 / N_KNOWN)
        for _ in range(_ROUNDS):
            belongs = density * share
            share = (belongs / belongs.sum(axis=1, keepdims=True)).mean(axis=0)
        return replace(self, share=np.append(share * (1 - OTHERWISE), OTHERWISE))


@dataclass(frozen=True, slots=True)
class LearnedLevels:
    """The map of all sessions, then one without each fold; levels in dB, places in plane units."""

    noise: NDArray[np.float64]
    """Noise power of each receiver, `(receivers,)`; zero of one that was never heard."""
    grid: Grid
    mean_db: NDArray[np.float64]
    """`(1 + folds, receivers, cells)`: expected levels at the mean transmit power."""
    own_variance: NDArray[np.float64]
    """`(1 + folds, cells)` in dB^2: of a level by itself."""
    common_variance: NDArray[np.float64]
    """`(1 + folds, cells)` in dB^2: of all levels of a session together, without power."""
    powers: TransmitPowers


def levels_of(sessions: Iterable[Mapping[str, Any]], region: Region) -> LearnedLevels | None:
    """Maps of sessions with `features` and `position_deg`; None if there are too few.

    Too few are fewer than 20 in which a receiver heard something, or fewer than 3 outside of one
    fold, as when all are of one site. Features are read one session at a time and not kept.

    Raises:
        ModelError: If features have another shape, or a position is not on Earth.
    """
    powers, positions = [], []
    for session in sessions:
        powers.append(ReceivedPower.of(np.asarray(session["features"])[None]))
        positions.append(np.asarray(session["position_deg"], dtype=np.float64))
    heard = np.array([each.present.any() for each in powers], dtype=bool)
    if heard.sum() < LEAST_SESSIONS:
        return None
    position_deg = np.stack(positions)
    fold = folds_of(region.to_plane(position_deg[heard]).astype(np.float32))
    if len(fold) - np.bincount(fold).max() < LEAST_ELSEWHERE:
        return None
    return learned_levels(ReceivedPower.joined(powers), position_deg, region)


def learned_levels(
    power: ReceivedPower, position_deg: NDArray[np.float64], region: Region
) -> LearnedLevels:
    """Maps of the levels of sessions, at least `LEAST_SESSIONS`, with transmitters `(n, 2)`.

    Takes half a minute of one core for 6,000 sessions, a second for 600.
    """
    noise = power.noise()
    nowhere = np.tile([region.latitude_deg, region.longitude_deg], (len(noise), 1))
    training = TrainingLevels(
        power.signal_db(noise), power.present & (noise > 0), position_deg, nowhere, region
    )
    training = replace(training, receivers_deg=region.to_degrees(found_receivers(training)))
    grid = Grid.covering(training.places, GRID_SHAPE)
    field = KrigedField.of(training)
    fold = folds_of(training.places.astype(np.float32))
    maps = [_on_grid(field, grid)]
    residual = np.zeros(training.levels_db.shape)
    for number in range(N_FOLDS):
        others = KrigedField.of(training.only(fold != number), field.law)
        maps.append(_on_grid(others, grid))
        mine = fold == number
        if mine.any():  # A few sites leave folds empty.
            residual[mine] = training.levels_db[mine] - others.mean_db(training.places[mine])
    mean, own, common = (np.stack(parts) for parts in zip(*maps, strict=True))
    there = fold + 1, grid.cell_of(training.places)
    powers = TransmitPowers.spaced(field.law.power_variance).fitted(
        residual, training.present, own[there], common[there]
    )
    return LearnedLevels(noise, grid, mean, own, common, powers)


def folds_of(places: NDArray[np.float32]) -> NDArray[np.int64]:
    """Folds of sessions by their transmitters' places `(n, 2)` float32: `(n,)`, from 0.

    Exact in float32, since the factor is a power of two.
    """
    steps = np.floor(places * np.float32(_PLACES_A_UNIT)).astype(np.int64)
    return np.asarray((steps[:, 0] + 3 * steps[:, 1]) % N_FOLDS)


def _on_grid(
    field: KrigedField, grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    own, common = field.variances(grid)
    return field.mean_db(grid.cells).T, own, common - field.law.power_variance
