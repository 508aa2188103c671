"""The machine-readable end of a run: `heimdall train --summary FILE`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["RunSummary", "require_writable", "write_summary"]


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
