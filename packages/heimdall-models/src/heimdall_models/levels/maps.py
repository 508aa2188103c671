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
from heimdall_models.levels.level_map import PRIOR_TRUST, LevelMap, TransmitPowers, Trust
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
N_TRUSTED = 400
"""Sessions that the trust in the maps is found on."""


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
    trust: Trust = PRIOR_TRUST

    def map(self, region: Region, number: int = 0) -> LevelMap:
        """The map of all sessions, or by number that without fold number - 1."""
        return LevelMap(
            region,
            self.grid,
            self.mean_db[number],
            self.own_variance[number],
            self.common_variance[number],
            self.powers,
            self.noise > 0,
            self.trust,
        )


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
    power = ReceivedPower.joined(powers)
    noise = power.noise()
    nowhere = np.tile([region.latitude_deg, region.longitude_deg], (len(noise), 1))
    training = TrainingLevels(
        power.signal_db(noise), power.present & (noise > 0), position_deg, nowhere, region
    )
    training = replace(training, receivers_deg=region.to_degrees(found_receivers(training)))
    return learned_levels(training, Grid.covering(training.places, GRID_SHAPE), noise)


def learned_levels(
    training: TrainingLevels, grid: Grid, noise: NDArray[np.float64]
) -> LearnedLevels:
    """Maps of sessions on a grid, with the noise power of each receiver `(receivers,)`.

    `benchmarks/bench_levels.py --cost` says how long it takes.
    """
    places, up = training.places, training.present
    fold = folds_of(places.astype(np.float32))
    residual = np.zeros(training.levels_db.shape)
    maps = []
    for number, field in enumerate(KrigedField.of_folds(training, fold, N_FOLDS)):
        own, common = field.variances(grid)
        maps.append((field.mean_db(grid.cells).T, own, common - field.law.power_variance))
        mine = fold == number - 1
        if mine.any():  # A few sites leave folds empty.
            residual[mine] = training.levels_db[mine] - field.mean_db(places[mine])
    mean, own, common = (np.stack(parts) for parts in zip(*maps, strict=True))
    there = fold + 1, grid.cell_of(places)
    powers = TransmitPowers.spaced(field.law.power_variance).fitted(
        residual, up, own[there], common[there]
    )
    learned = LearnedLevels(noise, grid, mean, own, common, powers)
    some = training.some_rows(N_TRUSTED)
    judged = [
        (learned.map(training.region, number + 1), some[fold[some] == number])
        for number in range(N_FOLDS)
        if (fold[some] == number).any()
    ]
    return replace(learned, trust=Trust.of(training, judged))


def folds_of(places: NDArray[np.float32]) -> NDArray[np.int64]:
    """Folds of sessions by their transmitters' places `(n, 2)` float32: `(n,)`, from 0.

    Exact in float32, since the factor is a power of two.
    """
    steps = np.floor(places * np.float32(_PLACES_A_UNIT)).astype(np.int64)
    return np.asarray((steps[:, 0] + 3 * steps[:, 1]) % N_FOLDS)
