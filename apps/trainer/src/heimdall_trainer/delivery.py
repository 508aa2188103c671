"""From a checkpoint to a registered model: export, compare, evaluate, upload, register, report.

A file that disagrees with its checkpoint is not evaluated, one that was not evaluated is not
uploaded, and only an uploaded one is registered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data.recordings.clocked import clocked
from heimdall_evaluation.baselines import SPECTROGRAMS_ALONE
from heimdall_evaluation.evaluate import EvaluatedModel, evaluate_model
from heimdall_evaluation.judging import (
    N_CALIBRATED,
    calibration_sample,
    choice_lines,
    choice_metrics,
    judge_of,
)
from heimdall_evaluation.model_file import sigma_bounds_metadata
from heimdall_evaluation.report import ReportContents, render_report
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.graph.card import write_card
from heimdall_export.graph.export import export_onnx
from heimdall_export.graph.parity import check_parity
from heimdall_export.graph.variants import at_precision
from heimdall_export.object_store.upload import upload_model
from heimdall_export.registry.promotion import evaluation_tags
from heimdall_export.registry.registry import register
from heimdall_export.serving.metadata import Receiver
from heimdall_features import ArrivalExtractor, FeatureExtractor
from heimdall_locate import Calibration
from heimdall_models import TimedServingNet
from heimdall_models.trained import Trained
from heimdall_models.training.resume import exported_network

from heimdall_trainer.data import provenance_of
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import tell
from heimdall_trainer.provenance import command_line, package_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from heimdall_data import HeimdallDataset, S3Settings
    from heimdall_evaluation.dataset import Recordings
    from heimdall_evaluation.report import ModelSummary, Part
    from heimdall_export.graph.parity import ParityReport
    from heimdall_export.object_store.upload import UploadedModel
    from heimdall_export.tracking.run import MLflowTracker
    from heimdall_models import EnsembleNet, Region, ServingNet, TimedEnsembleNet
    from heimdall_models.training.fit import TrainedModel
    from numpy.typing import NDArray

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.data import NewSessions, TrainingData

    Network = ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet

N_COMPARED = 64
"""Least number of sessions on which the exported file is compared with the network."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A model file, where it is stored, and its metrics."""

    path: Path
    uri: str
    version: str
    parity: ParityReport
    evaluated: EvaluatedModel
    metrics: Mapping[str, float]
    """Validation and test metrics, by the contract's names."""
    n_parameters: int


def export_and_register(
    trained: TrainedModel,
    data: TrainingData,
    config: TrainingConfig,
    tracker: MLflowTracker,
    s3: S3Settings,
) -> Delivery:
    """Export, check, evaluate, upload and register a checkpoint.

    Raises:
        ModelError: The checkpoint is not one of ours.
        ExportError: The file does not agree with the network, or cannot be stored or registered.
        TrainerError: The model has other receivers than the data.
    """
    opened = Trained.open(trained.checkpoint)
    network = exported_network(opened, data)
    try:
        path, region = export_file(
            network,
            data,
            trained.checkpoint.with_name(f"{tracker.run_name}.onnx"),
            run_id=tracker.run_id,
            opset=config.opset,
            calibration=opened.members[0].calibration,
        )
    except ExportError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise ExportError(
            f"{error}; nothing is lost: with room on the disk, `heimdall train --export_only "
            f"--checkpoint {trained.checkpoint}` exports and registers what was trained"
        ) from error
    features, arrivals = _inputs_to_compare(data)
    parity = check_parity(path, network, features, arrivals=arrivals, scale_m=region.scale_m)
    precisions: Mapping[str, float] = {}
    if config.quantize != "none":
        recorded = data.train.subset(data.train.sessions[:N_CALIBRATED])
        sample, judge = calibration_sample(recorded), judge_of(data.validation)
        choice = at_precision(path, config.quantize, sample, judge)
        for line in choice_lines(choice):
            tell("note", line, said=line)
        path, precisions = choice.chosen.path, choice_metrics(choice)
    trained_on = None if config.export_only else {session.id for session in data.split.train}
    evaluated = evaluate_part(path, data, trained_on=trained_on)
    metrics = {**trained.metrics, **evaluated.metrics}
    card = write_card(path, metrics=metrics, data=_told_of(data))
    uploaded = upload(path, trained, tracker.run_id, {**metrics, **precisions}, s3, card)
    tags = {"onnx_uri": uploaded.uri, "sha256": uploaded.sha256}
    exported = {**precisions, "export/mean_difference": parity.mean_difference}
    tracker.log_metrics({**evaluated.metrics, **exported})
    tested = evaluation_tags(metrics, (session.id for session in data.test.sessions))
    try:
        version = register(
            tracker,
            path,
            model_name=config.model_name,
            tags=tags | tested,
            metrics={**metrics, **exported},
            input_example=features[:1],
        )
    except OutOfReach as error:
        raise OutOfReach(
            f"{error}; nothing is lost: when MLflow is back, `heimdall train --export_only "
            f"--checkpoint {trained.checkpoint}` registers what was trained"
        ) from error
    tracker.set_tags(tags)
    tracker.log_artifact(trained.checkpoint, "checkpoints")
    tracker.log_artifact(card)
    return Delivery(
        path=path,
        uri=uploaded.uri,
        version=version,
        parity=parity,
        evaluated=evaluated,
        metrics=metrics,
        n_parameters=sum(weights.numel() for weights in network.parameters()),
    )


