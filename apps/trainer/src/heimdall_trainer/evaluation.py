"""Held-out transmitters: what the exported file says of them, and what simple methods say.

The exported file is asked in a process that cannot import torch (`serving_check`), from the IQ
samples on; the baselines get the levels of the very same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models import error_m, localization_metrics
from heimdall_models.baselines import (
    empirical_sigma_m,
    mean_position,
    power_weighted_centroid,
)

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.report import BaselineResult, Evaluation
from heimdall_trainer.serving_check import predict_without_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from heimdall_data import HeimdallDataset, Session, Station
    from numpy.typing import NDArray

    from heimdall_trainer.serving_check import Session as Recordings
    from heimdall_trainer.training_data import TrainingData

__all__ = ["EvaluatedModel", "evaluate_model", "total_level_db"]


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """What a model file and the baselines are worth on held-out sessions."""

    evaluation: Evaluation
    baselines: tuple[BaselineResult, ...]
    metrics: Mapping[str, float]
    """By the contract's names, with `test/` in front."""


def evaluate_model(onnx_path: Path, data: TrainingData) -> EvaluatedModel:
    """Evaluate a model file on the test part of the split.

    Raises:
        TrainerError: The test part is empty, or the file cannot be served.
    """
    dataset = data.test
    if not len(dataset):
        raise TrainerError("the test part of the split is empty; raise --test_split")
    said = predict_without_torch(onnx_path, _recordings(dataset))
    items = [dataset[index] for index in range(len(dataset))]
    truth_deg = np.stack([item["position_deg"] for item in items])
    present = np.stack([item["present"] for item in items])
    features = np.stack([item["features"] for item in items])
    evaluation = Evaluation(
        session_ids=said.session_ids,
        source_names=tuple(session.source_name for session in dataset.sessions),
        truth_deg=truth_deg,
        position_deg=said.position_deg.astype(np.float64),
        sigma_m=said.sigma_m.astype(np.float64),
        error_m=error_m(said.position_deg.astype(np.float64), truth_deg),
        n_present=present.sum(axis=1),
        snr_db=np.array([_median_snr_db(s, data.receivers) for s in dataset.sessions]),
    )
    found = localization_metrics(evaluation.position_deg, evaluation.sigma_m, truth_deg)
    return EvaluatedModel(
        evaluation=evaluation,
        baselines=_baselines(data, truth_deg, total_level_db(features), present),
        metrics={f"test/{name}": value for name, value in found.items()},
    )


def total_level_db(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of each receiver: mean power over the frames, summed over the mel bands.

    Args:
        features: (n, receivers, n_mels, n_frames), dB relative to full scale.

    Returns:
        (n, receivers), dB relative to full scale.
    """
    power = np.power(10.0, features.astype(np.float64) / 10)
    return np.asarray(10 * np.log10(power.mean(axis=3).sum(axis=2)))


def _recordings(dataset: HeimdallDataset) -> Iterator[tuple[str, Recordings]]:
    for index, session in enumerate(dataset.sessions):
        recordings = dataset.recordings(index)
        yield session.id, {n: (r.iq, r.sample_rate_hz) for n, r in recordings.items()}


def _median_snr_db(session: Session, receivers: Sequence[Station]) -> float:
    names = {station.name for station in receivers}
    known = [
        measurement.snr_db
        for measurement in session.measurements
        if measurement.station in names and measurement.snr_db is not None
    ]
    return float(np.median(known)) if known else float("nan")


def _baselines(
    data: TrainingData,
    truth_deg: NDArray[np.float64],
    levels_db: NDArray[np.float64],
    present: NDArray[np.bool_],
) -> tuple[BaselineResult, ...]:
    trained_on_deg = np.array([session.position_deg for session in data.train.sessions])
    receivers_deg = np.array([station.position_deg for station in data.receivers])
    mean_deg = mean_position(trained_on_deg)
    mean_sigma_m = empirical_sigma_m(mean_deg, trained_on_deg)
    by_power_deg = power_weighted_centroid(levels_db, present, receivers_deg, exponent=1.0)
    by_amplitude_deg = power_weighted_centroid(levels_db, present, receivers_deg, exponent=0.5)
    return (
        BaselineResult(
            name="mean position",
            explanation="Always answers the mean position of the training transmitters.",
            error_m=error_m(np.broadcast_to(mean_deg, truth_deg.shape), truth_deg),
            sigma_m=np.broadcast_to(mean_sigma_m, truth_deg.shape),
        ),
        BaselineResult(
            name="power-weighted centroid",
            explanation="Mean of the receivers' positions, weighted by the power each one heard.",
            error_m=error_m(by_power_deg, truth_deg),
        ),
        BaselineResult(
            name="amplitude-weighted centroid",
            explanation="The same, weighted by the square root of the power.",
            error_m=error_m(by_amplitude_deg, truth_deg),
        ),
    )
