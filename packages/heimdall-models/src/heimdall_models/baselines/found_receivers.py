"""Where receivers are, told by where they hear transmitters best.

A network is trained on features and positions alone; the path-loss law wants the receivers'
places. They are the places under which the law fits best: nonlinear least squares over them,
with exponent, gains and powers eliminated by linear least squares at each step (variable
projection), from the mean place of the transmitters that each hears loudest.

Source: G. Golub and V. Pereyra, "Separable nonlinear least squares: the variable projection
method and its applications", Inverse Problems 19 (2003).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.baselines.path_loss import PathLossLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_models.baselines.levels import TrainingLevels

N_SESSIONS = 1_000
"""Enough to find receivers to a few hundred metres; the work grows with them."""
_LOUDEST = 0.02
"""Share of a receiver's sessions that the search starts from."""
_FARTHEST = 1.5
"""Plane units from the region's middle, east or north."""


def found_receivers(training: TrainingLevels) -> NDArray[np.float64]:
    """Places of the receivers in plane units, `(receivers, 2)`.

    Args:
        training: Its `receivers_deg` are ignored.
    """
    from scipy.optimize import least_squares

    start = _loudest_places(training)
    some = training.some(N_SESSIONS)
    places, levels, up = some.places, some.levels_db, some.present

    def deviations(receivers: NDArray[np.float64]) -> NDArray[np.float64]:
        law = PathLossLaw.fitted(places, levels, up, receivers.reshape(-1, 2), some.region.scale_m)
        residual = levels - law.mean_db(places)
        counts = np.maximum(up.sum(axis=1, keepdims=True), 1)
        within = residual - np.where(up, residual, 0.0).sum(axis=1, keepdims=True) / counts
        return np.where(up, within, 0.0).reshape(-1)

    found = least_squares(
        deviations,
        np.clip(start, -0.99 * _FARTHEST, 0.99 * _FARTHEST).reshape(-1),
        bounds=(-_FARTHEST, _FARTHEST),
        diff_step=1e-3,
        max_nfev=20,
    )
    places_found: NDArray[np.float64] = found.x.reshape(-1, 2)
    return places_found


def _loudest_places(training: TrainingLevels) -> NDArray[np.float64]:
    """Mean place of the sessions in which each receiver is loudest beside the others."""
    up, levels, places = training.present, training.levels_db, training.places
    others = levels.sum(axis=1) / np.maximum(up.sum(axis=1), 1)
    share = np.where(up, levels - others[:, None], -np.inf)
    count = max(round(_LOUDEST * len(places)), 1)
    return np.stack([places[np.argsort(column)[-count:]].mean(axis=0) for column in share.T])
