"""What stands beside a model that takes arrival times: the times alone, and the levels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS
from heimdall_export.onnx_session import open_session
from heimdall_models import error_m
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.ellipses import MOST_CORRELATED

from heimdall_trainer.receiver_sites import receiver_sites
from heimdall_trainer.report import BaselineResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heimdall_data.dataset import Sample
    from numpy.typing import NDArray

    from heimdall_trainer.training_data import TrainingData

__all__ = ["SPECTROGRAMS_ALONE", "TIME_DIFFERENCES", "timing_baselines"]

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