def export_file(
    network: Network,
    data: TrainingData,
    path: Path,
    *,
    run_id: str,
    opset: int,
    calibration: str | None = None,
) -> tuple[Path, Region]:
    """Write the model file of a network in evaluation mode, with the contract's metadata.

    Args:
        network: The network.
        data: Gives receivers and features.
        path: Of the file.
        run_id: MLflow's id of the run; empty without a run.
        opset: ONNX operator set.
        calibration: JSON of the receivers' delays, as a checkpoint keeps it.

    Returns:
        The file, and the network's region, which differs from the data's if it was trained on
        other sessions.
    """
    region = network.levels.region if isinstance(network, TimedServingNet) else network.region
    arrivals = data.train.arrivals
    receivers = [
        {
            "name": station.name,
            "latitude": station.latitude_deg,
            "longitude": station.longitude_deg,
            **({} if arrivals is None else {"altitude": station.altitude_m or 0.0}),
        }
        for station in data.receivers
    ]
    metadata = {
        **FeatureExtractor(data.features).metadata(),
        **({} if arrivals is None else ArrivalExtractor(arrivals).metadata()),
        "heimdall.receivers": json.dumps(receivers),
        "heimdall.region": region.to_json(),
        "heimdall.run_id": run_id,
        "heimdall.created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **sigma_bounds_metadata(network, region.scale_m),
        **({} if calibration is None else Calibration.from_json(calibration).metadata()),
    }
    written = export_onnx(
        network,
        path,
        input_shape=data.features.shape,
        arrivals_shape=None if arrivals is None else data.train[0]["arrivals"].shape,
        metadata=metadata,
        opset=opset,
    )
    return written, region


def _inputs_to_compare(
    data: TrainingData,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Features and arrival times of the validation part, and of others up to 64 sessions."""
    parts = (data.validation, data.test, data.train)
    every = (part[index] for part in parts for index in range(len(part)))
    chosen = list(islice(every, max(N_COMPARED, len(data.validation))))
    features = np.stack([sample["features"] for sample in chosen])
    if data.train.arrivals is None:
        return features, None
    return features, np.stack([sample["arrivals"] for sample in chosen])


def _told_of(data: TrainingData) -> dict[str, object]:
    """Rows about the data, for the card of the model."""
    sides = {"training": data.train, "validation": data.validation, "test": data.test}
    return {
        **{
            f"{name} sessions": f"{len(side)}, of "
            f"{len({session.source_id for session in side.sessions})} transmitters"
            for name, side in sides.items()
        },
        **provenance_of(data),
    }


def upload(
    path: Path,
    trained: TrainedModel,
    run_id: str,
    metrics: Mapping[str, float],
    s3: S3Settings,
    card: Path | None = None,
) -> UploadedModel:
    """Store a model file, its sidecar and its card in the object store.

    Raises:
        ExportError: The store refuses; the message has the command that uploads later.
    """
    try:
        return upload_model(
            s3.client(),
            s3.models_bucket,
            path,
            run_id=run_id,
            metrics=metrics,
            versions=package_versions(),
            card=card,
            make_bucket=True,
        )
    except ExportError as error:
        raise ExportError(
            f"{error} Nothing is lost: the model file is {path}, and `heimdall train "
            f"--export_only --checkpoint {trained.checkpoint}` uploads and registers what was "
            "trained later"
        ) from error


def evaluate_part(
    model: Path,
    data: TrainingData,
    part: Part = "test",
    trained_on: Collection[str] | None = None,
    limits: Mapping[str, float] | None = None,
) -> EvaluatedModel:
    """Evaluate a model file on one side of a split, or on all.

    `trained_on` are ids of the sessions that the model was trained on; None if not known. `limits`
    are by the names of thresholds.

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
        validation=data.validation.subset(data.validation.sessions),
        part=part,
        trained_on=trained_on,
        limits=limits,
    )


def evaluate_new_sessions(
    model: Path,
    data: NewSessions,
    trained_on: Collection[str] | None,
    limits: Mapping[str, float],
) -> EvaluatedModel:
    """Evaluate a model file on new sessions, of which there is one at least.

    There are no baselines from levels, which would need the sessions of a training.

    Raises:
        EvaluationError: The file cannot be served.
    """
    return evaluate_model(
        model,
        data.dataset,
        _recordings(data.dataset),
        receivers=_receivers(data),
        region=data.region,
        part="new",
        trained_on=trained_on,
        limits=limits,
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


def _receivers(data: TrainingData | NewSessions) -> tuple[Receiver, ...]:
    return tuple(
        Receiver(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m or 0.0)
        for s in data.receivers
    )


def write_report(
    path: Path,
    data: TrainingData | NewSessions,
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
        checks=evaluated.checks,
        spectrograms=evaluated.spectrograms,
        provenance=provenance_of(data),
        history=trained.history if trained else (),
        best_epoch=trained.best_epoch if trained else None,
        more_curves=trained.more_curves if trained else (),
        excluded=tuple(excluded),
        rejected_counts=data.not_used,
        split_report=data.described,
        timings=timings,
    )
    return render_report(contents, path)
