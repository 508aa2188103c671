"""The machine-readable end of a run: `heimdall train --summary FILE`.

The machine-readable end of `heimdall evaluate --summary FILE`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from heimdall_export.atomic import write_whole

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from heimdall_evaluation.evaluate import EvaluatedModel
    from heimdall_export.graph.parity import ParityReport

    from heimdall_trainer.data import TrainingData

__all__ = [
    "Delivery",
    "RunOutcome",
    "RunSummary",
    "require_writable",
    "write_evaluation_summary",
    "write_json",
    "write_summary",
]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A model file, where it is, and what it is worth."""

    path: Path
    uri: str
    version: str
    parity: ParityReport
    evaluated: EvaluatedModel
    metrics: Mapping[str, float]
    """Validation and test metrics, by the contract's names."""
    n_parameters: int


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything that one run of the pipeline made."""

    summary: RunSummary
    delivery: Delivery
    data: TrainingData
    report: Path
    run_name: str


def write_evaluation_summary(
    path: Path, evaluated: EvaluatedModel, model: str, report: Path
) -> None:
    """Write what was found as JSON, whole or not at all.

    Raises:
        TrainerError: The file cannot be written.
    """
    judged = evaluated.evaluation
    write_json(
        path,
        {
            "model": model,
            "split": judged.part,
            "n_sessions": len(judged),
            "n_sources": len(set(judged.source_names)),
            "n_trained_on": None if judged.trained_on is None else sum(judged.trained_on),
            "metrics": dict(evaluated.metrics),
            "report": str(report),
        },
    )


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    """Write an object as JSON.

    Raises:
        TrainerError: The file cannot be written.
    """
    try:
        write_whole(path, json.dumps(told, indent=2) + "\n")
    except OSError as error:
        raise TrainerError(f"the summary cannot be written to {path}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run made; the fields are the keys of the contract's JSON."""

    run_id: str
    model_version: str
    onnx_uri: str
    onnx_path: str
    checkpoint: str
    metrics: Mapping[str, float]
    elapsed_seconds: float
    excluded_sessions: tuple[Mapping[str, str], ...]
    report: str | None = None


def write_summary(summary: RunSummary, path: Path) -> None:
    """Write the summary as JSON, whole or not at all.

    Raises:
        TrainerError: The file cannot be written.
    """
    text = json.dumps(asdict(summary), indent=2) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise TrainerError(
            f"the summary cannot be written to {path} ({error.strerror}); the run itself is "
            f"complete: MLflow run {summary.run_id}, model {summary.onnx_uri}"
        ) from error


def require_writable(path: Path) -> None:
    """Refuse, before a run, a summary path that cannot be written after it.

    Raises:
        TrainerError: The folder is missing or not writable.
    """
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TrainerError(f"--summary {path}: the folder {folder} is missing or not writable")
