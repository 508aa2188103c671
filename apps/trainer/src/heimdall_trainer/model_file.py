"""Evaluation of a model file that some earlier run exported."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from heimdall_features import ArrivalExtractor, FeatureExtractor

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.evaluation import EvaluatedModel, evaluate_model
from heimdall_trainer.report import ModelSummary
from heimdall_trainer.run_report import write_report
from heimdall_trainer.training_data import load_training_data

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["evaluate_file", "with_features_of"]


def evaluate_file(
    model: Path, config: TrainingConfig, connections: Connections, report: Path | None = None
) -> tuple[EvaluatedModel, Path]:
    """Evaluate an exported model on the test part of a split, and write its report.

    Receivers and features are the model's own; the split is the configuration's.

    Returns:
        The evaluation, and where the report is.

    Raises:
        TrainerError: The file is no model of ours.
        FeatureError: Its features cannot be computed by this version.
    """
    started = time.monotonic()
    graph = _read(model)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    data = load_training_data(with_features_of(metadata, config), connections)
    evaluated = evaluate_model(model, data)
    page = write_report(
        report or model.with_suffix(".html"),
        data,
        ModelSummary(
            name=model.name, n_parameters=_n_parameters(graph), size_bytes=model.stat().st_size
        ),
        evaluated,
        seed=config.seed,
        timings={"evaluation": time.monotonic() - started},
    )
    return evaluated, page


def with_features_of(metadata: Mapping[str, str], config: TrainingConfig) -> TrainingConfig:
    """A configuration whose data are what a model file says that it takes.

    Raises:
        FeatureError: Its features cannot be computed by this version.
    """
    features = FeatureExtractor.from_metadata(metadata).config
    return replace(
        config,
        receivers=features.receivers,
        sample_rate_hz=features.sample_rate_hz,
        features="mel" if ArrivalExtractor.from_metadata(metadata) is None else "mel+timing",
    )


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise TrainerError(f"no model file can be read at {path}: {error.strerror}") from error
    except DecodeError as error:
        raise TrainerError(f"{path} is not an ONNX file: {error}") from error


def _n_parameters(model: onnx.ModelProto) -> int:
    return sum(math.prod(weights.dims) for weights in model.graph.initializer)
