"""Held-out transmitters: what the exported file says of them, and what simple methods say.

The exported file is asked in a process that cannot import torch (`serving_check`), from the IQ
samples on; the baselines get the levels of the very same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.session_arrivals import clocked
from heimdall_models import error_m, localization_metrics

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.level_baselines import level_baselines
from heimdall_trainer.report import Evaluation
from heimdall_trainer.serving_check import predict_without_torch
from heimdall_trainer.timing_baselines import timing_baselines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from heimdall_data import HeimdallDataset, Session, Station

    from heimdall_trainer.report import BaselineResult
    from heimdall_trainer.serving_check import Session as Recordings
    from heimdall_trainer.training_data import TrainingData

__all__ = ["EvaluatedModel", "evaluate_model"]


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
    evaluation = Evaluation(
        session_ids=said.session_ids,
        source_names=tuple(session.source_name for session in dataset.sessions),
        truth_deg=truth_deg,
        position_deg=said.position_deg.astype(np.float64),
        sigma_m=said.sigma_m.astype(np.float64),
        error_m=error_m(said.position_deg.astype(np.float64), truth_deg),
        n_present=present.sum(axis=1),
        snr_db=np.array([_median_snr_db(s, data.receivers) for s in dataset.sessions]),
        correlation=said.correlation,
    )
    found = localization_metrics(
        evaluation.position_deg, evaluation.sigma_m, truth_deg, said.correlation
    )
    timed = () if dataset.arrivals is None else timing_baselines(onnx_path, data, items)
    return EvaluatedModel(
        evaluation=evaluation,
        baselines=(*timed, *level_baselines(data)),
        metrics={f"test/{name}": value for name, value in found.items()},
    )


def _recordings(dataset: HeimdallDataset) -> Iterator[tuple[str, Recordings]]:
    for index, session in enumerate(dataset.sessions):
        recordings = dataset.recordings(index)
        plain = {name: (r.iq, r.sample_rate_hz) for name, r in recordings.items()}
        yield session.id, plain if dataset.arrivals is None else {**plain, **clocked(recordings)}


def _median_snr_db(session: Session, receivers: Sequence[Station]) -> float:
    names = {station.name for station in receivers}
    known = [
        measurement.snr_db
        for measurement in session.measurements
        if measurement.station in names and measurement.snr_db is not None
    ]
    return float(np.median(known)) if known else float("nan")
