"""`heimdall evaluate` as a function: any model, any part of a split, and the report of it."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_data.session_features import clocked
from heimdall_evaluation.baselines import SPECTROGRAMS_ALONE
from heimdall_evaluation.evaluate import EvaluatedModel, evaluate_model
from heimdall_evaluation.report import ReportContents, render_report
from heimdall_export.serving.metadata import Receiver

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.mlflow_run import command_line, package_versions, provenance_of
from heimdall_trainer.models import file_name, is_address, opened_model

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from heimdall_data import HeimdallDataset
    from heimdall_evaluation.dataset import Recordings
    from heimdall_evaluation.report import ModelSummary, Part
    from heimdall_models.training.fit import TrainedModel
    from heimdall_models.training.parts import TrainingData

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

__all__ = ["evaluate_file", "evaluate_part", "sessions_of_part", "write_report"]


def evaluate_file(
    model: str | Path,
    config: TrainingConfig,
    connections: Connections,
    report: Path | None = None,
    part: Part = "test",
) -> tuple[EvaluatedModel, Path]:
    """Evaluate a model on a part of a split, and write its report.

    Args:
        model: What `opened_model` takes.
        config: The split; receivers and features are the model's own.
        connections: Where everything is.
        report: Where the page goes; beside the model when None, or, of a model that is no file
            here, among the reports of the state directory.
        part: Which side of the split.

    Returns:
        The evaluation, and where the report is.

    Raises:
        EvaluationError, TrainerError: There is no such model, or the part is empty.
        ExportError: It cannot be fetched, or is not what it must be.
        FeatureError: Its features cannot be computed by this version.
    """
    started = time.monotonic()
    with opened_model(str(model), config, connections) as opened:
        evaluated = evaluate_part(opened.file.path, opened.data, part, opened.trained_on)
        page = write_report(
            report or _beside(str(model), part, connections),
            opened.data,
            opened.file.summary,
            evaluated,
            seed=config.seed,
            timings={"evaluation": time.monotonic() - started},
        )
    return evaluated, page


def evaluate_part(
    onnx_path: Path,
    data: TrainingData,
    part: Part = "test",
    trained_on: Collection[str] | None = None,
) -> EvaluatedModel:
    """Evaluate a model file on one part of a split.

    Args:
        onnx_path: The model file.
        data: The split.
        part: Which side of it, or all.
        trained_on: Ids of the sessions that the model was trained on; None if not known.

    Raises:
        TrainerError: The part is empty.
        EvaluationError: The file cannot be served.
    """
    dataset = sessions_of_part(data, part)
    return evaluate_model(
        onnx_path,
        dataset,
        _recordings(dataset),
        receivers=_receivers(data),
        region=data.region,
        # As they were recorded: augmented features vary as the radio channel does.
        training=data.train.subset(data.train.sessions),
        part=part,
        trained_on=trained_on,
    )


def sessions_of_part(data: TrainingData, part: Part) -> HeimdallDataset:
    """The sessions of a side of the split, or of all, without augmentation.

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
    return side.subset(side.sessions)


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
    """Write an evaluation's HTML report to `path`, with the training's curves where there are any.

    Args:
        path: Where it goes.
        data: Receivers, region and split.
        model: What was evaluated.
        evaluated: What it and the baselines are worth.
        seed: Of the split.
        timings: Seconds by stage.
        trained: The run's training, if this is its report.

    Raises:
        ReportError: It cannot be written.
    """
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
        excluded=_left_out(data),
        rejected_counts=data.not_used,
        split_report=asdict(data.split.report),
        timings=timings,
    )
    return render_report(contents, path)


def _left_out(data: TrainingData) -> tuple[tuple[str, str], ...]:
    """Session ids and reasons: sessions that cannot be used, and what others had to do without."""
    sessions = [(left.session_id, left.reason) for left in data.exclusions]
    recordings = [
        (left.session_id, f"used without {left.station}: {left.reason}") for left in data.unusable
    ]
    return (*sessions, *recordings)


def _beside(model: str, part: Part, connections: Connections) -> Path:
    """No two parts of a split have one page."""
    ending = ".html" if part == "test" else f".{part}.html"
    if is_address(model):
        name = file_name(model).removesuffix(".onnx") + ending
        return connections.state_directory() / "reports" / name
    return Path(model).with_suffix(ending)
