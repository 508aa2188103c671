"""From a checkpoint to a registered model: export, compare, evaluate, upload, register.

The order is the point. A file that does not agree with its checkpoint is never evaluated, one
that was not evaluated is never uploaded, and only what was uploaded is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from heimdall_evaluation.judging import (
    N_CALIBRATED,
    choice_lines,
    choice_metrics,
    choose_precision,
)
from heimdall_evaluation.model_file import sigma_bounds_metadata
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.graph.export import export_onnx
from heimdall_export.graph.parity import check_parity
from heimdall_export.object_store.upload import upload_model
from heimdall_export.registry.promotion import evaluation_tags
from heimdall_export.registry.registry import register
from heimdall_models import TimedServingNet
from heimdall_models.training.events import tell
from heimdall_models.training.resume import exported_network

from heimdall_trainer.evaluated import evaluate_part
from heimdall_trainer.mlflow_run import package_versions
from heimdall_trainer.models import model_metadata
from heimdall_trainer.summary import Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_data import S3Settings
    from heimdall_export.graph.parity import ParityReport
    from heimdall_export.object_store.upload import UploadedModel
    from heimdall_export.tracking.run import MLflowTracker
    from heimdall_models import EnsembleNet, ServingNet, TimedEnsembleNet
    from heimdall_models.training.fit import TrainedModel
    from heimdall_models.training.parts import TrainingData
    from numpy.typing import NDArray

    from heimdall_trainer.config import TrainingConfig

__all__ = ["export_and_register"]


N_COMPARED = 64
"""Real feature tensors that the exported file is compared on, at least."""


def inputs_to_compare(
    data: TrainingData,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Real inputs of the model: the validation part, then what the other parts add up to 64.

    Returns:
        float32 (n, receivers, n_mels, n_frames), n at least 64 where there are as many sessions,
        and their arrival times (n, receivers, 5) where they are measured.
    """
    parts = (data.validation, data.test, data.train)
    every = (part[index] for part in parts for index in range(len(part)))
    wanted = max(N_COMPARED, len(data.validation))
    chosen = [sample for sample, _ in zip(every, range(wanted), strict=False)]
    features = np.stack([sample["features"] for sample in chosen])
    if data.train.arrivals is None:
        return features, None
    return features, np.stack([sample["arrivals"] for sample in chosen])


def export_and_register(
    trained: TrainedModel,
    data: TrainingData,
    config: TrainingConfig,
    tracker: MLflowTracker,
    s3: S3Settings,
) -> Delivery:
    """Make a registered model of a checkpoint.

    Raises:
        ModelError: The checkpoint is not one of ours.
        ExportError: The file is not what was trained, or cannot be stored or registered.
        TrainerError: The model listens to other receivers than the data has.
    """
    network = exported_network(trained.checkpoint, data)
    path, parity, example = _exported(network, trained, data, config, tracker)
    precisions: Mapping[str, float] = {}
    if config.quantize != "none":
        recorded = data.train.subset(data.train.sessions[:N_CALIBRATED])
        choice = choose_precision(path, recorded, data.validation, config.quantize)
        for line in choice_lines(choice):
            tell("note", line, said=line)
        path, precisions = choice.chosen.path, choice_metrics(choice)
    trained_on = None if config.export_only else {session.id for session in data.split.train}
    evaluated = evaluate_part(path, data, trained_on=trained_on)
    metrics = {**trained.metrics, **evaluated.metrics}
    uploaded = _uploaded(path, trained, tracker.run_id, {**metrics, **precisions}, s3)
    tags = {"onnx_uri": uploaded.uri, "sha256": uploaded.sha256}
    tested = evaluation_tags(metrics, (session.id for session in data.test.sessions))
    version = _registered(path, trained, config, tracker, tags | tested, example)
    tracker.log_metrics(
        {**evaluated.metrics, **precisions, "export/mean_difference": parity.mean_difference}
    )
    tracker.set_tags(tags)
    tracker.log_artifact(trained.checkpoint, "checkpoints")
    return Delivery(
        path=path,
        uri=uploaded.uri,
        version=version,
        parity=parity,
        evaluated=evaluated,
        metrics=metrics,
        n_parameters=sum(weights.numel() for weights in network.parameters()),
    )


def _exported(
    network: ServingNet | TimedServingNet | EnsembleNet | TimedEnsembleNet,
    trained: TrainedModel,
    data: TrainingData,
    config: TrainingConfig,
    tracker: MLflowTracker,
) -> tuple[Path, ParityReport, NDArray[np.float32]]:
    """The file, what it was found to differ by, and one of the inputs that told."""
    region = network.levels.region if isinstance(network, TimedServingNet) else network.region
    features, arrivals = inputs_to_compare(data)
    path = export_onnx(
        network,
        trained.checkpoint.with_name(f"{tracker.run_name}.onnx"),
        input_shape=data.features.shape,
        arrivals_shape=None if arrivals is None else arrivals.shape[1:],
        metadata=model_metadata(data, region, tracker.run_id)
        | sigma_bounds_metadata(network, region.scale_m),
        opset=config.opset,
    )
    parity = check_parity(path, network, features, arrivals=arrivals, scale_m=region.scale_m)
    return path, parity, features[:1]


def _uploaded(
    path: Path,
    trained: TrainedModel,
    run_id: str,
    metrics: Mapping[str, float],
    s3: S3Settings,
) -> UploadedModel:
    try:
        return upload_model(
            s3.client(),
            s3.models_bucket,
            path,
            run_id=run_id,
            metrics=metrics,
            versions=package_versions(),
            make_bucket=True,
        )
    except ExportError as error:
        raise ExportError(
            f"{error} Nothing is lost: the model file is {path}, and `heimdall train "
            f"--export_only --checkpoint {trained.checkpoint}` uploads and registers what was "
            "trained later"
        ) from error


def _registered(
    path: Path,
    trained: TrainedModel,
    config: TrainingConfig,
    tracker: MLflowTracker,
    tags: Mapping[str, str],
    example: NDArray[np.float32],
) -> str:
    """The version's number."""
    try:
        return register(
            tracker, path, model_name=config.model_name, tags=tags, input_example=example
        )
    except OutOfReach as error:
        raise OutOfReach(
            f"{error}; nothing is lost: when MLflow is back, `heimdall train --export_only "
            f"--checkpoint {trained.checkpoint}` registers what was trained"
        ) from error
