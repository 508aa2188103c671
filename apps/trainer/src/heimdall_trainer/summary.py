"""Machine-readable ends of commands: `--summary FILE`."""

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

    from heimdall_trainer.data import TrainingData
    from heimdall_trainer.delivery import Delivery

__all__ = ["RunOutcome", "RunSummary", "require_writable", "write_json", "write_summary"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Results of a run; the fields are the keys of the contract's JSON."""

    run_id: str
    model_version: str
    onnx_uri: str
    onnx_path: str
    checkpoint: str
    metrics: Mapping[str, float]
    elapsed_seconds: float
    excluded_sessions: tuple[Mapping[str, str], ...]
    report: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Everything that one run of the pipeline made."""

    summary: RunSummary
    delivery: Delivery
    data: TrainingData
    report: Path
    run_name: str


def require_writable(path: Path | None) -> None:
    """Refuse, before a run, a summary path that cannot be written after it.

    Raises:
        TrainerError: The folder is missing or not writable.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TrainerError(f"--summary {path}: the folder {folder} is missing or not writable")


def write_json(path: Path, contents: Mapping[str, Any], note: str = "") -> None:
    """Write a summary as JSON, whole or not at all.

    Args:
        path: The file.
        contents: The summary.
        note: What to add to the message of an error.

    Raises:
        TrainerError: The file cannot be written.
    """
    try:
        write_whole(path, json.dumps(contents, indent=2) + "\n")
    except OSError as error:
        raise TrainerError(
            f"the summary cannot be written to {path} ({error.strerror}){note}"
        ) from error


def write_summary(summary: RunSummary, path: Path) -> None:
    """Write the summary of a run, whole or not at all.

    Raises:
        TrainerError: The file cannot be written; the message says where the model is.
    """
    write_json(
        path,
        asdict(summary),
        f"; the run itself is complete: MLflow run {summary.run_id}, model {summary.onnx_uri}",
    )
