"""Methods without a network, on the sessions that a model is evaluated on.

Level baselines use the levels in the model's own features. A model that takes times of arrival
is also compared with the times alone, and with itself without times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS
from heimdall_export.session import open_session, run_in_batches
from heimdall_models import error_m
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.calibration import ellipse_factor, shares
from heimdall_models.ellipses import MOST_CORRELATED
from heimdall_models.levels.received_power import LEAST_SESSIONS, ReceivedPower
from heimdall_models.metrics import offset_east_north_m

from heimdall_evaluation.results import BaselineResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heimdall_export.serving.metadata import Receiver
    from heimdall_models import Region
    from heimdall_models.baselines.levels import PositionEstimate
    from heimdall_models.baselines.time_differences import TimedPositions
    from numpy.typing import NDArray

    from heimdall_evaluation.dataset import Dataset, Sample

SPECTROGRAMS_ALONE = "spectrograms alone"
TIME_DIFFERENCES = "time differences, least squares"
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
    training: Dataset,
    dataset: Dataset,
    receivers: Sequence[Receiver],
    region: Region,
    validation: Dataset | None = None,
) -> tuple[BaselineResult, ...]:
    """Fit every level baseline on training sessions without augmentation, and apply it to others.

    Receivers are in channel order. There is no result if there are too few sessions to fit to. On
    validation sessions, if there are any, ellipses are calibrated.
    """
    if len(training) < LEAST_SESSIONS:
        return ()
    known, asked = _received_power(training), _received_power(dataset)
    noise = known.noise()
    levels = TrainingLevels(
        known.signal_db(noise),
        known.present,
        _truths_deg(training),
        np.array([(receiver.latitude_deg, receiver.longitude_deg) for receiver in receivers]),
        region,
    )
    levels_db, truth_deg = asked.signal_db(noise), _truths_deg(dataset)
    held_out = _received_power(validation) if validation is not None and len(validation) else None
    results = []
    for name, fit in LEVEL_BASELINES.items():
        method, explanation = fit(levels), _EXPLANATIONS[name]
        answer = method(levels_db, asked.present)
        if validation is not None and held_out is not None:
            found = method(held_out.signal_db(noise), held_out.present)
            factor, before, after = _calibration(found, _truths_deg(validation))
            answer = answer._replace(covariance_m2=factor * answer.covariance_m2)
            explanation += (
                f" Its ellipses are {np.sqrt(factor):.2f} times as wide as it says, so that of "
                f"{len(validation)} validation sessions they hold {after} %, where they held "
                f"{before} %."
            )
        results.append(_result(name, explanation, answer, truth_deg))
    return tuple(results)


def _calibration(found: PositionEstimate, truth_deg: NDArray[np.float64]) -> tuple[float, str, str]:
    """Factor on covariances, and shares in 68 and 95 % ellipses before and after, in per cent."""
    error_m = offset_east_north_m(found.position_deg, truth_deg)[:, :, None]
    squared = (error_m * np.linalg.solve(found.covariance_m2, error_m)).sum(axis=(1, 2))
    factor = ellipse_factor(squared)
    before, after = (
        " / ".join(f"{100 * share:.0f}" for share in shares(squared / by)) for by in (1.0, factor)
    )
    return factor, before, after


def timing_baselines(
    onnx_path: Path, samples: Sequence[Sample], receivers: Sequence[Receiver], region: Region
) -> tuple[BaselineResult, ...]:
    """The same model without times of arrival, and least squares on the times alone.

    The model file and the samples have times of arrival; receivers are in channel order.
    """
    # Both modules import torch, which no other baseline needs.
    from heimdall_models.baselines.time_differences import locate_by_time_differences
    from heimdall_models.timing.receivers import ReceiverSite

    truth_deg = np.stack([sample["position_deg"] for sample in samples])
    arrivals = np.stack([sample["arrivals"] for sample in samples])
    features = np.stack([sample["features"] for sample in samples])
    without_times = {INPUT: features, ARRIVALS: np.zeros_like(arrivals)}
    answers = run_in_batches(open_session(onnx_path), without_times, batch_size=64, outputs=OUTPUTS)
    position_deg, sigma_m = (answers[name].astype(np.float64) for name in OUTPUTS)
    alone = BaselineResult(
        name=SPECTROGRAMS_ALONE,
        explanation="The same model without times of arrival.",
        error_m=error_m(position_deg, truth_deg),
        position_deg=position_deg,
        sigma_m=sigma_m,
    )
    sites = [ReceiverSite(r.name, r.latitude_deg, r.longitude_deg, r.altitude_m) for r in receivers]
    found = locate_by_time_differences(arrivals, sites, region)
    explanation = (
        "Weighted least squares on the times of arrival, with clocks good to a tenth of a "
        f"microsecond; it converged in {found.converged.mean():.0%} of the sessions."
    )
    return alone, _result(TIME_DIFFERENCES, explanation, found, truth_deg)


def _result(
    name: str,
    explanation: str,
    found: PositionEstimate | TimedPositions,
    truth_deg: NDArray[np.float64],
) -> BaselineResult:
    sigma_m = np.sqrt(np.diagonal(found.covariance_m2, axis1=1, axis2=2))
    correlation = found.covariance_m2[:, 0, 1] / sigma_m.prod(axis=1)
    return BaselineResult(
        name=name,
        explanation=explanation,
        error_m=error_m(found.position_deg, truth_deg),
        position_deg=found.position_deg,
        sigma_m=sigma_m,
        correlation=np.clip(correlation, -MOST_CORRELATED, MOST_CORRELATED),
    )


def _truths_deg(dataset: Dataset) -> NDArray[np.float64]:
    return np.array([session.position_deg for session in dataset.sessions])


def _received_power(dataset: Dataset) -> ReceivedPower:
    """Power by session and receiver; features are read one session at a time."""
    return ReceivedPower.joined(
        ReceivedPower.of(dataset[index]["features"][None]) for index in range(len(dataset))
    )
