"""What methods without a network say of held-out sessions, from the levels of the same features.

What stands beside a model that takes arrival times: the times alone, and the levels alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS
from heimdall_export.session import open_session
from heimdall_models import error_m
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.ellipses import MOST_CORRELATED
from heimdall_models.levels.estimates import LEAST_SESSIONS
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.timing.receivers import receiver_sites

from heimdall_evaluation.report import BaselineResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heimdall_data import HeimdallDataset
    from heimdall_data.batch import Sample
    from heimdall_trainer.data import TrainingData
    from numpy.typing import NDArray

__all__ = ["SPECTROGRAMS_ALONE", "TIME_DIFFERENCES", "level_baselines", "timing_baselines"]


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


SPECTROGRAMS_ALONE = "spectrograms alone"
TIME_DIFFERENCES = "time differences, least squares"
_BATCH = 64


def timing_baselines(
    onnx_path: Path, data: TrainingData, samples: Sequence[Sample]
) -> tuple[BaselineResult, ...]:
    """The same model without times, and least squares on the times without a model.

    Args:
        onnx_path: The model file, which takes arrival times.
        data: Receivers and region.
        samples: The test part, with its arrivals.
    """
    truth_deg = np.stack([sample["position_deg"] for sample in samples])
    alone = _without_times(onnx_path, samples, truth_deg)
    return alone, _least_squares(data, samples, truth_deg)


def _without_times(
    onnx_path: Path, samples: Sequence[Sample], truth_deg: NDArray[np.float64]
) -> BaselineResult:
    """What the model file says where it is told of no arrival: what levels say."""
    session = open_session(onnx_path)
    parts = []
    for first in range(0, len(samples), _BATCH):
        some = samples[first : first + _BATCH]
        features = np.stack([sample["features"] for sample in some])
        silent = np.zeros_like(np.stack([sample["arrivals"] for sample in some]))
        parts.append(session.run(list(OUTPUTS), {INPUT: features, ARRIVALS: silent}))
    position_deg, sigma_m = (
        np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True)
    )
    return BaselineResult(
        name=SPECTROGRAMS_ALONE,
        explanation="The same model where it is not told when each receiver heard anything.",
        error_m=error_m(position_deg, truth_deg),
        position_deg=position_deg,
        sigma_m=sigma_m,
    )


def _least_squares(
    data: TrainingData, samples: Sequence[Sample], truth_deg: NDArray[np.float64]
) -> BaselineResult:
    arrivals = np.stack([sample["arrivals"] for sample in samples])
    found = locate_by_time_differences(arrivals, receiver_sites(data.receivers), data.region)
    sigma_m = np.sqrt(np.diagonal(found.covariance_m2, axis1=1, axis2=2))
    tilt = found.covariance_m2[:, 0, 1] / sigma_m.prod(axis=1)
    return BaselineResult(
        name=TIME_DIFFERENCES,
        explanation=(
            "Weighted least squares on the times of arrival, with clocks good to a tenth of a "
            f"microsecond; it converged in {found.converged.mean():.0%} of the sessions."
        ),
        error_m=error_m(found.position_deg, truth_deg),
        position_deg=found.position_deg,
        sigma_m=sigma_m,
        correlation=np.clip(tilt, -MOST_CORRELATED, MOST_CORRELATED),
    )
