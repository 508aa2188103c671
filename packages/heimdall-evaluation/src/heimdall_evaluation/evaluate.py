"""One part of the split: what the exported file says of it, and what simple methods say.

The exported file is asked in a process that cannot import torch (`serving_check`), from the IQ
samples on; the baselines get the levels of the very same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.session_features import clocked
from heimdall_models import error_m, localization_metrics
from heimdall_trainer.errors import TrainerError

from heimdall_evaluation.baselines import level_baselines, timing_baselines
from heimdall_evaluation.report import Evaluation, SessionSpectrograms
from heimdall_evaluation.served import predict_without_torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from heimdall_data import HeimdallDataset, Session, Station
    from heimdall_data.batch import Sample
    from heimdall_trainer.data import TrainingData

    from heimdall_evaluation.report import BaselineResult, Part
    from heimdall_evaluation.served import Session as Recordings

__all__ = ["EvaluatedModel", "evaluate_model", "sessions_of_part"]

N_WORST = 10
_PREFIX: dict[Part, str] = {"test": "test", "validation": "val", "train": "train", "all": "all"}


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """What a model file and the baselines are worth on one part of the split."""

    evaluation: Evaluation
    baselines: tuple[BaselineResult, ...]
    metrics: Mapping[str, float]
    """By the contract's names, with `test/`, `val/`, `train/` or `all/` in front."""
    spectrograms: tuple[SessionSpectrograms, ...] = ()
    """What the model was shown of the worst sessions, the worst first."""


def sessions_of_part(data: TrainingData, part: Part) -> HeimdallDataset:
    """The sessions of a side of the split, or of all, as they were recorded.

    Raises:
        TrainerError: There is none.
    """
    sides = (data.train, data.validation, data.test)
    if part == "all":
        return data.train.subset([session for side in sides for session in side.sessions])
    side = sides[("train", "validation", "test").index(part)]
    if not len(side):
        remedy = "lower --test_split" if part == "train" else f"raise --{part}_split"
        raise TrainerError(f"the {part} part of the split is empty; {remedy}")
    # Training features vary as the radio channel does; these are as they were recorded.
    return side.subset(side.sessions)


def evaluate_model(
    onnx_path: Path, data: TrainingData, part: Part = "test", *, trained_here: bool = False
) -> EvaluatedModel:
    """Evaluate a model file on one part of the split.

    Args:
        onnx_path: The model file.
        data: The split.
        part: Which side of it, or all.
        trained_here: The model was trained on this very split.

    Raises:
        TrainerError: The part is empty, or the file cannot be served.
    """
    dataset = sessions_of_part(data, part)
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
        part=part,
        trained_on=_trained_on(data, said.session_ids) if trained_here else None,
    )
    found = localization_metrics(
        evaluation.position_deg, evaluation.sigma_m, truth_deg, said.correlation
    )
    timed = () if dataset.arrivals is None else timing_baselines(onnx_path, data, items)
    return EvaluatedModel(
        evaluation=evaluation,
        baselines=(*timed, *level_baselines(data, dataset)),
        metrics={f"{_PREFIX[part]}/{name}": value for name, value in found.items()},
        spectrograms=_spectrograms(evaluation, items, data.receivers),
    )


def _spectrograms(
    evaluation: Evaluation, items: Sequence[Sample], receivers: Sequence[Station]
) -> tuple[SessionSpectrograms, ...]:
    """Of the worst sessions, in the order of the report's table."""
    worst = np.argsort(-evaluation.error_m, kind="stable")[:N_WORST]
    return tuple(
        SessionSpectrograms(
            session_id=evaluation.session_ids[k],
            receivers=tuple(station.name for station in receivers),
            levels_db=items[k]["features"],
            heard=tuple(bool(heard) for heard in items[k]["present"]),
        )
        for k in worst
    )


def _trained_on(data: TrainingData, session_ids: Sequence[str]) -> tuple[bool, ...]:
    known = {session.id for session in data.split.train}
    return tuple(id_ in known for id_ in session_ids)


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
