"""Evaluation of a model file on one part of a split, and its report."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heimdall_data.session_features import clocked
from heimdall_evaluation.baselines import SPECTROGRAMS_ALONE
from heimdall_evaluation.evaluate import EvaluatedModel, evaluate_model
from heimdall_evaluation.report import ReportContents, render_report
from heimdall_export.serving.metadata import Receiver

from heimdall_trainer.data import provenance_of
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.provenance import command_line, package_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from heimdall_data import HeimdallDataset
    from heimdall_evaluation.dataset import Recordings
    from heimdall_evaluation.report import ModelSummary, Part
    from heimdall_models.training.fit import TrainedModel

    from heimdall_trainer.data import TrainingData


def evaluate_part(
    model: Path, data: TrainingData, part: Part = "test", trained_on: Collection[str] | None = None
) -> EvaluatedModel:
    """Evaluate a model file on one side of a split, or on all.

    `trained_on` are ids of the sessions that the model was trained on; None if not known.

    Raises:
        TrainerError: The part is empty.
        EvaluationError: The file cannot be served.
    """
    dataset = sessions_of_part(data, part)
    return evaluate_model(
        model,
        dataset,
        _recordings(dataset),
        receivers=_receivers(data),
        region=data.region,
        training=data.train.subset(data.train.sessions),  # without augmentation
        part=part,
        trained_on=trained_on,
    )


def sessions_of_part(data: TrainingData, part: Part) -> HeimdallDataset:
    """Return the sessions of a side of the split, or of all, without augmentation.

    Raises:
        TrainerError: There is none.
    """
    sides = {"train": data.train, "validation": data.validation, "test": data.test}
    if part == "all":
        return data.train.subset([s for side in sides.values() for s in side.sessions])
    if not len(sides[part]):
        remedy = "lower --test_split" if part == "train" else f"raise --{part}_split"
        raise TrainerError(f"the {part} part of the split is empty; {remedy}")
    return sides[part].subset(sides[part].sessions)


def _recordings(dataset: HeimdallDataset) -> Iterator[tuple[str, Recordings]]:
    for index, session in enumerate(dataset.sessions):
        recordings = dataset.recordings(index)
        plain = {name: (r.iq, r.sample_rate_hz) for name, r in recordings.items()}
        yield session.id, plain if dataset.arrivals is None else {**plain, **clocked(recordings)}


def _receivers(data: TrainingData) -> tuple[Receiver, ...]:
    return tuple(
        Receiver(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m or 0.0)
        for s in data.receivers
    )


def write_report(
    path: Path,
    data: TrainingData,
    model: ModelSummary,
    evaluated: EvaluatedModel,
    *,
    seed: int,
    timings: Mapping[str, float],
    trained: TrainedModel | None = None,
) -> Path:
    """Write an evaluation's HTML report; `timings` are seconds by stage.

    Where it is the report of a training, `trained` has the curves.

    Raises:
        ReportError: It cannot be written.
    """
    excluded = [(left.session_id, left.reason) for left in data.exclusions]
    excluded += [
        (left.session_id, f"used without {left.station}: {left.reason}") for left in data.unusable
    ]
    contents = ReportContents(
        title=f"Heimdall {path.stem}",
        created_at=datetime.now(UTC),
        command=command_line(),
        seed=seed,
        versions=package_versions(),
        model=model,
        region=data.region,
        receivers=_receivers(data),
        evaluation=evaluated.evaluation,
        baselines=evaluated.baselines,
        map_baseline=SPECTROGRAMS_ALONE,
        metrics=evaluated.metrics,
        spectrograms=evaluated.spectrograms,
        provenance=provenance_of(data),
        history=trained.history if trained else (),
        best_epoch=trained.best_epoch if trained else None,
        more_curves=trained.more_curves if trained else (),
        excluded=tuple(excluded),
        rejected_counts=data.not_used,
        split_report=asdict(data.split.report),
        timings=timings,
    )
    return render_report(contents, path)
