"""What methods without a network say of held-out sessions, from the levels of the same features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_models import error_m
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.baselines.levels import LEAST_SESSIONS
from heimdall_models.ellipses import MOST_CORRELATED
from heimdall_models.level_reading import ReceivedPower

from heimdall_trainer.report import BaselineResult

if TYPE_CHECKING:
    from heimdall_data import HeimdallDataset
    from numpy.typing import NDArray

    from heimdall_trainer.training_data import TrainingData

__all__ = ["level_baselines"]

_EXPLANATIONS = {
    "region prior": "Always answers the mean position of the training transmitters.",
    "power-weighted centroid": (
        "Mean of the receivers' positions, weighted by the square root of the power each one heard."
    ),
    "level likelihood, path-loss law": (
        "Where the levels are likeliest under a path-loss law fitted to the training sessions."
    ),
    "nearest neighbours in level": (
        "Mean position of the training sessions whose levels are most alike."
    ),
    "level likelihood, kriged map": (
        "Where the levels are likeliest on maps of them, kriged from the training sessions."
    ),
}


def level_baselines(
    data: TrainingData, asked_about: HeimdallDataset | None = None
) -> tuple[BaselineResult, ...]:
    """Every level baseline, fitted on the training part and asked about others.

    None where the training part is too small to fit anything.

    Args:
        data: The split.
        asked_about: Sessions with the data's features; the test part when None.
    """
    test = data.test if asked_about is None else asked_about
    if len(data.train) < LEAST_SESSIONS:
        return ()
    known, asked = _powers(data.train.subset(data.train.sessions)), _powers(test)
    noise = known.noise()
    training = TrainingLevels(
        known.signal_db(noise),
        known.present,
        np.array([session.position_deg for session in data.train.sessions]),
        np.array([station.position_deg for station in data.receivers]),
        data.region,
    )
    truth_deg = np.array([session.position_deg for session in test.sessions])
    levels_db = asked.signal_db(noise)
    return tuple(
        _result(name, training, levels_db, asked.present, truth_deg) for name in LEVEL_BASELINES
    )


def _result(
    name: str,
    training: TrainingLevels,
    levels_db: NDArray[np.float64],
    present: NDArray[np.bool_],
    truth_deg: NDArray[np.float64],
) -> BaselineResult:
    answer = LEVEL_BASELINES[name](training)(levels_db, present)
    tilt = answer.covariance_m2[:, 0, 1] / answer.sigma_m.prod(axis=1)
    return BaselineResult(
        name=name,
        explanation=_EXPLANATIONS[name],
        error_m=error_m(answer.position_deg, truth_deg),
        position_deg=answer.position_deg,
        sigma_m=answer.sigma_m,
        correlation=np.clip(tilt, -MOST_CORRELATED, MOST_CORRELATED),
    )


def _powers(dataset: HeimdallDataset) -> ReceivedPower:
    """What each receiver of each session heard; features are read one session at a time."""
    return ReceivedPower.joined(
        ReceivedPower.of(dataset[index]["features"][None]) for index in range(len(dataset))
    )
