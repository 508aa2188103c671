"""Level likelihood on two kinds of maps, as baselines; see `levels.level_map`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from heimdall_models.levels.grid import Grid
from heimdall_models.levels.level_map import (
    LevelMap,
    PositionEstimate,
    TransmitPowers,
    Trust,
)
from heimdall_models.levels.maps import N_TRUSTED, learned_levels
from heimdall_models.levels.path_loss import PathLossLaw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from heimdall_models.levels.received_power import TrainingLevels

__all__ = ["LevelEstimator", "PositionEstimate", "fit_kriged_map", "fit_path_loss"]

LAW_CELLS = 128
KRIGED_CELLS = 128
"""Cells along the longer side of the training transmitters."""


LevelEstimator: TypeAlias = "Callable[[ArrayLike, ArrayLike], PositionEstimate]"
"""A fitted baseline: positions from levels `(n, receivers)` and presence of the same shape.

Absent receivers weigh nothing. Raises `ModelError` for wrong shapes, or a level that counts and is
not finite.
"""


def fit_path_loss(training: TrainingLevels) -> LevelMap:
    """Level likelihood on the map of the log-distance law."""
    law = PathLossLaw.of(training)
    grid = Grid.of_squares(training.places, LAW_CELLS)
    mean = law.mean_db(grid.cells).T
    n_cells = mean.shape[1]
    level_map = LevelMap(
        training.region,
        grid,
        mean,
        np.full(n_cells, law.variance),
        np.zeros(n_cells),
        TransmitPowers.spaced(law.power_variance),
        np.asarray(training.present.any(axis=0)),
    )
    # A law of a few numbers fits its own sessions no closer than others.
    judged = [(level_map, training.some_rows(N_TRUSTED))]
    return replace(level_map, trust=Trust.of(training, judged))


def fit_kriged_map(training: TrainingLevels) -> LevelMap:
    """Level likelihood on a kriged map, including the uncertainty of the interpolation."""
    grid = Grid.of_squares(training.places, KRIGED_CELLS)
    heard = np.asarray(training.present.any(axis=0), dtype=np.float64)
    return learned_levels(training, grid, heard).map(training.region)
