"""The machine-readable end of `heimdall evaluate --summary FILE`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from heimdall_trainer.evaluation import EvaluatedModel

__all__ = ["write_evaluation_summary", "write_json"]


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
